"""Licences and whom to cite travel with the records; those not asked for are refused and counted."""

from __future__ import annotations

import pandas as pd
import pytest
from occurrence_helpers import REAL, clean, records, simple_csv

from geotreeclip.prep.occurrences import main
from geotreeclip.prep.occurrences.rules import RuleOptions

KEYS = ("CC0_1_0", "CC_BY_4_0", "CC_BY_NC_4_0", "")


@pytest.fixture
def download(tmp_path):
    rows = records(
        *({"license": licence, "datasetKey": f"set-{place % 2}", "rightsHolder": "A. Nyone"}
          for place, licence in enumerate(KEYS))
    )  # fmt: skip
    return simple_csv(tmp_path / "download.zip", rows)


def test_they_stay_with_the_records(download, tmp_path):
    report, kept, _ = clean(tmp_path / "out", download)
    assert kept.set_index("sample_id")["license"].sort_index().tolist() == list(KEYS)
    assert set(kept["rights_holder"]) == {"A. Nyone"}
    assert report.licences == {"CC0_1_0": 1, "CC_BY_4_0": 1, "CC_BY_NC_4_0": 1, "not stated": 1}
    assert report.datasets == {"set-0": 2, "set-1": 2}
    assert (tmp_path / "out" / "datasets.csv").read_text() == "datasetKey,count\nset-0,2\nset-1,2\n"
    assert "https://www.gbif.org/derived-dataset with datasets.csv (2 data sets" in report.text()
    assert "derived-dataset" in report.markdown()


def test_those_not_asked_for_are_refused_and_counted(download, tmp_path):
    report, kept, refused = clean(tmp_path / "open", download, rules=RuleOptions(exclude_noncommercial=True))
    assert sorted(kept["license"]) == ["CC0_1_0", "CC_BY_4_0"]
    assert sorted(refused["value"]) == ["CC_BY_NC_4_0", "not stated"]
    assert {rule.name: rule.refused for rule in report.rules if rule.refused} == {"license": 2}
    assert (tmp_path / "open" / "datasets.csv").read_text() == "datasetKey,count\nset-0,1\nset-1,1\n"


def test_by_name_on_the_command_line(download, tmp_path, capsys):
    assert main([str(download), "--out", str(tmp_path / "out"), "--licences", "cc-by-nc-4.0,CC0_1_0"]) == 0
    assert sorted(pd.read_parquet(tmp_path / "out" / "occurrences.parquet")["license"]) == ["CC0_1_0", "CC_BY_NC_4_0"]
    assert "licences of the records kept: CC0_1_0 1, CC_BY_NC_4_0 1" in capsys.readouterr().out


def test_sources_without_the_column(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "datasetKey"} for row in records({}, {})]
    report, kept, _ = clean(tmp_path / "all", simple_csv(tmp_path / "plain.zip", rows))
    assert len(kept) == 2
    assert set(kept["license"]) == {""}
    assert report.licences == {"not stated": 2}
    assert report.datasets == {}
    report, kept, _ = clean(tmp_path / "open", tmp_path / "plain.zip", rules=RuleOptions(exclude_noncommercial=True))
    assert len(kept) == 0  # nobody said that they may be used


@pytest.mark.skipif(not (REAL / "gbif").is_dir(), reason="the real GBIF downloads are not here")
def test_real_downloads(tmp_path):
    files = sorted((REAL / "gbif").glob("simplecsv_plants*.zip"))
    report, kept, refused = clean(tmp_path / "out", *files, rules=RuleOptions(exclude_noncommercial=True))
    rule = next(rule for rule in report.rules if rule.name == "license")
    assert rule.alone == 59
    assert set(kept["license"]) <= {"CC_BY_4_0"}
    assert len(kept) + len(refused) == 91
