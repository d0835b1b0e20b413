"""The rules, in the order in which they are applied, and those that look at a row alone.

N rows. A rule that fails sets its bit, so that every rule is judged for every row: the first that fails is the reason,
and the bits say what each alone would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.licences import NOT_STATED, is_commercial
from geotreeclip.errors import ConfigError

__all__ = ["BITS", "ISSUES", "RULES", "Rule", "RuleOptions", "judge_rows"]

ISSUES: tuple[str, ...] = (
    # the place: the first four are what GBIF calls "has geospatial issues"
    "ZERO_COORDINATE", "COORDINATE_OUT_OF_RANGE", "COORDINATE_INVALID", "COUNTRY_COORDINATE_MISMATCH",
    "COORDINATE_REPROJECTION_FAILED", "COORDINATE_REPROJECTION_SUSPICIOUS",
    "PRESUMED_SWAPPED_COORDINATE", "PRESUMED_NEGATED_LATITUDE", "PRESUMED_NEGATED_LONGITUDE",
    # the taxon
    "TAXON_MATCH_NONE", "TAXON_MATCH_HIGHERRANK",
    "INTERPRETATION_ERROR",
)  # fmt: skip
"""Issues that make the place or the taxon doubtful (https://techdocs.gbif.org/en/data-use/occurrence-issues-and-flags)."""

BASES: tuple[str, ...] = ("HUMAN_OBSERVATION", "OBSERVATION")
"""Bases of record that are of a plant where and when it stood: not specimens, fossils or plants in collections."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its name on the command line, and what it refuses."""

    name: str
    refuses: str


RULES: tuple[Rule, ...] = (
    Rule("readable", "rows that cannot be split into their fields, or that hold bytes which are no text"),
    Rule("coordinates", "coordinates that are missing or no numbers"),
    Rule("range", "coordinates outside of -180 to 180 and -90 to 90 degrees"),
    Rule("zero", "longitude and latitude both 0"),
    Rule("equal", "longitude and latitude equal but for their signs"),
    Rule("issue", "GBIF issues with the place or the taxon"),
    Rule("obscured", "places hidden on purpose: said in informationWithheld or dataGeneralizations, or very uncertain"),
    Rule("uncertainty", "coordinate uncertainty above the limit; unknown uncertainty is kept as a stratum of its own"),
    Rule("rounded", "both coordinates with few decimals, or both whole minutes of arc"),
    Rule("basis", "other bases of record than observations"),
    Rule("presence", "records of absence"),
    Rule("year", "years that are missing or outside of the limits"),
    Rule("license", "other licences than those asked for, and none stated (--licences, --exclude-noncommercial)"),
    Rule("kingdom", "other kingdoms than plants"),
    Rule("rank", "records whose own rank or keys are above the species"),
    Rule("name", "taxa without the name of a species"),
    Rule("key", "species whose taxon key is that of a higher or another taxon"),
    Rule("backbone", "names that the backbone does not hold (only with --require-backbone)"),
    Rule("tree", "species that are no trees"),
    Rule("mask", "places where the mask raster is below the limit or holds no data"),
    Rule("repeated", "records whose id came before"),
    Rule("duplicate", "further records of a species at the same place"),
)
"""All rules in order of application."""

BITS: dict[str, int] = {rule.name: 1 << place for place, rule in enumerate(RULES)}

_HIDDEN = re.compile(
    r"coordinat|locat|locali|georef|obscur|geoprivacy|blurr|fuzz|random|mask|grid|quadra|generali[sz]|sensitive|"
    r"threatened|precision|position|latitude|longitude|rounded|\bkm\b|\bdegree",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """Thresholds and switches.

    Attributes:
        skip: Names of rules that refuse nothing.
        issues: GBIF issues that refuse.
        obscured_uncertainty: Metres from which a place counts as hidden on purpose (iNaturalist hides places in cells
            of 0.2 degrees and states some 28 km).
        max_uncertainty: Metres of coordinate uncertainty that are accepted.
        imagery_uncertainty: Metres up to which a place is good for imagery.
        min_decimals: Decimals that at least one of the coordinates must have.
        basis: Bases of record that are accepted.
        first_year: The first year that is accepted; Sentinel-2 begins in 2015.
        last_year: The last one; 0 for none.
        licences: The only ones accepted, in the spelling of `licence_code`; none for all.
        exclude_noncommercial: Whether records are refused that are not known to allow commercial use.
        kingdom: The only one accepted where records state one; "" for all.
        require_backbone: Whether names that the backbone does not hold are refused.
        tree_evidence: "listed" accepts species that a list of trees holds, where one is given; "excluded" accepts all
            without evidence against.
        mask_min: The lowest accepted value of the mask raster.
        duplicate_decimals: Decimals of degrees to which places are compared; 5 are about a metre.
    """

    skip: tuple[str, ...] = ()
    issues: tuple[str, ...] = ISSUES
    obscured_uncertainty: float = 20_000.0
    max_uncertainty: float = 1_000.0
    imagery_uncertainty: float = 30.0
    min_decimals: int = 3
    basis: tuple[str, ...] = BASES
    first_year: int = 2015
    last_year: int = 0
    licences: tuple[str, ...] = ()
    exclude_noncommercial: bool = False
    kingdom: str = "Plantae"
    require_backbone: bool = False
    tree_evidence: str = "listed"
    mask_min: float = 1.0
    duplicate_decimals: int = 5

    def __post_init__(self) -> None:
        known = [rule.name for rule in RULES if rule.name != "readable"]
        if unknown := [name for name in self.skip if name not in known]:
            raise ConfigError(f"rule {unknown[0]!r} is unknown or cannot be skipped; rules are {', '.join(known)}")
        if self.tree_evidence not in ("listed", "excluded"):
            raise ConfigError(f"tree evidence {self.tree_evidence!r} is unknown; give listed or excluded")
        if not 0 <= self.duplicate_decimals <= 6 or not 0 <= self.min_decimals <= 6:
            raise ConfigError("decimals must be 0 to 6")
        if self.last_year and self.last_year < self.first_year:
            raise ConfigError(f"the last year {self.last_year} is before the first, {self.first_year}")
        if not 0 < self.imagery_uncertainty <= self.max_uncertainty:
            raise ConfigError("the uncertainty for imagery must be above 0 and not above the largest accepted")

    def plan(self) -> dict[str, Any]:
        """The options as JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)
        }

    def active(self, name: str) -> bool:
        """Whether a rule refuses."""
        wanted = {"backbone": self.require_backbone, "license": bool(self.licences) or self.exclude_noncommercial}
        return name not in self.skip and wanted.get(name, True)

    def licensed(self, code: str) -> bool:
        """Whether a licence is one of those asked for."""
        return (not self.licences or code in self.licences) and (not self.exclude_noncommercial or is_commercial(code))


class RowJudge:
    """Judges the rows of a chunk by what they say themselves."""

    def __init__(self, rows: Any, options: RuleOptions) -> None:
        self.rows, self.options = rows, options
        self.failing = np.zeros(rows.num_rows, np.uint32)
        self.not_testable: dict[str, int] = {}
        self.longitude = rows["longitude"].to_numpy()
        self.latitude = rows["latitude"].to_numpy()
        uncertainty = rows["uncertainty"].to_numpy().copy()
        uncertainty[~(uncertainty > 0)] = np.nan  # 0 is no valid uncertainty in Darwin Core: it says nothing
        self.uncertainty = uncertainty
        self._texts = {name: _codes(rows[name]) for name in _TEXTS}
        self._readable = (
            rows["unreadable"].is_null().to_numpy(zero_copy_only=False) if rows.num_rows else np.zeros(0, bool)
        )

    def refuse(self, name: str, where: NDArray[np.bool_]) -> None:
        """Set the bit of a rule."""
        if self.options.active(name):
            self.failing[where] |= BITS[name]

    def untested(self, name: str, where: NDArray[np.bool_]) -> None:
        """Count rows that a rule cannot judge; those that could not be read are not counted."""
        if self.options.active(name) and (count := int((where & self._readable).sum())):
            self.not_testable[name] = self.not_testable.get(name, 0) + count

    def of_text(self, column: str, test: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Where the text of a column passes a test, False where the source has no such column [N]."""
        codes, values = self._texts[column]
        return np.array([*(test(value) for value in values), False])[codes]

    def has(self, column: str) -> NDArray[np.bool_]:
        """Where the source has a column [N]."""
        return self._texts[column][0] >= 0

    def text(self, column: str, places: NDArray[np.int64]) -> list[str]:
        """Texts of a column at some rows."""
        codes, values = self._texts[column]
        return [values[code] if code >= 0 else "" for code in codes[places].tolist()]


_TEXTS = ("issue", "geospatial_issue", "basis", "status", "withheld", "country", "source", "license")


def judge_rows(rows: Any, options: RuleOptions) -> RowJudge:
    """Judge the rows of a chunk as `normalise` makes them, all rules but those of taxa, masks and repetition."""
    judge = RowJudge(rows, options)
    readable = judge._readable
    judge.refuse("readable", ~readable)
    _judge_places(judge, readable)
    issues = set(options.issues)
    judge.refuse("issue", judge.of_text("issue", lambda text: not issues.isdisjoint(text.upper().split(";"))))
    judge.refuse("issue", judge.of_text("geospatial_issue", lambda text: text.lower() in ("true", "1")))
    judge.untested("issue", ~judge.has("issue"))
    said = judge.of_text("withheld", lambda text: bool(_HIDDEN.search(text)))
    judge.refuse("obscured", said | (judge.uncertainty >= options.obscured_uncertainty))
    judge.untested("obscured", ~judge.has("withheld") & np.isnan(judge.uncertainty))
    judge.refuse("uncertainty", judge.uncertainty > options.max_uncertainty)
    judge.untested("uncertainty", np.isnan(judge.uncertainty))
    bases = {"", *options.basis}
    judge.refuse("basis", judge.of_text("basis", lambda text: text not in bases))
    judge.untested("basis", ~judge.of_text("basis", bool))
    judge.refuse("presence", judge.of_text("status", lambda text: text.upper() == "ABSENT"))
    judge.untested("presence", ~judge.of_text("status", bool))
    year = rows["year"].fill_null(0).to_numpy()
    dated = rows["dated"].to_numpy(zero_copy_only=False)
    last = options.last_year or 9999
    judge.refuse("year", dated & ((year < options.first_year) | (year > last)))
    judge.untested("year", ~dated)
    judge.refuse("license", ~judge.of_text("license", options.licensed) & readable)
    return judge


def _judge_places(judge: RowJudge, readable: NDArray[np.bool_]) -> None:
    x, y = judge.longitude, judge.latitude
    missing = np.isnan(x) | np.isnan(y)
    judge.refuse("coordinates", missing & readable)
    with np.errstate(invalid="ignore"):
        judge.refuse("range", (np.abs(x) > 180) | (np.abs(y) > 90))
        zero = (x == 0) & (y == 0)
        judge.refuse("zero", zero)
        judge.refuse("equal", (np.abs(x) == np.abs(y)) & ~zero)
        judge.refuse("rounded", is_rounded(x, y, judge.options.min_decimals))


def is_rounded(x: NDArray[np.float64], y: NDArray[np.float64], decimals: int) -> NDArray[np.bool_]:
    """Where both coordinates have fewer than so many decimals, or both are whole minutes of arc [N].

    Trailing zeros do not count, as numbers do not keep them: of places with one decimal more than is asked for, 1 in
    100 is taken for rounded by chance. Minutes are looked for to 4 decimals: 4 in 100,000 by chance.
    """
    rounded = np.zeros(len(x), bool)
    if decimals:
        scale = 10.0 ** (decimals - 1)
        rounded |= (np.abs(x * scale - np.round(x * scale)) < 1e-6) & (np.abs(y * scale - np.round(y * scale)) < 1e-6)
        minutes = [np.abs(value * 60 - np.round(value * 60)) <= 60 * 6e-5 for value in (x, y)]
        rounded |= minutes[0] & minutes[1]
    return rounded


def _codes(column: Any) -> tuple[NDArray[np.int32], list[str]]:
    """Codes [N] (-1 for null) and values of a dictionary column."""
    array = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if hasattr(array, "num_chunks"):
        array = array.chunk(0) if array.num_chunks else None
    if array is None or not len(array):
        return np.zeros(0, np.int32), []
    indices = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return indices, [value or "" for value in array.dictionary.to_pylist()]


def first_reason(failing: NDArray[np.uint32]) -> NDArray[np.int8]:
    """Place of the first rule that fails, -1 where none does [N]."""
    lowest = failing & (~failing + np.uint32(1))
    place = np.full(len(failing), -1, np.int8)
    some = failing > 0
    place[some] = np.log2(lowest[some].astype(np.float64)).astype(np.int8)
    return place


@lru_cache(maxsize=1 << 16)
def names_of(failing: int) -> str:
    """The names of the rules whose bits are set."""
    return ", ".join(rule.name for rule in RULES if failing & BITS[rule.name])


def row_values(judge: RowJudge, place: int, rows: NDArray[np.int64]) -> list[str]:
    """What a rule saw at the rows that it refused."""
    name = RULES[place].name
    if name == "readable":
        return [text or "" for text in judge.rows["unreadable"].take(rows).to_pylist()]
    if name == "coordinates":
        return [text or "missing" for text in judge.rows["place"].take(rows).to_pylist()]
    if name in ("range", "zero", "equal", "rounded"):
        return [
            f"{x!r}, {y!r}" for x, y in zip(judge.longitude[rows].tolist(), judge.latitude[rows].tolist(), strict=True)
        ]
    if name == "issue":
        issues = set(judge.options.issues)
        return [
            ";".join(sorted(issues.intersection(text.upper().split(";")))) or "hasGeospatialIssues"
            for text in judge.text("issue", rows)
        ]
    if name == "uncertainty":
        return _metres(judge, rows)
    if name == "obscured":
        return [
            text[:200] or metres
            for text, metres in zip(judge.text("withheld", rows), _metres(judge, rows), strict=True)
        ]
    if name == "year":
        return [str(year or "missing") for year in judge.rows["year"].take(rows).to_pylist()]
    if name == "license":
        return [text or NOT_STATED for text in judge.text("license", rows)]
    return judge.text({"basis": "basis", "presence": "status"}[name], rows)


def _metres(judge: RowJudge, rows: NDArray[np.int64] | Sequence[int]) -> list[str]:
    return [f"{value:.15g} m" for value in judge.uncertainty[rows].astype(float).tolist()]
