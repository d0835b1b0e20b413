"""Command line of `eval/probe.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from geotreeclip.errors import ConfigError
from geotreeclip.models.config import INPUTS

TASK_NAMES = ("multiclass", "multilabel", "regression")
PROBE_NAMES = ("linear", "ridge", "knn")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``eval/probe.py``."""
    args = _parser().parse_args(argv)
    if args.out.suffix != ".json":
        raise ConfigError(f"--out {args.out}: the report is written to a file that ends in .json")
    if (args.embedding is None) == (args.model is None):
        raise ConfigError("give either --embedding FILE, or --model RUN with --data DIR or --table FILE")
    print(f"Reading {args.embedding or args.model} ...", flush=True)
    from geotreeclip.evaluation.probes import sources
    from geotreeclip.evaluation.probes.provenance import check_targets
    from geotreeclip.evaluation.probes.run import Options, report_rows, run_probes
    from geotreeclip.evaluation.report import describe_run, write_report

    options = Options(args.probes, args.folds, args.block_km, args.buffer_km, args.seed)
    progress = sys.stderr.isatty()
    table = None
    if args.embedding is not None:
        embedding = sources.read_embedding(args.embedding, args.saw, args.prefix)
        table = None if args.table is None else sources.read_table(args.table)
    elif args.data is not None:
        marks = check_targets(args.target, _reads(args.model, args.inputs), force=args.force)  # before hours of work
        embedding = sources.embed_packed(args.model, args.data, args.inputs, progress=progress)
        table = None if args.table is None else sources.read_table(args.table)
    elif args.table is not None:
        embedding = sources.embed_table(args.model, args.table, args.inputs, args.worldclim)
    else:
        raise ConfigError("--model needs --data DIR or --table FILE: what to embed")
    where = str(args.table or args.data or args.embedding)
    marks = check_targets(args.target, embedding.saw, force=args.force)
    values, joined = sources.join(embedding, table, where)
    problem = sources.make_problem(
        values, joined, list(args.target), args.task, where, min_samples=args.min_samples, block_km=args.block_km
    )
    kinds = {"multiclass": "classes", "multilabel": "labels", "regression": "quantities"}
    print(
        f"{len(problem):,} samples, {problem.features.shape[1]} features, {len(problem.names)} {kinds[problem.task]}; "
        f"{problem.task}; {', '.join(options.probes)}; {options.folds} folds at random and in blocks of "
        f"{options.block_km:g} km."
    )
    for reason, count in problem.left_out.items():
        if count:
            print(f"Left out: {count:,} {reason}.")
    for mark in marks:
        print(f"Marked: {mark}.")
    outcomes = run_probes(problem, options, say=lambda text: print(text, flush=True))
    name = args.name or Path(where).stem
    rows = report_rows(
        problem, outcomes, options, set=name, system=args.system or embedding.name,
        inputs=embedding.inputs + (" (saw the target)" if marks else ""), candidates=", ".join(args.target),
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
    )
    report, page = write_report(rows, args.out, meta)
    summary = page_of(rows, meta)
    page.write_text(summary, encoding="utf-8")
    print()
    print(summary)
    print(f"Report: {report}\nPage: {page}")
    return 0


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
    asked.add_argument("--target", type=_names, required=True, metavar="A,B", help="columns; of a packed set also "
                       "species, genus, family, leaf_type and the environmental variables")  # fmt: skip
    asked.add_argument("--task", choices=TASK_NAMES, help="by default told from the columns")
    asked.add_argument("--min-samples", type=int, default=10, help="of a class or label that takes part (%(default)s)")
    asked.add_argument("--force", action="store_true", help="ask for what the embedding was given, marked")
    how = parser.add_argument_group("how")
    how.add_argument("--probes", type=_names, default=PROBE_NAMES, metavar="A,B", help=", ".join(PROBE_NAMES))
    how.add_argument("--folds", type=int, default=5)
    how.add_argument("--block-km", type=float, default=500.0, help="edge of the blocks (%(default)s)")
    how.add_argument("--buffer-km", type=float, default=0.0, help="between test and training of blocks (%(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--out", type=Path, required=True, metavar="report.json", help="report; .md beside it")
    parser.add_argument("--name", help="name of the set in the report")
    parser.add_argument("--system", help="name of the embedding in the report")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
