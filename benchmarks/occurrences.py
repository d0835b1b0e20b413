"""Cleaning of occurrences at scale: rows a second and peak memory, on a made-up SIMPLE_CSV download.

    python benchmarks/occurrences.py --rows 10000000 --workers 2

The download is made with a seed: tab separated, unquoted, in a zip archive as GBIF sends it, with the defects that the
rules look for. Memory is the largest sum of the resident sets of the command and its workers, seen ten times a second;
pages that they share count for each of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

COLUMNS = (
    "gbifID", "datasetKey", "occurrenceID", "kingdom", "phylum", "class", "order", "family", "genus", "species",
    "infraspecificEpithet", "taxonRank", "scientificName", "verbatimScientificName",
    "verbatimScientificNameAuthorship", "countryCode", "locality", "stateProvince", "occurrenceStatus",
    "individualCount", "publishingOrgKey", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters",
    "coordinatePrecision", "elevation", "elevationAccuracy", "depth", "depthAccuracy", "eventDate", "day", "month",
    "year", "taxonKey", "speciesKey", "basisOfRecord", "institutionCode", "collectionCode", "catalogNumber",
    "recordNumber", "identifiedBy", "dateIdentified", "license", "rightsHolder", "recordedBy", "typeStatus",
    "establishmentMeans", "lastInterpreted", "mediaType", "issue",
)  # fmt: skip
SPECIES = 20_000
QUOTE = "\x01"  # written as a quotation mark, which the writer refuses in unquoted text
PIECE = 250_000
ROOT = Path(__file__).resolve().parents[1]


def syllables(number: int) -> str:
    """A made-up word for a number."""
    word = ""
    for _ in range(4):
        number, part = divmod(number, 60)
        word += "bcdfghklmnrt"[part % 12] + "aeiou"[part // 12]
    return word


def make_download(path: Path, rows: int, seed: int) -> None:
    """Write a zip archive with one table of so many rows."""
    rng = np.random.default_rng(seed)
    genera = [syllables(number * 97 + 5).capitalize() for number in range(SPECIES // 8)]
    species = [f"{genera[number // 8]} {syllables(number * 31 + 7)}us" for number in range(SPECIES)]
    share = 1 / (np.arange(SPECIES) + 20.0)  # long-tailed, as the published set
    edges = np.cumsum(share / share.sum())
    names = pa.array(species)
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("0000001-260101000000000.csv", "w", force_zip64=True) as stream,
    ):
        stream.write("\t".join(COLUMNS).encode() + b"\n")
        for start in range(0, rows, PIECE):
            text = io.BytesIO()
            csv.write_csv(_piece(rng, edges, names, start, min(PIECE, rows - start)), text, options)
            stream.write(text.getvalue().replace(QUOTE.encode(), b'"'))


def _piece(rng: np.random.Generator, edges: Any, names: Any, start: int, count: int) -> pa.Table:
    """Rows with about a third of defects."""
    kind = np.minimum(np.searchsorted(edges, rng.random(count)), SPECIES - 1)
    centre = np.random.default_rng(7).uniform([-120, -40], [140, 60], (SPECIES, 2))
    place = centre[kind] + rng.normal(0, 4, (count, 2))
    place = np.round(np.clip(place, [-180, -90], [180, 90]), 6)
    few = rng.random(count) < 0.04
    place[few] = np.round(place[few], 2)
    place[rng.random(count) < 0.01] = 0
    again = np.flatnonzero(rng.random(count) < 0.08)
    place[again], kind[again] = place[again - 1], kind[again - 1]
    year = rng.integers(2008, 2026, count)
    uncertainty = np.round(rng.lognormal(3.5, 1.8, count)).astype(np.int64).astype(str).astype(object)
    uncertainty[rng.random(count) < 0.25] = ""
    bases = np.array(["HUMAN_OBSERVATION"] * 9 + ["PRESERVED_SPECIMEN"], object)
    issues = np.array(
        ["", "COORDINATE_ROUNDED;GEODETIC_DATUM_ASSUMED_WGS84", "CONTINENT_DERIVED_FROM_COORDINATES"] * 10
        + ["COUNTRY_COORDINATE_MISMATCH"], object,
    )  # fmt: skip
    number = pa.array(np.arange(start, start + count) + 4_000_000_000).cast(pa.string())
    name = names.take(pa.array(kind))
    month, day = rng.integers(1, 13, count), rng.integers(1, 29, count)

    def text(values: Any) -> Any:
        return pa.array(values).cast(pa.string())

    def same(value: str) -> Any:
        return pa.array([value]).take(pa.array(np.zeros(count, np.int32)))

    key = text(kind + 3_000_000)
    columns = dict.fromkeys(COLUMNS, same("")) | {
        "gbifID": number, "datasetKey": same("50c9509d-22c7-4a22-a47d-8c48425ef4a7"),
        "occurrenceID": pc.binary_join_element_wise(same("https://www.example.org/observations/"), number, ""),
        "kingdom": same("Plantae"), "phylum": same("Tracheophyta"), "class": same("Magnoliopsida"),
        "family": pa.array([f"{syllables(n).capitalize()}aceae" for n in range(300)]).take(pa.array(kind // 8 % 300)),
        "genus": pc.list_element(pc.split_pattern(name, " "), 0), "species": name, "taxonRank": same("SPECIES"),
        "scientificName": pc.binary_join_element_wise(name, same("L."), " "), "verbatimScientificName": name,
        "countryCode": pa.array(["US", "DE", "CO", "TW", "AU"]).take(pa.array(kind % 5)),
        "locality": same(f"near {QUOTE}the old mill, 3 km N"), "occurrenceStatus": same("PRESENT"),
        "decimalLongitude": text(place[:, 0]), "decimalLatitude": text(place[:, 1]),
        "coordinateUncertaintyInMeters": pa.array(uncertainty, pa.string()),
        "eventDate": pc.binary_join_element_wise(text(year), text(month), text(day), "-"),
        "day": text(day), "month": text(month), "year": text(year), "taxonKey": key, "speciesKey": key,
        "basisOfRecord": pa.array(bases[rng.integers(0, len(bases), count)], pa.string()),
        "institutionCode": same("iNaturalist"), "collectionCode": same("Observations"), "catalogNumber": number,
        "license": same("CC_BY_NC_4_0"), "recordedBy": same("somebody"), "rightsHolder": same("somebody"),
        "lastInterpreted": same("2025-01-25T05:54:49.226Z"), "mediaType": same("StillImage"),
        "issue": pa.array(issues[rng.integers(0, len(issues), count)], pa.string()),
    }  # fmt: skip
    return pa.table({name: columns[name] for name in COLUMNS})


def resident(root: int) -> int:
    """Bytes of the resident sets of a process and all beneath it."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            sizes[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):  # ended meanwhile
            continue
        parents[int(entry.name)] = int(fields[1])
    total = 0
    for process in sizes:
        above = process
        while above and above != root:
            above = parents.get(above, 0)
        total += sizes[process] if above == root else 0
    return total


def measure(rows: int, workers: int, out: Path, seed: int = 0) -> dict[str, Any]:
    """Make a download of so many rows, clean it with the command, and measure.

    Args:
        rows: Of the table.
        workers: Processes that clean.
        out: Folder to work in; the download and the result are removed.
        seed: Of the random numbers.

    Returns:
        rows, workers, the size of the download, seconds, rows a second, seconds of processors (which depend less on
        what else the machine does), the peak of resident memory in bytes, and how many rows were kept and refused.
    """
    out.mkdir(parents=True, exist_ok=True)
    download, result = out / "download.zip", out / "clean"
    make_download(download, rows, seed)
    command = [
        sys.executable, str(ROOT / "data_prep/occurrences.py"), str(download), "--out", str(result), "--workers",
        str(workers),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        with (
            (out / "log.txt").open("w") as log,
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process,
        ):
            peak = 0
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                time.sleep(0.1)
        seconds = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        if process.returncode:
            raise SystemExit((out / "log.txt").read_text())
        with zipfile.ZipFile(download) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        report = json.loads((result / "report.json").read_text())
        return {
            "rows": rows, "workers": workers, "zip_bytes": download.stat().st_size, "text_bytes": size,
            "seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), "cpu_seconds": round(busy, 2),
            "peak_bytes": peak, "kept": report["kept"], "refused": report["refused"],
        }  # fmt: skip
    finally:
        download.unlink(missing_ok=True)
        shutil.rmtree(result, ignore_errors=True)


def main() -> int:
    """Runs the benchmark and prints the numbers."""
    parser = argparse.ArgumentParser(description="Cleaning of occurrences: rows a second and peak memory.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        numbers = measure(args.rows, args.workers, Path(folder), args.seed)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, pyarrow {pa.__version__}")
    print(
        f"{numbers['rows']:,} rows ({numbers['text_bytes'] / 1e9:.2f} GB of text) with {numbers['workers']} workers "
        f"in {numbers['seconds']:.0f} s: {numbers['rows_per_second']:,} rows/s, "
        f"{numbers['cpu_seconds']:.0f} s of processors, peak {numbers['peak_bytes'] / 1e9:.2f} GB; "
        f"kept {numbers['kept']:,}, refused {numbers['refused']:,}"
    )
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
