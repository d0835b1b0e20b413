"""What the imagery job did: its files, its counts, and what was left out, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.prep.imagery.offsets import Audit, group_of
from geotreeclip.prep.imagery.planning import Plan
from geotreeclip.prep.imagery.store import FORMAT, VERSION
from geotreeclip.prep.partitions import PartitionRun
from geotreeclip.schema import BANDS, MISSING_DN, MONTHS, PATCH

__all__ = ["ImageryReport", "finish"]

_NAMED = 20  # scenes in the report; all are in scenes.parquet


@dataclass(slots=True)
class ImageryReport:
    """Counts of a finished job.

    Attributes:
        samples: Written.
        without: Of them, those without a single value.
        refused: Not written, by reason.
        months: Samples with a value, by month.
        missing: Share of missing values.
        clipped: Values raised to 1.
        differences: Samples by the difference between the year used and that of the observation.
        scenes: Scenes that gave clear pixels.
        lost: Scenes left out, id to reason.
        left: Scenes and items left out before reading, by reason.
        dead: Links of the catalog that lead nowhere.
        offsets: Scenes, clear pixels and dark percentiles by rule of the offset.
        failed: Parts that are not there, key to reason.
        seconds: Sum over the parts.
        reading: Seconds of it spent opening and reading rasters.
        opened: Rasters opened.
    """

    samples: int = 0
    without: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    months: list[int] = field(default_factory=lambda: [0] * MONTHS)
    missing: float = 0.0
    clipped: int = 0
    differences: dict[str, int] = field(default_factory=dict)
    scenes: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    offsets: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reading: float = 0.0
    opened: int = 0

    def text(self) -> str:
        """For a terminal."""
        lines = [
            f"{self.samples:,} samples, {self.without:,} of them without any value; "
            f"{self.missing:.1%} of the values are missing",
            "samples with a value, January to December: " + " ".join(map(str, self.months)),
            f"{self.scenes} scenes used; {self.clipped:,} values below 1 raised to it",
        ]
        if set(self.differences) - {"0"}:
            shown = ", ".join(f"{int(step):+d}: {n}" for step, n in sorted(self.differences.items(), key=_number))
            lines.append(f"year used minus year of the observation: {shown}")
        for rule, entry in self.offsets.items():
            dark = ", ".join(f"{band} {value:g}" for band, value in entry["1st percentile"].items())
            lines.append(f"offset {entry['offset']:g} ({rule}): {entry['scenes']} scenes, darkest hundredth {dark}")
        lines += [f"refused {count}: {reason}" for reason, count in self.refused.items()]
        lines += [f"left out: {count} {reason}" for reason, count in self.left.items()]
        if self.dead:
            lines.append(f"warning: {len(self.dead)} links of the catalog lead nowhere, first {self.dead[0]}")
        if self.lost:
            lines.append(f"warning: {len(self.lost)} scenes could not be read and were left out:")
            lines += [f"  {name}: {reason}" for name, reason in list(self.lost.items())[:_NAMED]]
        lines += [f"FAILED part {key}: {reason}" for key, reason in self.failed.items()]
        if self.seconds:
            lines.append(
                f"{self.samples / self.seconds:,.1f} samples/s and process; {self.reading / self.seconds:.0%} of it "
                f"opening {self.opened:,} rasters and reading"
            )
        return "\n".join(lines)


def finish(
    out: Path, run: PartitionRun, plan: Plan, catalog: Mapping[str, Any], options: Mapping[str, Any], *, check: bool
) -> ImageryReport:
    """Write `scenes.parquet`, `report.json` and, last, `imagery.json`.

    Args:
        out: Folder of the job.
        run: Its parts.
        plan: Its points.
        catalog: What is known of the source.
        options: Those of the job.
        check: Whether offsets that all values together contradict are an error.

    Raises:
        OffsetContradiction: They do.
    """
    report = ImageryReport(
        samples=sum(part.report["rows"] for part in run.done),
        refused=plan.refused,
        left=dict(catalog.get("left", {})),
        dead=list(catalog.get("dead", [])),
        failed={part.key: part.reason for part in run.failed},
    )
    audit = Audit()
    missing = 0.0
    for part in run.done:
        entry = part.report
        report.without += entry["rows"] - entry["found"]
        report.months = [a + b for a, b in zip(report.months, entry["months"], strict=True)]
        missing += entry["missing"] * entry["rows"]
        report.clipped += entry["clipped"]
        _add(report.differences, entry["differences"])
        _add(report.left, entry["left"])
        report.seconds += entry["seconds"]
        report.reading += entry["reading"] or 0
        report.opened += entry["opened"] or 0
        audit.merge(entry["audit"])
    report.missing = missing / max(1, report.samples)
    scenes = _scenes(run)
    groups: dict[str, list[str]] = {}
    for name, scene in scenes.items():
        if scene["pixels"]:
            first, second = scene["baseline"].split(".")
            key, _ = group_of(scene["rule"], (int(first), int(second)), scene["offset"])
            groups.setdefault(key, []).append(name)
    for key, tally in audit.tallies.items():  # a scene that served several parts is one scene
        tally.scenes, tally.names = len(groups[key]), sorted(groups[key])[:5]
    report.offsets = audit.summary()
    report.scenes = sum(scene["points"] > 0 for scene in scenes.values())
    report.lost = {name: scene["problem"] for name, scene in sorted(scenes.items()) if scene["problem"]}
    _write_scenes(out / "scenes.parquet", scenes)
    text = json.dumps(asdict(report), indent=1)
    write_atomically(out / "report.json", lambda path: path.write_text(text, encoding="utf-8"))
    if check:
        audit.check(scenes_alone=False)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "bands": list(BANDS),
        "bands_read": list(options["bands"]),
        "steps": MONTHS,
        "size": PATCH,
        "missing": MISSING_DN,
        "units": "surface reflectance x 10,000, offset removed, monthly median of clear looks",
        "parts": [{"key": part.key, "rows": part.report["rows"]} for part in run.done],
        "samples": report.samples,
        "complete": not run.failed,
        "source": {key: value for key, value in catalog.items() if key not in ("dead", "left")},
        "options": dict(options),
    }
    write_atomically(
        out / "imagery.json", lambda path: path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    )
    return report


def _scenes(run: PartitionRun) -> dict[str, dict[str, Any]]:
    """What each scene gave to all parts."""
    scenes: dict[str, dict[str, Any]] = {}
    for part in run.done:
        with (part.folder / "scenes.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                entry = json.loads(line)
                known = scenes.setdefault(entry["id"], entry)
                if known is not entry:
                    for count in ("points", "pixels", "clipped"):
                        known[count] += entry[count]
                    known["problem"] = known["problem"] or entry["problem"]
    return scenes


def _write_scenes(path: Path, scenes: Mapping[str, dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("id", "time", "tile", "baseline", "offset", "rule", "points", "pixels", "clipped", "problem")
    rows = [scenes[name] for name in sorted(scenes)]
    table = pa.table({name: [row[name] for row in rows] for name in names})
    write_atomically(path, lambda target: pq.write_table(table, target))


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count


def _number(pair: tuple[str, int]) -> int:
    return int(pair[0])
