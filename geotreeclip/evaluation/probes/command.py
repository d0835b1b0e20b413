"""Command line of `eval/probe.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geotreeclip.errors import ConfigError
from geotreeclip.models.config import INPUTS

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.evaluation.probes.recipes.recipe import Recipe
    from geotreeclip.evaluation.probes.sources import Embedding

BLOCK_KM, MIN_SAMPLES = 500.0, 10  # as in geotreeclip.evaluation.probes.run, which is not imported for --help
TASK_NAMES = ("multiclass", "multilabel", "regression")
PROBE_NAMES = ("linear", "ridge", "knn")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/probe.py``."""
    args = _parser().parse_args(argv)
    if args.recipes:
        from geotreeclip.evaluation.probes.recipes.tasks import RECIPES

        print("\n\n".join(recipe.describe() for recipe in RECIPES.values()))
        return 0
    recipe, labels = _read_recipe(args)
    if args.points is not None:
        return _write_points(recipe, labels, args.points)
    if args.out is None or args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    if sum(given is not None for given in (args.embedding, args.model, args.rasters, args.series)) != 1:
        raise ConfigError(
            "give one of --embedding FILE; --model RUN with --data DIR, --table FILE or --patches DIR; with --recipe "
            "also --rasters FILE ... or --series KIND"
        )
    if args.target is None and recipe is None:
        raise ConfigError("name what is asked with --target A,B, or take a --recipe")
    targets = args.target or recipe.targets  # type: ignore[union-attr]
    print(f"Reading {args.embedding or args.model or args.table} ...", flush=True)
    from geotreeclip.evaluation.probes import sources
    from geotreeclip.evaluation.probes.provenance import check_targets
    from geotreeclip.evaluation.probes.run import Options, report_rows, run_probes
    from geotreeclip.evaluation.report import describe_run, write_report

    block_km = args.block_km or (recipe.block_km if recipe else BLOCK_KM)
    min_samples = args.min_samples or (recipe.min_samples if recipe else MIN_SAMPLES)
    options = Options(args.probes, args.folds, block_km, args.buffer_km, args.seed)
    if args.data is not None:
        check_targets(targets, _reads(args.model, args.inputs), force=args.force)  # before hours of work
    embedding, table = _embedding(args, recipe, labels)
    where = str(args.table or args.data or args.embedding)
    marks = check_targets(targets, embedding.saw, force=args.force)
    values, joined = sources.join(embedding, table, where)
    problem = sources.make_problem(
        values, joined, list(targets), args.task or (recipe.task if recipe else None), where,
        min_samples=min_samples, block_km=block_km,
    )  # fmt: skip
    kinds = {"multiclass": "classes", "multilabel": "labels", "regression": "quantities"}
    print(
        f"{len(problem):,} samples, {problem.features.shape[1]} features, {len(problem.names)} {kinds[problem.task]}; "
        f"{problem.task}; {', '.join(options.probes)}; {options.folds} folds at random and in blocks of "
        f"{block_km:g} km."
    )
    for reason, count in problem.left_out.items():
        if count:
            print(f"Left out: {count:,} {reason}.")
    for mark in marks:
        print(f"Marked: {mark}.")
    outcomes = run_probes(problem, options, say=lambda text: print(text, flush=True))
    name = args.name or (recipe.name if recipe else Path(where).stem)
    rows = report_rows(
        problem, outcomes, options, set=name, system=args.system or embedding.name,
        inputs=embedding.inputs + (" (saw the target)" if marks else ""), candidates=", ".join(targets),
    )  # fmt: skip
    meta = describe_run(
        model_fingerprint=embedding.fingerprint,
        embedding_saw=", ".join(embedding.saw) if embedding.saw is not None else "not stated",
        task=problem.task,
        left_out=problem.left_out,
        marked="; ".join(marks) or None,
        settings={f"{o.split} {o.probe}": " | ".join(o.settings) for o in outcomes},
        dropped_for_buffer={o.split: o.dropped for o in outcomes if any(o.dropped)} or None,
        intervals="95 % delete-a-group jackknife over blocks",
        **({} if recipe is None else recipe.account()),
    )
    report, page = write_report(rows, args.out, meta)
    summary = page_of(rows, meta)
    page.write_text(summary, encoding="utf-8")
    print()
    print(summary)
    print(f"Report: {report}\nPage: {page}")
    return 0


def _read_recipe(args: argparse.Namespace) -> tuple[Recipe | None, pd.DataFrame | None]:
    """The recipe that was asked for, and its samples."""
    if args.recipe is None:
        for name in ("points", "rasters", "patches", "series"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} goes with --recipe (--recipes lists them)")
        return None, None
    from geotreeclip.evaluation.probes.recipes.tasks import find_recipe

    recipe = find_recipe(args.recipe)
    if args.table is None:
        raise ConfigError(f"--recipe {recipe.name}: name the file of its labels with --table:\n{recipe.describe()}")
    return recipe, recipe.read(args.table)


def _write_points(recipe: Recipe | None, labels: pd.DataFrame | None, out: Path) -> int:
    """Write the places of a task for the preparation of imagery."""
    from geotreeclip.data.shardfile import write_atomically

    if recipe is None or labels is None:
        raise ConfigError("--points goes with --recipe (--recipes lists them)")
    # Packing asks for a taxon: as for the locations of the whole world, there is none to name.
    columns = labels[["sample_id", "longitude", "latitude"]].assign(leaf_type="unlabelled")
    write_atomically(out, lambda path: columns.to_csv(path, index=False))
    print(
        f"{len(columns):,} places of {recipe.name} written to {out}; imagery for them: "
        f"data_prep/sentinel2.py --occurrences {out}"
    )
    return 0


def _embedding(
    args: argparse.Namespace, recipe: Recipe | None, labels: pd.DataFrame | None
) -> tuple[Embedding, pd.DataFrame | None]:
    """What is probed, and the table that holds the targets where that is another one."""
    from geotreeclip.evaluation.probes import sources

    progress = sys.stderr.isatty()
    table = labels if labels is not None or args.table is None else sources.read_table(args.table)
    if args.embedding is not None:
        return sources.read_embedding(args.embedding, args.saw, args.prefix), table
    if args.data is not None:
        return sources.embed_packed(args.model, args.data, args.inputs, progress=progress), table
    if recipe is None or labels is None:
        if args.table is None:
            raise ConfigError("--model needs --data DIR or --table FILE: what to embed")
        return sources.embed_table(args.model, args.table, args.inputs, args.worldclim), None
    from geotreeclip.evaluation.probes.recipes import features

    if args.rasters is not None:
        return features.raster_features(labels, args.rasters), None
    if args.series is not None:
        return features.series_features(recipe, labels, args.table, args.series, screen=args.screen), None
    if args.patches is None:
        raise ConfigError(
            "--model with --recipe needs imagery: --data DIR (a packed set, see --points) or --patches DIR"
        )
    return features.embed_patches(recipe, labels, args.patches, args.model, progress=progress), None


def page_of(rows: Sequence[dict[str, object]], meta: dict[str, object]) -> str:
    """The page: a table with a line for each probe and score, random beside blocked."""
    pooled = [
        row for row in rows if row["fold"] is None and not str(row["metric"]).endswith(("_gap", "_mean_of_folds"))
    ]
    splits = list(dict.fromkeys(str(row["split"]) for row in pooled))
    first = pooled[0]
    lines = [
        f"# Probe of {first['system']} ({first['inputs']}): {first['candidates']} of {first['set']}",
        "",
        f"{first['n']:,} samples. Pooled over folds; 95 % intervals over blocks in brackets; fractions, not percent.",
        "",
        f"| probe | score | {' | '.join(splits)} | random - blocks |",
        f"| --- | --- | {' | '.join('---:' for _ in splits)} | ---: |",
    ]
    cells = {(row["method"], row["metric"], row["split"]): row for row in rows if row["fold"] is None}
    for method, metric in dict.fromkeys((row["method"], row["metric"]) for row in pooled):
        line = [str(method), str(metric).replace("_", " ")]
        line += [_cell(cells.get((method, metric, split))) for split in splits]
        line.append(_cell(cells.get((method, f"{metric}_gap", "random - blocks"))))
        lines.append(f"| {' | '.join(line)} |")
    lines += ["", "## About", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in meta.items() if value is not None]
    return "\n".join([*lines, ""])


def _cell(row: dict[str, object] | None) -> str:
    if row is None or row["value"] is None:
        return ""
    text = f"{row['value']:.3f}"
    return text if row["low"] is None else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"


def _reads(model: str, inputs: str) -> tuple[str, ...]:
    from geotreeclip.evaluation.probes.sources import _model

    return _model(model, inputs)[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probe.py",
        description="What a frozen embedding tells of a table with coordinates: linear, ridge and k-NN probes, at "
        "random and in spatial blocks, every choice on inner folds.",
    )
    what = parser.add_argument_group("what is probed")
    what.add_argument("--embedding", type=Path, metavar="FILE", help="npz or parquet of an embedding")
    what.add_argument("--saw", type=_names, metavar="A,B", help=f"inputs it was made from: {', '.join(INPUTS)}")
    what.add_argument("--prefix", default="", metavar="TEXT", help="of its columns in a parquet file (e0, e1, ...)")
    what.add_argument("--model", metavar="RUN", help="or a training run or model directory that embeds")
    what.add_argument("--data", type=Path, metavar="DIR", help="a packed set")
    what.add_argument("--inputs", default="all", help="what the model is given: all, image, environment, no-location")
    what.add_argument("--worldclim", choices=("2.1", "1"), default="2.1", help="units of bio variables of a table")
    asked = parser.add_argument_group("what it is asked")
    asked.add_argument("--table", type=Path, metavar="FILE", help="csv or parquet with targets and coordinates, joined "
                       "by sample_id or row by row; by default what the embedding or the packed set holds")  # fmt: skip
    asked.add_argument("--target", type=_names, metavar="A,B", help="columns; of a packed set also species, genus, "
                       "family, leaf_type and the environmental variables (default: what the recipe says)")  # fmt: skip
    asked.add_argument("--task", choices=TASK_NAMES, help="by default told from the columns")
    asked.add_argument("--min-samples", type=int, help=f"of a class or label that takes part ({MIN_SAMPLES})")
    asked.add_argument("--force", action="store_true", help="ask for what the embedding was given, marked")
    task = parser.add_argument_group("a known task (--table then is the file of its labels)")
    task.add_argument("--recipe", metavar="NAME", help="biomes, arctic, eu-forest, treesatai, chelsa, land-cover, or "
                      "the TOML file of your own task: targets, classes, blocks and readers")  # fmt: skip
    task.add_argument("--recipes", action="store_true", help="list them, with their sources and what is known of them")
    task.add_argument(
        "--points", type=Path, metavar="FILE", help="only write the places (CSV), to get imagery for them"
    )
    task.add_argument("--rasters", nargs="+", metavar="FILE", help="probe values of rasters at the places (a control)")
    task.add_argument("--patches", type=Path, metavar="DIR", help="embed GeoTIFFs of one date, with --model")
    task.add_argument("--series", metavar="KIND", help="probe series that the labels come with: months or cycles")
    task.add_argument("--screen", action="store_true", help="leave single bright steps out of them (missed clouds)")
    how = parser.add_argument_group("how")
    how.add_argument("--probes", type=_names, default=PROBE_NAMES, metavar="A,B", help=", ".join(PROBE_NAMES))
    how.add_argument("--folds", type=int, default=5)
    how.add_argument("--block-km", type=float, help=f"edge of the blocks ({BLOCK_KM:g}, or what the recipe says)")
    how.add_argument("--buffer-km", type=float, default=0.0, help="between test and training of blocks (%(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--out", type=Path, metavar="report.json", help="report; .md beside it")
    parser.add_argument("--name", help="name of the set in the report")
    parser.add_argument("--system", help="name of the embedding in the report")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
