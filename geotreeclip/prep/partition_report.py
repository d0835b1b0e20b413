"""What a partition holds and what could leak from its pretraining set to the held-out ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.evaluation.metrics import RARITY_BOUNDS, RARITY_GROUPS
from geotreeclip.evaluation.splits import nearest_km
from geotreeclip.prep.partition import EVALUATED, NO_SPECIES, NO_YEAR, Assignment, PartitionConfig, Records

__all__ = ["markdown", "summary"]

QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NEAR_KM = (0.05, 1.0, 10.0)
"""Distances whose shares are reported: one patch, one kilometre, ten."""


def summary(records: Records, assignment: Assignment, config: PartitionConfig, source: str) -> dict[str, Any]:
    """Counts, classes, draws and leaks of a partition, as JSON can hold it.

    Keys: ``samples``, ``species``, ``source``, ``config``; ``sets`` (per set: samples, species, genera, samples by
    rarity class); ``overlaps`` (samples that a set has and a later rule also wanted); ``rarity`` (species and samples
    per class); ``evaluation`` (asked, eligible and taken per set and class); ``leaks`` (per held-out set, towards
    pretraining: see :func:`leaks`); ``shared_places`` (between held-out sets); ``notes``.
    """
    known = records.species != NO_SPECIES
    rarity = np.append(assignment.rarity, -1)[records.species]
    genus = _genera(records)
    sets = []
    for code, name in enumerate(assignment.sets):
        member = assignment.code == code
        by_class = np.bincount(rarity[member & known], minlength=len(RARITY_GROUPS))
        sets.append(
            {
                "set": name,
                "samples": int(member.sum()),
                "species": len(np.unique(records.species[member & known])),
                "genera": len(np.unique(genus[member & (genus >= 0)])),
                **{group: int(by_class[index]) for index, group in enumerate(RARITY_GROUPS) if group != "unseen"},
            }
        )
    overlaps = [
        {"set": assignment.sets[code], "also": assignment.sets[rule], "samples": int(count)}
        for code in range(1, len(assignment.sets))
        for rule in range(1, len(assignment.sets))
        if (count := ((assignment.code == code) & (assignment.also >> np.uint32(rule) & 1 == 1)).sum())
    ]
    classes = np.bincount(assignment.rarity, minlength=len(RARITY_GROUPS))
    found = leaks(records, assignment, config)
    return {
        "samples": len(records),
        "species": len(records.species_names),
        "source": source,
        "config": asdict(config),
        "sets": sets,
        "overlaps": overlaps,
        "rarity": [
            {
                "class": group,
                "records": _bounds(index),
                "species": int(classes[index]),
                "samples": int((rarity == index).sum()),
                "evaluated": group in EVALUATED,
            }
            for index, group in enumerate(RARITY_GROUPS)
            if group != "unseen"
        ],
        "without_species": int((~known).sum()),
        "evaluation": [asdict(draw) for draw in assignment.draws],
        "leaks": found,
        "shared_places": _shared_places(assignment, config),
        "notes": assignment.notes + _notes(records, assignment, config, found),
    }


def leaks(records: Records, assignment: Assignment, config: PartitionConfig) -> list[dict[str, Any]]:
    """What each held-out set shares with pretraining, measured on the finished sets.

    Per set: ``samples``; ``shared_ids`` and ``shared_places`` (samples whose id or place pretraining holds);
    ``nearest_km`` (quantiles of the great-circle distance to the nearest pretraining sample); ``within_km`` (share of
    samples closer than each of `NEAR_KM`); ``known_species``, ``known_genera`` and ``known_years`` (share of the
    samples whose species, genus or year pretraining holds, None where none is stated).
    """
    train = assignment.of("pretraining")
    tested = np.isin(assignment.code, [assignment.sets.index(name) for name in config.tests])
    rows = np.flatnonzero(tested)  # one search tree for all sets
    lon, lat = records.longitude, records.latitude
    near = nearest_km(lon[rows], lat[rows], lon[train], lat[train])
    genus = _genera(records)
    shared_id = np.isin(records.identity[rows], records.identity[train])
    shared_place = np.isin(assignment.place[rows], assignment.place[train])
    stated: dict[str, tuple[NDArray[Any], int]] = {
        "known_species": (records.species, NO_SPECIES),
        "known_genera": (genus, -1),
        "known_years": (records.year, NO_YEAR),
    }
    seen = {name: np.isin(values[rows], values[train]) for name, (values, _) in stated.items()}
    result = []
    for name in config.tests:
        member = assignment.code[rows] == assignment.sets.index(name)
        if not member.any():
            continue
        row: dict[str, Any] = {
            "set": name,
            "samples": int(member.sum()),
            "shared_ids": int(shared_id[member].sum()),
            "shared_places": int(shared_place[member].sum()),
            "nearest_km": {f"{q:g}": round(float(np.quantile(near[member], q)), 4) for q in QUANTILES},
            "within_km": {f"{km:g}": round(float((near[member] <= km).mean()), 4) for km in NEAR_KM},
        }
        for key, (values, missing) in stated.items():
            usable = member & (values[rows] != missing)
            row[key] = round(float(seen[key][usable].mean()), 4) if usable.any() else None
        result.append(row)
    return result


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    config = report["config"]
    lines = [
        "# Partition",
        "",
        f"{report['samples']:,} samples of {report['species']:,} species from {report['source']}, "
        f"seed {config['seed']}.",
        "",
        "A sample goes to the first of these sets that wants it: unseen species, spatial test, unseen years, buffer, "
        "evaluation sets, same place; all others are for pretraining.",
        "",
        "## Sets",
        "",
        *_table(
            ["set", "samples", "species", "genera", *(group for group in RARITY_GROUPS if group != "unseen")],
            [list(row.values()) for row in report["sets"]],
        ),
        "",
        "The last columns count samples by the rarity class of their species.",
        "",
        "## Rarity classes",
        "",
        *_table(
            ["class", "records", "species", "samples", "drawn for evaluation sets"],
            [[*list(row.values())[:-1], "yes" if row["evaluated"] else "no"] for row in report["rarity"]],
        ),
    ]
    if report["without_species"]:
        lines += ["", f"{report['without_species']:,} samples name no species; no evaluation set draws them."]
    if report["evaluation"]:
        lines += ["", "## Evaluation sets", ""]
        lines += _table(
            ["set", "class", "species asked", "eligible", "taken", "samples each"],
            [list(row.values()) for row in report["evaluation"]],
        )
    if report["leaks"]:
        lines += ["", "## Leaks towards pretraining", ""]
        lines += _table(
            [
                "set", "samples", "shared ids", "shared places", "nearest km: min", "10 %", "median", "90 %",
                *(f"within {km:g} km" for km in NEAR_KM), "known species", "known genera", "known years",
            ],
            [_leak_row(row) for row in report["leaks"]],
        )  # fmt: skip
        lines += ["", "Known: share of the samples whose species, genus or year pretraining holds."]
    if report["shared_places"]:
        lines += ["", "## Places shared between held-out sets", ""]
        lines += _table(
            ["samples of", "at places of", "samples"], [list(row.values()) for row in report["shared_places"]]
        )
    if report["overlaps"]:
        lines += ["", "## Samples that more than one rule wanted", ""]
        lines += _table(["set", "also wanted by", "samples"], [list(row.values()) for row in report["overlaps"]])
    if report["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines) + "\n"


def _leak_row(row: dict[str, Any]) -> list[Any]:
    shares = [*row["within_km"].values(), row["known_species"], row["known_genera"], row["known_years"]]
    distances = [f"{row['nearest_km'][q]:.2f}" for q in ("0", "0.1", "0.5", "0.9")]
    return [
        row["set"], row["samples"], row["shared_ids"], row["shared_places"], *distances,
        *("-" if share is None else f"{share:.1%}" for share in shares),
    ]  # fmt: skip


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells)]


def _shared_places(assignment: Assignment, config: PartitionConfig) -> list[dict[str, Any]]:
    members = {name: assignment.of(name) for name in config.tests}
    return [
        {"set": name, "with": other, "samples": count}
        for name, member in members.items()
        for other, others in members.items()
        if name != other and (count := int(np.isin(assignment.place[member], assignment.place[others]).sum()))
    ]


def _notes(records: Records, assignment: Assignment, config: PartitionConfig, found: list[dict[str, Any]]) -> list[str]:
    """What the finished sets show that a reader must know."""
    notes = []
    scarce = int((assignment.rarity == RARITY_GROUPS.index("scarce")).sum())
    if scarce and config.evaluation:
        notes.append(f"{scarce} species with fewer than {RARITY_BOUNDS[1]} records are in no evaluation set")
    train, known = assignment.of("pretraining"), records.species != NO_SPECIES
    trained = np.bincount(records.species[train & known], minlength=len(records.species_names)) > 0
    for each in config.evaluation:
        held = np.unique(records.species[assignment.of(each.name) & known])
        lost = [records.species_names[index] for index in held if not trained[index]]
        if lost:
            notes.append(f"{each.name}: {len(lost)} species have no pretraining record left, first {lost[0]}")
    genera = np.asarray(records.genus_names, object)
    unseen = np.unique(records.species[assignment.of("unseen-species")])
    trained_genera = set(genera[trained])
    alone = [records.species_names[index] for index in unseen if genera[index] not in trained_genera]
    if alone:
        notes.append(f"{len(alone)} unseen species have no relative in pretraining after all rules, first {alone[0]}")
    notes += [
        f"{row['set']}: {row['shared_places']} samples stand at places that pretraining holds (allowed by the options)"
        for row in found
        if row["shared_places"]
    ]
    return notes


def _genera(records: Records) -> NDArray[np.int64]:
    """Number of the genus of each sample, [N], -1 where unknown."""
    names, number = np.unique(np.asarray(records.genus_names, dtype=str), return_inverse=True)
    number = np.where(np.isin(number, np.flatnonzero(names == "")), -1, number)
    return np.asarray(np.append(number, -1)[records.species], dtype=np.int64)


def _bounds(index: int) -> str:
    low, high = RARITY_BOUNDS[index - 1], RARITY_BOUNDS[index] - 1 if index < len(RARITY_BOUNDS) else None
    return f"{low:,} and more" if high is None else f"{low:,}-{high:,}"
