"""What went in, what each rule refused, what came out, and what was found about species."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geotreeclip.data.licences import DATASETS, NOT_STATED, sum_counts
from geotreeclip.prep.occurrences.rules import RULES
from geotreeclip.prep.occurrences.sources import Source
from geotreeclip.prep.occurrences.taxa import TAXON_RULES
from geotreeclip.prep.partitions import Done

if TYPE_CHECKING:
    import pandas as pd

    from geotreeclip.prep.occurrences.job import Job

__all__ = ["Report", "RuleCount", "build_report"]

NAMED = 200
"""Species that a list in the report names at most; `taxa.parquet` has them all."""


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What a rule did.

    Attributes:
        name: Of the rule.
        refuses: What it is about.
        active: Whether it was asked.
        refused: Rows whose first failing rule it is.
        alone: Rows that it would refuse were it the only one.
        not_testable: Rows that do not say what it asks for; they are kept.
    """

    name: str
    refuses: str
    active: bool
    refused: int
    alone: int
    not_testable: int


@dataclass(slots=True)
class Report:
    """The report of a run; `read` is `kept` + `refused`."""

    read: int
    kept: int
    refused: int
    rules: list[RuleCount]
    tables: list[dict[str, Any]]
    precision: dict[str, int]
    leaf_types: dict[str, int]
    species_kept: int
    refused_species: dict[str, list[dict[str, Any]]]
    warned_species: list[dict[str, Any]]
    tree_evidence: dict[str, dict[str, int]]
    notes: list[str]
    licences: dict[str, int]
    datasets: dict[str, int]
    plan: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Report:
        """From JSON; unknown or absent entries raise KeyError or TypeError."""
        values = {item.name: document[item.name] for item in fields(cls)}
        return cls(**values | {"rules": [RuleCount(**entry) for entry in values["rules"]]})

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"read {self.read:,} = kept {self.kept:,} + refused {self.refused:,}"]
        lines.append(f"{'rule':<12}{'refused':>12}{'alone':>12}{'not testable':>14}  what it refuses")
        for rule in self.rules:
            if not rule.active:
                lines.append(f"{rule.name:<12}{'skipped':>12}{'':>26}  {rule.refuses}")
            elif rule.refused or rule.alone or rule.not_testable:
                numbers = f"{rule.refused:>12,}{rule.alone:>12,}{rule.not_testable:>14,}"
                lines.append(f"{rule.name:<12}{numbers}  {rule.refuses}")
        lines.append(f"precision of the places kept: {_counts(self.precision)}")
        lines.append(f"{self.species_kept:,} species kept; leaf types: {_counts(self.leaf_types)}")
        for rule_name, species in self.refused_species.items():
            names = ", ".join(entry["name"] for entry in species[:8]) + (" ..." if len(species) > 8 else "")
            lines.append(f"{len(species):,} taxa fail {rule_name!r}: {names}")
        if self.warned_species:
            lines.append(f"{len(self.warned_species):,} taxa with warnings, see report.md")
        lines.append(f"licences of the records kept: {_counts(self.licences)}")
        if self.datasets:
            lines.append(f"to cite them: {_citation(self.datasets)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def markdown(self) -> str:
        """The report as a document."""
        lines = ["# Occurrences", "", f"Read {self.read:,} rows = kept {self.kept:,} + refused {self.refused:,}.", ""]
        lines += ["| table | rows | chunks | notes |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(table['where'])} | {table['rows']:,} | {table['chunks']} | {_cell('; '.join(table['notes']))} |"
            for table in self.tables
        ]
        lines += ["", "## Rules, in the order applied", ""]
        lines += ["A row counts for the first rule that it fails; *alone* is what the rule would refuse by itself.", ""]
        lines += ["| rule | refused | alone | not testable | refuses |", "|---|---|---|---|---|"]
        for rule in self.rules:
            numbers = f"{rule.refused:,} | {rule.alone:,} | {rule.not_testable:,}" if rule.active else "skipped | |"
            lines.append(f"| {rule.name} | {numbers} | {_cell(rule.refuses)} |")
        lines += ["", "## Kept", "", f"{self.species_kept:,} species. Precision of places: {_counts(self.precision)}."]
        lines += [f"Leaf types: {_counts(self.leaf_types)}.", ""]
        lines += ["## Licences and citation", "", f"Licences of the records kept: {_counts(self.licences)}."]
        lines += [f"To cite them: {_citation(self.datasets)}." if self.datasets else "No data set is stated.", ""]
        if self.tree_evidence:
            lines += ["## Evidence for and against trees", "", "| evidence | species | rows read |", "|---|---|---|"]
            lines += [
                f"| {_cell(name)} | {counts['species']:,} | {counts['rows']:,} |"
                for name, counts in self.tree_evidence.items()
            ]
            lines.append("")
        for name, species in self.refused_species.items():
            lines += [
                f"## Taxa that fail the rule `{name}`: {len(species):,}",
                "",
                "| taxon | rows read | why |",
                "|---|---|---|",
            ]
            lines += [
                f"| {_cell(entry['name'])} | {entry['rows']:,} | {_cell(entry['why'])} |" for entry in species[:NAMED]
            ]
            lines.append("")
        if self.warned_species:
            lines += [
                f"## Taxa with warnings: {len(self.warned_species):,}",
                "",
                "| taxon | rows read | warnings |",
                "|---|---|---|",
            ]
            lines += [
                f"| {_cell(entry['name'])} | {entry['rows']:,} | {_cell(entry['why'])} |"
                for entry in self.warned_species[:NAMED]
            ]
            lines.append("")
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)]) + "\n"


def build_report(
    job: Job,
    sources: Sequence[Source],
    read: Sequence[Done],
    chunks: Sequence[Done],
    settled: Sequence[Done],
    counts: pd.DataFrame,
    species: pd.DataFrame,
    kept: int,
    refused: int,
    plan: dict[str, Any],
) -> Report:
    """Sum up the reports of all parts, and check that no row is lost.

    Raises:
        RuntimeError: Rows were lost or came twice: a defect of this program.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = [sum(part.report["rows"]) for part in read]
    if sum(rows) != kept + refused or kept != int(counts.loc[counts["reason"] < 0, "rows"].sum()):
        raise RuntimeError(f"{sum(rows)} rows were read, but {kept} kept and {refused} refused")
    alone: Counter[str] = Counter()
    untested: Counter[str] = Counter()
    for part in chunks:
        alone.update(part.report["alone"])
        untested.update(part.report["not_testable"])
    for part in settled:
        alone.update({name: part.report[name] for name in ("repeated", "duplicate")})
    first = counts.groupby("reason")["rows"].sum()
    rules = [
        RuleCount(
            rule.name, rule.refuses, _asked(job, rule.name), int(first.get(place, 0)), alone[rule.name],
            untested[rule.name],
        )
        for place, rule in enumerate(RULES)
    ]  # fmt: skip
    precision: Counter[str] = Counter()
    leaves: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    counted = {"precision": precision, "leaf_type": leaves, "license": licences, "dataset_key": datasets}
    with pq.ParquetFile(job.out / "occurrences.parquet") as file:
        for batch in file.iter_batches(columns=list(counted)):
            for column, counter in counted.items():
                missing = "unknown" if column in ("precision", "leaf_type") else NOT_STATED
                for entry in pc.value_counts(batch.column(column)).to_pylist():
                    counter[entry["values"] or missing] += entry["counts"]
    return Report(
        read=sum(rows),
        kept=kept,
        refused=refused,
        rules=rules,
        tables=[
            {"label": source.label, "where": source.where, "rows": count, "chunks": len(part.report["rows"]),
             "notes": list(source.notes)}
            for source, part, count in zip(sources, read, rows, strict=True)
        ],
        precision=dict(sorted(precision.items())),
        leaf_types=dict(sorted(leaves.items())),
        species_kept=int((species["kept"] > 0).sum()),
        refused_species=_refused_species(species),
        warned_species=_entries(species[species["warnings"] != ""], "warnings"),
        tree_evidence=_evidence(species),
        notes=[*_notes(job, rules, leaves), *_mixed_genera(species)],
        licences=sum_counts([licences]),
        datasets=sum_counts([{key: count for key, count in datasets.items() if key != NOT_STATED}]),
        plan=plan,
    )  # fmt: skip


def _asked(job: Job, name: str) -> bool:
    """Whether a rule was active and had what it needs."""
    needs = {
        "mask": job.mask is not None,
        "tree": bool(job.tables.trees or job.tables.growth),
        "backbone": job.tables.backbone is not None,
    }
    return job.rules.active(name) and needs.get(name, True)


def _refused_species(species: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found = {rule: _entries(species[species[f"saw_{rule}"] != ""], f"saw_{rule}") for rule in TAXON_RULES}
    return {rule: entries for rule, entries in found.items() if entries}


def _entries(species: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    """Names, rows and reasons, those of most rows first."""
    ordered = species.sort_values(["rows", "name"], ascending=[False, True])
    return [
        {"name": name, "rows": int(rows), "why": why}
        for name, rows, why in zip(ordered["name"], ordered["rows"], ordered[column], strict=True)
    ]


def _evidence(species: pd.DataFrame) -> dict[str, dict[str, int]]:
    known = species[species["evidence"] != ""]
    grouped = known.groupby("evidence")["rows"].agg(["size", "sum"]).sort_values("sum", ascending=False)
    return {str(name): {"species": int(row["size"]), "rows": int(row["sum"])} for name, row in grouped.iterrows()}


def _notes(job: Job, rules: Sequence[RuleCount], leaves: Mapping[str, int]) -> list[str]:
    notes = [
        f"rule {rule.name!r}: {rule.not_testable:,} rows say nothing to test, and are kept"
        for rule in rules
        if rule.active and rule.not_testable
    ]
    if not (job.tables.trees or job.tables.growth):
        notes.append("no list of trees is given (--trees, --growth): species that are no trees are kept")
    if job.tables.backbone is None:
        notes.append("no backbone is given (--backbone): names are taken as written, keys judged by the records alone")
    if leaves.get("unknown"):
        notes.append(f"{leaves['unknown']:,} rows have no leaf type (--leaf-types)")
    return notes


def _mixed_genera(species: pd.DataFrame) -> list[str]:
    """Genera whose kept species bear several leaf types: some are so, in others the table errs."""
    kept = species[(species["kept"] > 0) & (species["leaf_type"] != "")]
    kinds = kept.groupby("genus")["leaf_type"].nunique()
    mixed = sorted(kinds[kinds > 1].index)
    shown = ", ".join(mixed[:12]) + (" ..." if len(mixed) > 12 else "")
    return [f"{len(mixed)} genera hold species of several leaf types: {shown}"] if mixed else []


def _citation(datasets: Mapping[str, int]) -> str:
    """What GBIF asks of those who use a part of a download (https://www.gbif.org/derived-dataset/about)."""
    return (
        f"register a derived data set at https://www.gbif.org/derived-dataset with {DATASETS} ({len(datasets):,} data "
        "sets and their numbers of records) and cite its DOI"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _cell(text: str | Path) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
