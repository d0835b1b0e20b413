"""What a given file is: a Darwin Core Archive, a SIMPLE_CSV or SIMPLE_PARQUET download, or a table, and how it is read.

Only headers and descriptions are read here, so that a wrong file is refused before any work begins.
"""

from __future__ import annotations

import codecs
import posixpath
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.prep.occurrences.archive import Core, find_meta, members, parse_meta
from geotreeclip.prep.occurrences.fields import columns_of, holds_occurrences
from geotreeclip.prep.occurrences.streams import ZIPS, kind_of, open_binary, open_parquet

__all__ = ["ReadingOptions", "Source", "find_sources", "split_header"]

HEADER_BYTES = 4_000_000
_TEXTS = (".csv", ".tsv", ".txt", ".tab")
_BESIDES = ("verbatim.txt", "multimedia.txt", "citations.txt", "rights.txt")  # what GBIF packs beside the records


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """What the user states about text files; empty means: as the file shows."""

    encoding: str = ""
    separator: str = ""
    quote: str = ""

    def __post_init__(self) -> None:
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise ConfigError(f"encoding {self.encoding!r} is unknown; try utf-8 or latin-1") from error
        if len(self.separator) > 1 or self.quote not in ("", "none", '"', "'"):
            raise ConfigError(
                f"separator {self.separator!r}, quote {self.quote!r}: give one character, and none, \" or ' as quote"
            )


@dataclass(frozen=True, slots=True)
class Source:
    """One table of occurrences and how to read it.

    Attributes:
        label: Its name in outputs, unlike that of any other source.
        path: The file.
        member: The file inside the archive, or "".
        kind: "text" or "parquet".
        columns: Positions of the columns of each field.
        width: Columns of a whole row.
        defaults: Values of fields that have no column, or where it is empty.
        encoding: Of text, by Python's name.
        separator: Between fields.
        quote: Around fields, or "".
        header_lines: To be skipped.
        notes: What is particular about it, for the report.
    """

    label: str
    path: str
    member: str
    kind: str
    columns: dict[str, tuple[int, ...]]
    width: int
    defaults: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    separator: str = "\t"
    quote: str = ""
    header_lines: int = 1
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Path, and member inside the archive."""
        return f"{self.path}!{self.member}" if self.member else self.path


def find_sources(paths: Sequence[str | Path], options: ReadingOptions | None = None) -> list[Source]:
    """The tables of occurrences in a list of files and folders, in the order given.

    Raises:
        DataError: A file is absent, of no known kind, empty, damaged or without the columns of an occurrence.
    """
    options = options or ReadingOptions()
    sources = [source for path in paths for source in _of_path(Path(path), options)]
    if len({(source.path, source.member) for source in sources}) < len(sources):
        raise DataError("a file is given twice; give each once")
    return _label(sources)


def _label(sources: list[Source]) -> list[Source]:
    """Tells sources of one name apart."""
    seen: dict[str, int] = {}
    labelled = []
    for source in sources:
        number = seen[source.label] = seen.get(source.label, 0) + 1
        labelled.append(source if number == 1 else replace(source, label=f"{source.label}#{number}"))
    return labelled


def _of_path(path: Path, options: ReadingOptions) -> list[Source]:
    if path.is_dir():
        return _of_folder(path, options)
    kind = kind_of(path)
    if kind == "parquet":
        return [_parquet(path, "", path.stem)]
    if kind == "zip":
        return _of_zip(path, options)
    return [_text(path, "", path.name.split(".")[0], options)]


def _of_folder(folder: Path, options: ReadingOptions) -> list[Source]:
    """An unpacked archive, or the parts of a Parquet table, which GBIF writes without an ending."""
    if (folder / "meta.xml").is_file():
        core = parse_meta((folder / "meta.xml").read_bytes(), str(folder / "meta.xml"))
        for name in core.files:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{folder / 'meta.xml'}: names {name!r}, which lies outside of the folder")
        return [_described(folder / name, "", folder.name, core, options) for name in core.files]
    if (folder / "occurrence.txt").is_file():
        return [_undescribed(folder / "occurrence.txt", "", folder.name, options)]
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_")))
    parts = [path for path in files if kind_of(path, empty="") == "parquet"]
    if not parts:
        raise DataError(
            f"{folder}: holds neither meta.xml, occurrence.txt nor Parquet files; give the files themselves"
        )
    return [_parquet(path, "", f"{folder.name.split('.')[0]}-{path.stem}") for path in parts]


def _of_zip(path: Path, options: ReadingOptions) -> list[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = members(archive)
            meta = find_meta(names, str(path))
            if meta and archive.getinfo(meta).file_size > 4_000_000:
                raise DataError(f"{path}!{meta}: is too long for the description of an archive")
            text = archive.read(meta) if meta else b""
    except ZIPS as error:
        raise DataError(f"{path}: cannot be read as a zip archive: {error}; is the download complete?") from error
    if meta:
        core = parse_meta(text, f"{path}!{meta}", posixpath.dirname(meta))
        if lost := [name for name in core.files if name not in names]:
            raise DataError(f"{path}: {meta} names {lost[0]!r}, which the archive does not hold")
        return [_described(path, name, path.stem, core, options) for name in core.files]
    if parts := sorted(name for name in names if kind_of(path, name, empty="") == "parquet"):
        return [_parquet(path, name, f"{path.stem}-{posixpath.basename(name)}") for name in parts]
    tables = [name for name in names if posixpath.splitext(name)[1].lower() in _TEXTS]
    records = [name for name in tables if posixpath.basename(name) == "occurrence.txt"]
    if len(records) == 1:
        return [_undescribed(path, records[0], path.stem, options)]
    tables = [name for name in tables if posixpath.basename(name) not in _BESIDES]
    if len(tables) != 1:
        held = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "nothing"
        raise DataError(
            f"{path}: has no meta.xml, no occurrence.txt and not one table ({held}); it is neither a Darwin Core "
            "Archive nor a SIMPLE_CSV download"
        )
    return [_text(path, tables[0], path.stem, options)]


def _described(path: Path, member: str, label: str, core: Core, options: ReadingOptions) -> Source:
    """A file that `meta.xml` describes."""
    where = f"{path}!{member}" if member else str(path)
    encoding = options.encoding or core.encoding
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise DataError(f"{where}: meta.xml states the encoding {encoding!r}, which is unknown (--encoding)") from error
    separator, quote = options.separator or core.separator, _quote(options, core.quote)
    first = split_header(_first_line(path, member, encoding), separator, quote)
    if len(first) <= max(core.terms):
        raise DataError(
            f"{where}: its first line has {len(first)} fields, but meta.xml puts {core.terms[max(core.terms)]!r} at "
            f"{max(core.terms) + 1}; archive and description do not belong together, or the separator is wrong"
        )
    columns = columns_of(core.terms.get(position, "") for position in range(len(first)))
    notes = [f"extension {name} is not read" for name in core.extensions]
    if not core.header_lines:
        notes.append("no header line; columns by meta.xml")
    return _checked(
        Source(
            label, str(path), member, "text", columns, len(first), _defaults(core.defaults), encoding, separator,
            quote, core.header_lines, tuple(notes),
        ),
        list(core.terms.values()),
    )  # fmt: skip


def _defaults(terms: dict[str, str]) -> dict[str, str]:
    """Constant values by field."""
    return {name: value for term, value in terms.items() for name in columns_of([term])}


def _undescribed(path: Path, member: str, label: str, options: ReadingOptions) -> Source:
    """The records of an archive without `meta.xml`: GBIF writes them tab separated, unquoted, with a header."""
    source = _text(path, member, label, options)
    return replace(source, notes=(*source.notes, "no meta.xml: columns by the header line of occurrence.txt"))


def _text(path: Path, member: str, label: str, options: ReadingOptions) -> Source:
    """A text table with a header, its separator and quotes as the header shows.

    Tab separated tables are taken to be unquoted, as GBIF writes them, unless their header is quoted.
    """
    encoding = options.encoding or "utf-8"
    line = _first_line(path, member, encoding)
    separator = options.separator or max("\t,;|", key=line.count)
    quoted = separator != "\t" or line.lstrip("\ufeff").startswith('"')
    quote = _quote(options, '"' if quoted else "")
    header = split_header(line, separator, quote)
    notes = () if separator == "\t" else (f"separated by {separator!r}, quoted",)
    return _checked(
        Source(
            label, str(path), member, "text", columns_of(header), len(header), {}, encoding, separator, quote, 1, notes
        ),
        header,
    )  # fmt: skip


def _quote(options: ReadingOptions, shown: str) -> str:
    return "" if options.quote == "none" else options.quote or shown


def _parquet(path: Path, member: str, label: str) -> Source:
    with open_parquet(path, member) as file:
        names = list(file.schema_arrow.names)
    return _checked(Source(label, str(path), member, "parquet", columns_of(names), len(names)), names)


def _checked(source: Source, names: Sequence[str]) -> Source:
    if lacking := holds_occurrences({**source.columns, **source.defaults}):
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise DataError(f"{source.where}: lacks {lacking}; its columns are {shown}")
    return source


def split_header(line: str, separator: str, quote: str) -> list[str]:
    """The fields of a line."""
    import csv

    line = line.lstrip("\ufeff")
    if not quote:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator, quotechar=quote), [""])


def _first_line(path: Path, member: str, encoding: str) -> str:
    """The first line of a text file.

    Raises:
        DataError: The file is empty or not text of the encoding.
    """
    where = f"{path}!{member}" if member else str(path)
    with open_binary(path, member) as stream:
        start = stream.read(65536)
        while b"\n" not in start and b"\r" not in start and len(start) < HEADER_BYTES:
            more = stream.read(65536)
            if not more:
                break
            start += more
    if not start.strip():
        raise DataError(f"{where}: is empty; a table with a header is expected")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{where}: is UTF-16 text; save it as UTF-8")
    line = start.splitlines()[0]
    if not line.strip():
        raise DataError(f"{where}: begins with an empty line; delete it, the first line names the columns")
    if b"\0" in line or len(line) >= HEADER_BYTES:
        raise DataError(f"{where}: is no text table (its first line holds NUL bytes, or does not end)")
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its first line is not {encoding}: {error}; give --encoding") from error
