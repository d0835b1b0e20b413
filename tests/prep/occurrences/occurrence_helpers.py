"""Small downloads of made-up records."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pandas as pd

from geotreeclip.prep.occurrences.job import Job, clean_occurrences
from geotreeclip.prep.occurrences.rules import RuleOptions

REAL = Path(os.environ.get("GEOTREECLIP_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

GOOD = {
    "gbifID": "1", "kingdom": "Plantae", "family": "Fagaceae", "genus": "Quercus", "species": "Quercus robur",
    "taxonRank": "SPECIES", "scientificName": "Quercus robur L.", "countryCode": "DE", "locality": 'the "old" oak',
    "occurrenceStatus": "PRESENT", "decimalLatitude": "51.12345", "decimalLongitude": "9.54321",
    "coordinateUncertaintyInMeters": "10.0", "eventDate": "2020-06-05", "day": "5", "month": "6", "year": "2020",
    "taxonKey": "2878688", "speciesKey": "2878688", "basisOfRecord": "HUMAN_OBSERVATION", "datasetKey": "set-1",
    "issue": "",
}  # fmt: skip


def records(*changes: dict[str, str]) -> list[dict[str, str]]:
    """Good records with changes; ids and places differ unless a change says otherwise."""
    return [
        GOOD | {"gbifID": str(100 + number), "decimalLatitude": f"51.{12345 + 7 * number}"} | change
        for number, change in enumerate(changes)
    ]


def text(rows: list[dict[str, str]], separator: str = "\t", header: bool = True) -> str:
    """Rows as unquoted text."""
    columns = list(rows[0])
    lines = [separator.join(columns)] if header else []
    return "\n".join([*lines, *(separator.join(row.get(name, "") for name in columns) for row in rows)]) + "\n"


def simple_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """A SIMPLE_CSV download."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0001.csv", text(rows))
    return path


def archive(path: Path, files: dict[str, str | bytes]) -> Path:
    """A zip archive."""
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def meta(columns: list[str], *, core: str = "", fields: str = "", after: str = "") -> str:
    """A `meta.xml` for `occurrence.txt` with a header line."""
    listed = "".join(
        f'<field index="{place}" term="http://rs.tdwg.org/dwc/terms/{name}"/>' for place, name in enumerate(columns)
    )
    core = core or (
        'encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1" '
        'rowType="http://rs.tdwg.org/dwc/terms/Occurrence"'
    )
    return (
        f'<archive xmlns="http://rs.tdwg.org/dwc/text/"><core {core}><files><location>occurrence.txt</location></files>'
        f'<id index="0"/>{fields}{listed}</core>{after}</archive>'
    )


def clean(out: Path, *inputs: Path, rules: RuleOptions | None = None, **more):
    """Clean without words; returns the report, what was kept and what was refused."""
    job = Job(tuple(inputs), out, rules or RuleOptions(), progress=False, retries=0, **more)
    report = clean_occurrences(job, say=lambda _: None)
    return report, pd.read_parquet(out / "occurrences.parquet"), pd.read_parquet(out / "refused.parquet")


def reasons(refused: pd.DataFrame) -> dict[str, str]:
    """Reason by sample id."""
    return dict(zip(refused["sample_id"], refused["reason"], strict=True))


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A table as Parquet."""
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()
