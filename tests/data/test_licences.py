"""Licences in one spelling; what allows commercial use is never guessed."""

from __future__ import annotations

import pandas as pd
import pytest

from geotreeclip.data.licences import count_rights, is_commercial, licence_code, sum_counts, write_datasets


@pytest.mark.parametrize(
    ("text", "code", "commercial"),
    [
        ("CC0_1_0", "CC0_1_0", True),
        ("CC_BY_4_0", "CC_BY_4_0", True),
        ("CC_BY_NC_4_0", "CC_BY_NC_4_0", False),
        ("http://creativecommons.org/publicdomain/zero/1.0/legalcode", "CC0_1_0", True),
        ("http://creativecommons.org/licenses/by/4.0/legalcode", "CC_BY_4_0", True),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC_BY_NC_4_0", False),
        ("http://creativecommons.org/licenses/by-nc-sa/3.0", "CC_BY_NC_SA_3_0", False),
        ("http://creativecommons.org/licenses/by-sa/3.0/", "CC_BY_SA_3_0", True),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "PDM_1_0", True),
        ("CC BY-NC 4.0", "CC_BY_NC_4_0", False),
        ("CC-BY", "CC_BY", True),
        ("cc0", "CC0_1_0", True),
        ("This work is licensed under CC BY 4.0", "CC_BY_4_0", True),
        ("", "", False),
        (" UNSPECIFIED ", "", False),
        ("unsupported", "", False),
        ("All rights reserved", "ALL_RIGHTS_RESERVED", False),
        ("http://www.canadensys.net/norms", "HTTP_WWW_CANADENSYS_NET_NORMS", False),
        ("not for commercial use by anyone", "NOT_FOR_COMMERCIAL_USE_BY_ANYONE", False),
        ("CC_BY_NC", "CC_BY_NC", False),
    ],
)
def test_codes(text, code, commercial):
    assert licence_code(text) == code
    assert licence_code(code) == code
    assert is_commercial(code) is commercial


def test_counts(tmp_path):
    table = pd.DataFrame({"license": ["CC0_1_0", None, "CC_BY_4_0", "CC0_1_0", ""], "dataset_key": list("bbaca")})
    licences, datasets = count_rights(table)
    assert list(licences.items()) == [("CC0_1_0", 2), ("not stated", 2), ("CC_BY_4_0", 1)]
    assert list(datasets.items()) == [("a", 2), ("b", 2), ("c", 1)]
    assert count_rights(table[[]]) == ({}, {})
    assert list(sum_counts([{"a": 1, "b": 2}, {"a": 4}]).items()) == [("a", 5), ("b", 2)]
    write_datasets(tmp_path / "datasets.csv", {"a": 5, "not stated": 9, "b": 2})
    assert (tmp_path / "datasets.csv").read_text() == "datasetKey,count\na,5\nb,2\n"
