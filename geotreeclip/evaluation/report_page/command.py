"""Command line of `eval/report.py`: runs in, one report out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.options import RESAMPLES
from geotreeclip.evaluation.report import describe_run
from geotreeclip.evaluation.report_page import plots
from geotreeclip.evaluation.report_page.embeddings import project, read_embeddings
from geotreeclip.evaluation.report_page.html import html_page
from geotreeclip.evaluation.report_page.insight import area_parts, calibration_parts, place_parts, relatives_parts
from geotreeclip.evaluation.report_page.markdown import markdown_page
from geotreeclip.evaluation.report_page.parts import Cell, Figure, RunList, Section, Table, Text
from geotreeclip.evaluation.report_page.runs import Run, read_runs
from geotreeclip.evaluation.report_page.scenes import Scene, scenes_of
from geotreeclip.evaluation.report_page.scores import difference_parts, score_parts, splits_section
from geotreeclip.evaluation.report_page.style import THEMES

if TYPE_CHECKING:
    import pandas as pd

METHODS = (
    "Every sample counts. A truth that is no candidate is wrong. Ties count as the expected outcome of a fair draw.",
    "Intervals are 95 %: whole spatial blocks are resampled, because neighbours are not independent (block bootstrap, "
    "quantiles expanded for few blocks). Differences are paired over the same samples and blocks.",
    "Macro: the mean over true classes of the mean within each, so that rare species count as much as frequent ones.",
    "Protocol published: species are ranked, and the names of higher ranks are read off the ranked species. Protocol "
    "rolled-up: probabilities of species are summed to the rank first.",
    "Prior: training, as common as in the training data; uniform, all candidates alike. A set drawn by quota is nearer "
    "to the uniform one.",
    "The Bayes ceiling is what the best possible classifier reaches where the truth is known by construction; no "
    "model can pass it but by luck.",
    "A random split lets a model meet the test places' neighbours in training. Blocked splits keep whole blocks apart "
    "and are what a new region should expect.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder, report.json or predictions.parquet of a run")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for index.html, report.md, PNG")
    parser.add_argument("--title", default="Tree species: evaluation", help="heading (%(default)s)")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], metavar="DIR",
        help="packed set of the runs, for country codes and the leak audit; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--embeddings", type=Path, metavar="FILE.npz", help="as eval/embed.py writes; default: those beside the runs"
    )
    parser.add_argument(
        "--areas", type=Path, metavar="table.csv", help="columns class and area: mapped areas, for adjusted accuracy"
    )
    parser.add_argument("--area-unit", default="km\u00b2", help="unit of the areas (%(default)s)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Read the runs, make the report, say where it lies."""
    runs = read_runs(args.runs)
    areas = _areas(args.areas) if args.areas else {}
    embeddings = [args.embeddings] if args.embeddings else [run.embeddings for run in runs if run.embeddings]
    print(f"Reading {len(runs)} runs: {', '.join(run.name for run in runs)}.", flush=True)
    scenes = scenes_of(runs, args.resamples)
    if not scenes:
        raise DataError(f"{', '.join(map(str, args.runs))}: hold no scores and no predictions")
    samples = _samples(args.data)
    sections = [_overview(runs, scenes)]
    side = splits_section(scenes, runs)
    sections += [side] if side else []
    for scene in scenes:
        print(f"  {scene.title}: {len(scene.rows):,} rows, {len(scene.predictions)} predictions", flush=True)
        sections.append(Section(scene.title, score_parts(scene)))
        inner = {
            "Against one another": difference_parts(scene, args.resamples),
            "Calibration": calibration_parts(scene, args.resamples),
            "Errors among relatives": relatives_parts(scene, args.resamples),
            "Where": place_parts(scene, args.resamples, samples),
            "Area": area_parts(scene, areas, args.area_unit) if areas else [],
        }
        sections += [Section(title, parts, 3) for title, parts in inner.items() if parts]
    if areas and not any(section.title == "Area" for section in sections):
        raise ConfigError(f"{args.areas}: names no species, genus, family or leaf type of these runs")
    for path in embeddings:
        if path is not None:
            sections.append(_embedding(path, runs))
    if args.data:
        sections.append(_leaks(args.data, {scene.split for scene in scenes if scene.split}))
    made = describe_run()
    about = f"This page: {made['command']}, {made['created']}."
    sections.append(Section("How the numbers are made", [Text(items=METHODS), Text(about)]))
    lead = (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {datetime.now(UTC):%d %B %Y}. Percent with 95 % intervals."
    )
    page = write_report_page(args.out, args.title, lead, [section for section in sections if section.parts])
    print(f"Page: {page}\nMarkdown: {args.out / 'report.md'}\nPlots: {args.out}/*.png")
    return 0


def write_report_page(out: Path, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Draw the figures and write ``index.html``, ``report.md`` and a PNG (and a dark one) of each; returns the page."""
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    figures = [part for section in sections for part in section.parts if isinstance(part, Figure)]
    images: dict[str, tuple[bytes, bytes]] = {}
    for figure in tqdm(figures, desc="plots", disable=not sys.stderr.isatty()):
        light, dark = (figure.draw(theme) for theme in THEMES)
        images[figure.name] = (light, dark)
        for suffix, image in (("", light), ("-dark", dark)):
            write_atomically(out / f"{figure.name}{suffix}.png", lambda path, image=image: path.write_bytes(image))  # type: ignore[misc]
    for name, text in (
        ("report.md", markdown_page(title, lead, sections)),
        ("index.html", html_page(title, lead, sections, images)),
    ):
        write_atomically(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return out / "index.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/report.py``."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="One report from any number of runs: tables, plots, Markdown and one HTML page."
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _overview(runs: Sequence[Run], scenes: Sequence[Scene]) -> Section:
    notes = [f"{run.name}: {text}" for run in runs for text in (*run.notes, str(run.meta.get("notes") or "")) if text]
    scored = ["; ".join(scene.title for scene in scenes if run in scene.runs) for run in runs]
    note = Text("Model and data are named by the first 12 digits of the SHA-256 of the weights and of the set.")
    return Section("Runs", [RunList(runs, scored), note, *([Text(items=notes)] if notes else [])])


def _embedding(path: Path, runs: Sequence[Run]) -> Section:
    found = read_embeddings(path)
    rank = next((rank for rank in ("family", "genus", "leaf_type", "species") if rank in found.names), None)
    points, rows = project(found.embedding)
    groups = found.names[rank][rows].tolist() if rank else [""] * len(rows)
    caption = (
        f"Embeddings of {len(rows):,} samples by {rank or 'sample'}, t-SNE from principal components. Neighbours are "
        "alike; distances between far groups, and their sizes, mean little."
    )
    sources = [run for run in runs if run.embeddings == path]
    draw = partial(plots.projection, points, groups)
    name = "embeddings-" + "".join(letter if letter.isalnum() else "-" for letter in path.stem)
    title = f"Embeddings, {sources[0].name if sources else path.name}"
    return Section(title, [Figure(name, caption, draw, sources, wide=True)])


def _leaks(folders: Sequence[Path], splits: set[str]) -> Section:
    """The leak audit of the splits that were scored."""
    from geotreeclip.data.packed import PackedDataset
    from geotreeclip.evaluation.leaks import NEAR_KM, audit_split

    body: list[list[Cell]] = []
    near = [f"within {km * 1000:g} m" if km < 1 else f"within {km:g} km" for km in NEAR_KM]
    for folder in folders:
        dataset = PackedDataset(folder)
        for path in sorted((dataset.directory / "splits").glob("*.parquet")):
            if path.stem not in splits:
                continue
            for fold, found in audit_split(dataset, path.stem).items():
                body.append(
                    [
                        f"{folder.resolve().name}, {path.stem}", str(fold), f"{found.test:,}", f"{found.same_id:,}",
                        f"{found.same_place:,}", *(f"{share:.1%}" for share in found.near.values()),
                        f"{found.same_block:.1%}", f"{found.neighbour_top1:.1%}", f"{found.majority_top1:.1%}",
                    ]
                )  # fmt: skip
    head = ["split", "fold", "test", "same id", "same place", *near, "same 100 km block", "nearest label right",
            "most frequent right"]  # fmt: skip
    note = (
        "Test samples with a training or validation sample so near. Nearest label right: how often the label of the "
        "nearest training sample is that of the test sample, which is what place alone gives away."
    )
    return Section("Leak audit", [Table("What test shares with training", head, body, 2, note)] if body else [])


def _samples(folders: Sequence[Path]) -> pd.DataFrame | None:
    if not folders:
        return None
    import pandas as pd

    from geotreeclip.data.packed import PackedDataset

    frames = []
    for folder in folders:
        table = PackedDataset(folder).samples()
        if "country" in table.columns:
            frames.append(table[["sample_id", "country"]])
    return pd.concat(frames, ignore_index=True).drop_duplicates("sample_id") if frames else None


def _areas(path: Path) -> dict[str, float]:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    if not {"class", "area"} <= set(table.columns):
        raise ConfigError(
            f"{path}: areas are a table with the columns class and area; it has {', '.join(table.columns)}"
        )
    if not pd.api.types.is_numeric_dtype(table["area"]) or table["area"].isna().any():
        raise DataError(f"{path}: column area holds something that is no number")
    return dict(zip(table["class"].astype(str), table["area"].astype(float), strict=True))
