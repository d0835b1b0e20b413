"""What a file is, and how it is read: archives, downloads, tables, and what is broken."""

from __future__ import annotations

import gzip
import os

import pandas as pd
import pytest
from occurrence_helpers import GOOD, archive, clean, meta, parquet_bytes, records, simple_csv, text

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.occurrences.sources import ReadingOptions, find_sources
from geotreeclip.prep.occurrences.tables import read_batches

ROWS = records({}, {"species": "Quercus petraea", "speciesKey": "2880", "taxonKey": "2880"}, {"year": "1990"})
COLUMNS = list(GOOD)


def ids(path, options=None):
    """Ids in the order read, and the numbers of their rows."""
    (source,) = find_sources([path], options)
    found = {}
    for batch in read_batches(source):
        for number, name in zip(batch.rows.tolist(), batch.columns["id"][0].to_pylist(), strict=True):
            found[number] = name.decode() if isinstance(name, bytes) else name
    return found


def test_one_download_in_every_form_is_the_same(tmp_path):
    frame = pd.DataFrame(ROWS)
    typed = frame.rename(columns=str.lower).astype(
        {"decimallatitude": float, "decimallongitude": float, "year": "Int32", "gbifid": "int64"}
    )
    typed["issue"] = [["A", "B"]] * len(typed)
    simple_csv(tmp_path / "a.zip", ROWS)
    (tmp_path / "b.csv").write_text(text(ROWS))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(text(ROWS).encode()))
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf" + text(ROWS).replace("\n", "\r\n").encode())
    frame.to_csv(tmp_path / "e.csv", index=False)
    frame.to_csv(tmp_path / "f.csv", index=False, sep=";", quoting=1)
    frame.to_csv(tmp_path / "g.tsv", index=False, sep="\t", quoting=1)  # quoted, as its header shows
    typed.to_parquet(tmp_path / "h.parquet")
    (tmp_path / "occurrence.parquet").mkdir()
    typed.to_parquet(tmp_path / "occurrence.parquet" / "000000")
    archive(tmp_path / "i.zip", {"occurrence.parquet/000000": parquet_bytes(typed)})
    archive(tmp_path / "j.zip", {"meta.xml": meta(COLUMNS), "occurrence.txt": text(ROWS), "verbatim.txt": "x"})
    archive(tmp_path / "k.zip", {"top/meta.xml": "\n " + meta(COLUMNS), "top/occurrence.txt": text(ROWS),
                                 "__MACOSX/top/._meta.xml": b"\0"})  # fmt: skip
    archive(tmp_path / "l.zip", {"occurrence.txt": text(ROWS), "verbatim.txt": "x", "multimedia.txt": "y"})
    (tmp_path / "m").mkdir()
    (tmp_path / "m/meta.xml").write_text(meta(COLUMNS))
    (tmp_path / "m/occurrence.txt").write_text(text(ROWS))
    paths = [path for path in sorted(tmp_path.iterdir()) if path.name != "results"]
    assert len(paths) == 14
    expected = None
    for path in paths:
        report, kept, refused = clean(tmp_path / "results" / path.name, path)
        assert (report.kept, report.refused) == (1, 2), path
        found = kept.to_csv() + refused.drop(columns=["file", "row"]).to_csv()
        expected = expected or found
        assert found == expected, path


def test_a_double_quote_is_an_ordinary_character_in_simple_csv(tmp_path):
    rows = records({"locality": '"unclosed'}, {"locality": 'a "quoted" word'}, {"species": '"Quercus robur"'})
    (tmp_path / "a.csv").write_text(text(rows))
    assert list(ids(tmp_path / "a.csv").values()) == ["100", "101", "102"]


def test_quoted_text_holds_separators_and_line_ends(tmp_path):
    rows = records({"locality": "one, two\nthree"}, {})
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    assert ids(tmp_path / "a.csv") == {2: "100", 3: "101"}


def test_ragged_rows_are_refused_with_their_line_and_never_lost(tmp_path):
    lines = text(records(*[{}] * 6)).splitlines()
    lines[2] = "only\ttwo"
    lines[5] += "\tone more"
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n\n")
    report, kept, refused = clean(tmp_path / "out", tmp_path / "a.csv")
    assert sorted(kept["sample_id"]) == ["100", "102", "103", "105"]
    found = refused.set_index("row")
    assert report.read == 7
    assert found.loc[3, "reason"] == found.loc[6, "reason"] == "readable"
    assert found.loc[3, "value"] == f"2 fields, {len(COLUMNS)} expected: only\ttwo"
    assert found.loc[8, "reason"] == "coordinates"  # the empty line at the end
    assert list(refused["sample_id"]) == [f"a-{row}" for row in refused["row"]]


def test_line_numbers_hold_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("geotreeclip.prep.occurrences.tables.BLOCK_BYTES", 3000)
    lines = text(records(*[{}] * 60)).splitlines()
    for line in (4, 5, 30, 59):
        lines[line] = "broken"
    (tmp_path / "a.csv").write_text("\n".join(lines))
    _, kept, refused = clean(tmp_path / "out", tmp_path / "a.csv", chunk_rows=10)
    assert sorted(refused["row"]) == [5, 6, 31, 60]
    assert sorted(kept["sample_id"].astype(int)) == [
        number for number in range(100, 160) if number - 98 not in (5, 6, 31, 60)
    ]


def test_bytes_that_are_no_text_are_refused_by_row(tmp_path):
    rows = records({"species": "Quercus robur@"}, {}, {"datasetKey": "caf@"}, {"gbifID": "1#3"})
    ragged = "caf@\tx\n"
    (tmp_path / "a.csv").write_bytes((text(rows) + ragged).encode().replace(b"@", b"\xe9").replace(b"#", b"\0"))
    _, kept, refused = clean(tmp_path / "out", tmp_path / "a.csv")
    assert list(kept["sample_id"]) == ["101"]
    assert set(refused["reason"]) == {"readable"}
    assert "not UTF-8 in species" in refused.set_index("row").loc[2, "value"]
    assert refused.set_index("row").loc[6, "value"].endswith("expected: caf\ufffd\tx")
    assert "NUL byte in id" in refused.set_index("row").loc[5, "value"]
    _, kept, _ = clean(tmp_path / "latin", tmp_path / "a.csv", reading=ReadingOptions(encoding="latin-1"))
    assert "café" in set(kept["source"])


def test_characters_are_whole_across_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("geotreeclip.prep.occurrences.tables.BLOCK_BYTES", 1500)
    rows = records(*({"datasetKey": "\u00e9\u6f22\U0001f333" * (number % 7 + 1)} for number in range(60)))
    (tmp_path / "a.csv").write_text(text(rows))
    report, kept, _ = clean(tmp_path / "out", tmp_path / "a.csv")
    assert report.kept == 60
    assert set(kept["source"]) == {row["datasetKey"] for row in rows}


def test_a_meta_with_defaults_other_separators_and_no_header(tmp_path):
    rows = records({"datasetKey": ""}, {"basisOfRecord": "FOSSIL_SPECIMEN"})
    core = (
        'encoding="ISO-8859-1" fieldsTerminatedBy="|" linesTerminatedBy="\\n" fieldsEnclosedBy="" '
        'ignoreHeaderLines="0" rowType="http://rs.tdwg.org/dwc/terms/Occurrence"'
    )
    fields = '<field default="set-é" term="http://rs.tdwg.org/dwc/terms/datasetName"/>'
    extension = "<extension><files><location>more.txt</location></files></extension>"
    path = archive(
        tmp_path / "a.zip",
        {"meta.xml": meta(COLUMNS, core=core, fields=fields, after=extension).encode(),
         "occurrence.txt": text(rows, "|", header=False).encode("latin-1"), "more.txt": "x"},
    )  # fmt: skip
    report, kept, refused = clean(tmp_path / "out", path)
    assert list(kept["source"]) == ["set-é"]
    assert list(refused["reason"]) == ["basis"]
    assert report.tables[0]["notes"] == ["extension more.txt is not read", "no header line; columns by meta.xml"]


BROKEN = {
    "empty": ({"a.csv": ""}, "is empty"),
    "blank": ({"a.csv": "\n\n"}, "is empty"),
    "blank first": ({"a.csv": "\n" + text(ROWS)}, "begins with an empty line"),
    "header only": ({"a.csv": text(ROWS).splitlines()[0] + "\n"}, "no rows"),
    "no coordinates": ({"a.csv": "gbifID\tspecies\n1\tQuercus robur\n"}, "lacks longitude .* and latitude"),
    "no names": ({"a.csv": "gbifID\tlongitude\tlatitude\n1\t2\t3\n"}, "lacks a species name"),
    "utf-16": ({"a.csv": text(ROWS).encode("utf-16")}, "UTF-16"),
    "binary": ({"a.csv": b"\x01\0\x02\0\n"}, "no text table"),
    "latin header": ({"a.csv": "gbifID\tl\xe9\n".encode("latin-1")}, "not utf-8.*--encoding"),
    "bzip2": ({"a.csv": b"BZh91AY"}, "bzip2"),
    "no zip": ({"a.zip": "text"}, "no zip file in spite of its name"),
    "cut parquet": ({"a.parquet": b"PAR1xxxxxxxx"}, "cannot be read as Parquet"),
    "zip of nothing": ({"a.zip": b"PK\x05\x06" + bytes(18)}, "holds? nothing|nothing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_end_in_a_clear_message_and_nothing_written(case, tmp_path):
    files, message = BROKEN[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        clean(tmp_path / "out", *(tmp_path / name for name in files))
    written = [path.name for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")]
    assert written == []


BROKEN_ARCHIVES = {
    "no table": ({"readme.md": "x"}, "no meta.xml, no occurrence.txt and not one table"),
    "two tables": ({"a.csv": text(ROWS), "b.csv": text(ROWS)}, "not one table"),
    "no xml": ({"meta.xml": "<archive", "occurrence.txt": text(ROWS)}, "no valid XML"),
    "entities": ({"meta.xml": "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "occurrence.txt": "x"}, "entities"),
    "no core": ({"meta.xml": "<archive/>", "occurrence.txt": text(ROWS)}, "no <core>"),
    "a checklist": (
        {"meta.xml": meta(COLUMNS).replace("terms/Occurrence", "terms/Taxon"), "occurrence.txt": text(ROWS)},
        "holds Taxon, not occurrences",
    ),
    "lost file": ({"meta.xml": meta(COLUMNS)}, "does not hold"),
    "outside": ({"meta.xml": meta(COLUMNS).replace("occurrence.txt", "../../etc/passwd")}, "does not hold"),
    "no such column": ({"meta.xml": meta([*COLUMNS, "more"]), "occurrence.txt": text(ROWS)}, "do not belong together"),
    "no number": ({"meta.xml": meta(COLUMNS).replace('index="3"', 'index="x"'), "occurrence.txt": "x"}, "a number"),
    "odd separator": ({"meta.xml": meta(COLUMNS).replace("\\t", "||"), "occurrence.txt": "x"}, "single characters"),
    "two archives": ({"a/meta.xml": "x", "b/meta.xml": "x"}, "several archives"),
    "odd encoding": ({"meta.xml": meta(COLUMNS).replace("UTF-8", "klingon"), "occurrence.txt": "x"}, "klingon"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_ARCHIVES)
def test_broken_archives_end_in_a_clear_message(case, tmp_path):
    files, message = BROKEN_ARCHIVES[case]
    with pytest.raises(DataError, match=message):
        find_sources([archive(tmp_path / "a.zip", files)])


@pytest.mark.parametrize("packing", ["zip", "gz", "member"])
def test_files_cut_short_are_refused(packing, tmp_path):
    body = text(records(*[{"locality": os.urandom(40).hex()} for _ in range(400)]))
    if packing == "gz":
        path = tmp_path / "a.csv.gz"
        path.write_bytes(gzip.compress(body.encode()))
    else:
        path = archive(tmp_path / "a.zip", {"0001.csv": body})
    content = bytearray(path.read_bytes())
    if packing == "member":
        content[2000:2010] = bytes(10)  # the directory is whole, the member is not: its checksum tells
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.csv\.gz|a\.zip") as caught:
        clean(tmp_path / "out", path)
    assert "complete" in str(caught.value)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_quotes_that_are_not_closed_are_refused(tmp_path):
    frame = pd.DataFrame(records(*[{"locality": "x"}] * 8))
    whole = frame.to_csv(index=False)
    (tmp_path / "middle.csv").write_text(whole.replace("103,Plantae", '103,"Plantae'))
    (tmp_path / "end.csv").write_text(whole.replace(",set-1,\n", ',"set-1,\n', 1))
    (tmp_path / "harmless.csv").write_text(whole.replace("DE,", 'D"E,', 1))
    for name in ("middle", "end"):
        with pytest.raises(DataError, match="quote"):
            clean(tmp_path / name, tmp_path / f"{name}.csv")
    assert clean(tmp_path / "out", tmp_path / "harmless.csv")[0].read == 8


def test_a_row_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("geotreeclip.prep.occurrences.tables.BLOCK_BYTES", 4000)
    frame = pd.DataFrame(records(*[{"locality": "x"}] * 90)).to_csv(index=False)
    (tmp_path / "a.csv").write_text(frame.replace("103,Plantae", '103,"Plantae'))
    with pytest.raises(DataError, match="a quote is opened and never closed"):
        clean(tmp_path / "out", tmp_path / "a.csv")


def test_absent_files_and_impossible_options(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        find_sources([tmp_path / "none.zip"])
    with pytest.raises(DataError, match=r"neither meta\.xml"):
        find_sources([tmp_path])
    simple_csv(tmp_path / "a.zip", ROWS)
    with pytest.raises(DataError, match="given twice"):
        find_sources([tmp_path / "a.zip", tmp_path / "a.zip"])
    for wrong in ({"encoding": "klingon"}, {"separator": "ab"}, {"quote": "x"}):
        with pytest.raises(ConfigError):
            ReadingOptions(**wrong)


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        simple_csv(tmp_path / folder / "a.zip", ROWS)
    assert [source.label for source in find_sources([tmp_path / "x/a.zip", tmp_path / "y/a.zip"])] == ["a", "a#2"]
