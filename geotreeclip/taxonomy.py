"""Taxa, tables of taxa, prompts, and the roll-up from species to genus, family and leaf type.

Arrays: N samples, S taxa (rows of the table), G groups of a coarser rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from geotreeclip.errors import DataError, InputError
from geotreeclip.schema import PUBLISHED_RANK_FIELDS, RANKS, Rank

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Taxon", "Taxonomy", "log_sum_groups"]


class Taxon(NamedTuple):
    """One row of a taxonomy; an empty string is a rank that is not stated.

    `species` is the whole binomial ("Quercus robur"), as in the published tables.
    """

    leaf_type: str = ""
    family: str = ""
    genus: str = ""
    species: str = ""

    @property
    def rank(self) -> Rank:
        """The finest rank that is stated (leaf type for an empty taxon)."""
        for rank in reversed(Rank):
            if self.name(rank):
                return rank
        return Rank.LEAF_TYPE

    def name(self, rank: str) -> str:
        """The name at a rank, or "" where it is not stated."""
        return str(getattr(self, rank))

    def at(self, rank: str) -> Taxon:
        """The taxon cut at a rank: every finer name cleared."""
        keep = RANKS.index(rank) + 1
        return Taxon(*(part if i < keep else "" for i, part in enumerate(self)))

    def prompt(self) -> str:
        """The text that the text tower reads: the stated names, coarse to fine, as the published model joins them."""
        return " / ".join(part for part in self if part)


class Taxonomy(Sequence[Taxon]):
    """An ordered table of distinct taxa.

    Args:
        taxa: The rows.

    Raises:
        InputError: If a row stands twice or states no rank at all.
    """

    def __init__(self, taxa: Iterable[Taxon]) -> None:
        self._taxa = tuple(taxa)
        self._index = {taxon: i for i, taxon in enumerate(self._taxa)}
        if len(self._index) < len(self._taxa):
            twice = next(taxon for taxon, count in Counter(self._taxa).items() if count > 1)
            raise InputError(f"taxonomy: {twice.prompt()!r} stands more than once; give each taxon one row")
        if Taxon() in self._index:
            raise InputError(f"taxonomy: row {self._index[Taxon()]} states no rank; name at least one")

    def __len__(self) -> int:
        return len(self._taxa)

    @overload
    def __getitem__(self, index: int) -> Taxon: ...
    @overload
    def __getitem__(self, index: slice) -> Taxonomy: ...
    def __getitem__(self, index: int | slice) -> Taxon | Taxonomy:
        return Taxonomy(self._taxa[index]) if isinstance(index, slice) else self._taxa[index]

    def __iter__(self) -> Iterator[Taxon]:
        return iter(self._taxa)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self._taxa == other._taxa

    def __hash__(self) -> int:
        return hash(self._taxa)

    def __repr__(self) -> str:
        return f"Taxonomy({len(self)} taxa, {', '.join(f'{len(self.groups(rank)[0])} {rank}' for rank in RANKS)})"

    def index_of(self, taxon: Taxon) -> int | None:
        """Row of a taxon, or None where the table does not hold it."""
        return self._index.get(taxon)

    def take(self, rows: Iterable[int]) -> Taxonomy:
        """The given rows as a table of their own."""
        return Taxonomy(self._taxa[int(row)] for row in rows)

    def prompts(self) -> list[str]:
        """The prompt of every row."""
        return [taxon.prompt() for taxon in self._taxa]

    # -- ranks -------------------------------------------------------------------------------------------------

    def groups(self, rank: str) -> tuple[list[Taxon], npt.NDArray[np.int64]]:
        """Distinct taxa cut at a rank, and the group of each row [S].

        Two rows are in one group if they agree in every part down to the rank, so that a prompt names the whole group.
        """
        found: dict[Taxon, int] = {}
        rows = [found.setdefault(taxon.at(rank), len(found)) for taxon in self._taxa]
        return list(found), np.array(rows, dtype=np.int64)

    def names(self, rank: str) -> tuple[list[Taxon], npt.NDArray[np.int64]]:
        """Distinct names at a rank, each as a taxon, and the group of each row [S].

        Other than `groups`, rows agree if they bear the same name at the rank: a family whose members have several
        leaf types is one family. Its taxon states the coarser parts only as far as all members share them.
        """
        members: dict[str, list[Taxon]] = {}
        rows = []
        place: dict[str, int] = {}
        for taxon in self._taxa:
            name = taxon.name(rank)
            rows.append(place.setdefault(name, len(place)))
            members.setdefault(name, []).append(taxon)
        merged = []
        for name in place:
            shared = [parts[0] if len(set(parts)) == 1 else "" for parts in zip(*members[name], strict=True)]
            merged.append(Taxon(*shared).at(rank))
        return merged, np.array(rows, dtype=np.int64)

    def roll_up(self, log_prob: npt.ArrayLike, rank: str) -> tuple[npt.NDArray[np.float64], list[Taxon]]:
        """Sum the probabilities of the rows to a coarser rank.

        Args:
            log_prob: [N, S] log-probabilities over the rows of this table.
            rank: One of `RANKS`.

        Returns:
            [N, G] log-probabilities (float64) and the taxon of each column; rows that do not state the rank form a
            column of their own with an empty name.
        """
        taxa, rows = self.names(rank)
        values = np.asarray(log_prob, dtype=np.float64)
        return log_sum_groups(values, rows, len(taxa)), taxa

    # -- tables ------------------------------------------------------------------------------------------------

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, where: str = "table") -> Taxonomy:
        """Distinct taxa of a table, in order of first appearance.

        Args:
            frame: Columns named as in `RANKS` or as in the published tables; absent ranks are not stated.
            where: What to call the table in an error.

        Raises:
            DataError: If no rank column is there.
        """
        return cls(dict.fromkeys(taxa_of_frame(frame, where)))

    @classmethod
    def read(cls, path: str | Path) -> Taxonomy:
        """Read a Parquet or CSV table (see `from_frame`).

        Raises:
            DataError: If the file is absent, unreadable, or has no rank column.
        """
        import pandas as pd

        path = Path(path)
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; a taxonomy is a CSV or Parquet table with columns {', '.join(RANKS)}"
            )
        try:
            frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: cannot be read as a table ({error})") from error
        return cls.from_frame(frame, str(path))

    def frame(self) -> pd.DataFrame:
        """The table as a DataFrame with the columns of `RANKS`."""
        import pandas as pd

        return pd.DataFrame(list(self._taxa), columns=list(RANKS), dtype=str)

    def write(self, path: str | Path) -> None:
        """Write the table as Parquet."""
        self.frame().to_parquet(path, index=False)

    # -- names -------------------------------------------------------------------------------------------------

    def resolve(self, labels: Iterable[str]) -> Taxonomy:
        """Turn names that a person typed into taxa.

        A name is looked up in this table as species, genus, family or leaf type (in this order, whatever the case). A
        binomial that the table does not hold takes family and leaf type from its genus where all known species of the
        genus agree. A whole prompt ("Evergreen Needleleaf / Pinaceae / Pinus / Pinus mugo") is taken as it stands.

        Args:
            labels: Names at any rank.

        Returns:
            One taxon for each label, in the order given.

        Raises:
            InputError: If a label is empty, unknown as a single word, or given twice.
        """
        lookup: dict[str, Taxon] = {}
        for rank in RANKS:  # finer ranks overwrite: a genus named as its family is a rare, harmless clash
            for taxon in self.names(rank)[0]:
                if taxon.name(rank):
                    lookup[taxon.name(rank).casefold()] = taxon
        return Taxonomy([self._resolve_one(label, lookup) for label in labels])

    def _resolve_one(self, label: str, lookup: dict[str, Taxon]) -> Taxon:
        text = " ".join(str(label).split())
        if not text:
            raise InputError("labels: one label is empty; name a species, genus, family or leaf type")
        if " / " in text:
            parts = [part.strip() for part in text.split(" / ")]
            if len(parts) > len(RANKS):
                raise InputError(f"labels: {text!r} has {len(parts)} parts; a prompt has {' / '.join(RANKS)}")
            return Taxon(*parts)
        known = lookup.get(text.casefold())
        if known is not None:
            return known
        genus, _, rest = text.partition(" ")
        if not rest:
            raise InputError(
                f"labels: {text!r} is no leaf type, family, genus or species of the model; check the spelling, "
                f"or give a binomial or a table with the columns {', '.join(RANKS)}"
            )
        of_genus = lookup.get(genus.casefold(), Taxon())
        if of_genus.rank is not Rank.GENUS:
            of_genus = Taxon(genus=genus.capitalize())
        return of_genus._replace(species=f"{genus.capitalize()} {rest}")


def taxa_of_frame(frame: pd.DataFrame, where: str = "table") -> list[Taxon]:
    """The taxon of each row of a table (see `Taxonomy.from_frame` for the columns).

    Raises:
        DataError: If no rank column is there.
    """
    columns: dict[str, list[str]] = {}
    for name, rank in [*PUBLISHED_RANK_FIELDS.items(), *zip(RANKS, RANKS, strict=True)]:
        if name in frame.columns:
            columns[rank] = frame[name].fillna("").astype(str).str.strip().tolist()
    if not columns:
        raise DataError(f"{where}: no column of {', '.join(RANKS)} (found: {', '.join(map(str, frame.columns))})")
    empty = [""] * len(frame)
    return [Taxon(*parts) for parts in zip(*(columns.get(rank, empty) for rank in RANKS), strict=True)]


def log_sum_groups(
    log_prob: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """Log of summed probabilities within groups of columns, stable for very small values.

    Args:
        log_prob: [N, S].
        groups: [S] group of each column, 0 to `count` - 1, each group non-empty.
        count: G.

    Returns:
        [N, G].
    """
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(count))
    ordered = log_prob[:, order]
    peak = np.maximum.reduceat(ordered, starts, axis=1)
    safe = np.where(np.isfinite(peak), peak, 0.0)  # a group of impossible labels stays impossible, not NaN
    sums = np.add.reduceat(np.exp(ordered - safe[:, groups[order]]), starts, axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(sums) + safe, dtype=np.float64)
