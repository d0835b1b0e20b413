"""Files inside zip archives, and the description (`meta.xml`) of a Darwin Core Archive.

Format: Darwin Core Text Guide, https://dwc.tdwg.org/text. Members are read as streams and never unpacked to the disk.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from geotreeclip.errors import DataError

__all__ = ["Core", "find_meta", "is_junk", "parse_meta"]

META_BYTES = 4_000_000
"""Longest `meta.xml` that is read; real ones have tens of kilobytes."""

_OCCURRENCE = "occurrence"


@dataclass(frozen=True, slots=True)
class Core:
    """How the files of occurrences in an archive are written.

    Attributes:
        files: Their paths in the archive.
        encoding: Of the text.
        separator: Between fields.
        quote: Around fields, or "".
        header_lines: To be skipped.
        terms: Short names of the columns by position.
        defaults: Values of terms that have no column, or only where it is empty.
        extensions: Files of extensions, which are not read.
    """

    files: tuple[str, ...]
    encoding: str
    separator: str
    quote: str
    header_lines: int
    terms: dict[int, str]
    defaults: dict[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()


def is_junk(name: str) -> bool:
    """Whether a member is a folder or what a Mac leaves in archives."""
    return name.endswith("/") or "__MACOSX/" in name or posixpath.basename(name).startswith("._")


def find_meta(names: Sequence[str], where: str) -> str:
    """The `meta.xml` of an archive, at the top or in its one folder, or "" where there is none.

    Raises:
        DataError: There are several at the same depth.
    """
    found = sorted(
        (name for name in names if posixpath.basename(name) == "meta.xml" and not is_junk(name)),
        key=lambda name: (name.count("/"), name),
    )
    if len(found) > 1 and found[0].count("/") == found[1].count("/"):
        raise DataError(f"{where}: holds several archives ({found[0]}, {found[1]}); pack each as a file of its own")
    return found[0] if found else ""


def parse_meta(text: bytes, where: str, folder: str = "") -> Core:
    """Read a `meta.xml`.

    Args:
        text: Its bytes.
        where: What to call it in an error.
        folder: Its folder in the archive, to which the files are relative.

    Raises:
        DataError: It is no valid description, or not one of occurrences.
    """
    # White space before the declaration is an error to XML parsers and common in re-packed archives.
    text = text.removeprefix(b"\xef\xbb\xbf").strip()
    if len(text) > META_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{where}: is no plain description of an archive (too long, or with entities of its own)")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  # entities are refused above
    except ElementTree.ParseError as error:
        raise DataError(f"{where}: is no valid XML: {error}; ask for the archive again") from error
    core = _child(root, "core")
    if core is None:
        raise DataError(f"{where}: has no <core>; it does not describe a Darwin Core Archive")
    kind = _short(core.get("rowType", ""))
    extensions = tuple(name for child in root if _short(child.tag) == "extension" for name in _locations(child))
    if kind.casefold() != _OCCURRENCE:
        raise DataError(
            f"{where}: the core holds {kind or 'rows of no stated type'}, not occurrences; archives with occurrences "
            "as an extension (of events or checklists) keep their places in other files: ask GBIF for an occurrence "
            "download of the data set"
        )
    files = tuple(posixpath.normpath(posixpath.join(folder, name)) for name in _locations(core))
    if not files:
        raise DataError(f"{where}: the core names no file (<files><location>)")
    separator, quote = _unescape(core.get("fieldsTerminatedBy", ",")), _unescape(core.get("fieldsEnclosedBy", '"'))
    lines = _unescape(core.get("linesTerminatedBy", "\n"))
    if len(separator) != 1 or len(quote) > 1 or lines not in ("\n", "\r\n", "\r"):
        raise DataError(
            f"{where}: fields separated by {separator!r} and enclosed by {quote!r}, lines ended by {lines!r}: only "
            "single characters and ordinary line ends can be read"
        )
    terms, defaults = _terms(core, where)
    header = core.get("ignoreHeaderLines") or "0"
    if not header.isdigit():
        raise DataError(f"{where}: ignoreHeaderLines is {header!r}, a number is expected")
    return Core(files, core.get("encoding") or "UTF-8", separator, quote, int(header), terms, defaults, extensions)


def _terms(core: Any, where: str) -> tuple[dict[int, str], dict[str, str]]:
    """Short names of terms by column, and constant values."""
    terms: dict[int, str] = {}
    defaults: dict[str, str] = {}
    for child in core:
        name, index = _short(child.tag), child.get("index")
        if name not in ("id", "field"):
            continue
        term = "id" if name == "id" else _short(child.get("term", "")).casefold()
        if index is not None and not index.isdigit():
            raise DataError(f"{where}: the column of {term!r} is {index!r}, a number is expected")
        if index is not None and (name == "field" or int(index) not in terms):
            terms[int(index)] = term
        if child.get("default"):
            defaults[term] = child.get("default", "")
    if not terms:
        raise DataError(f"{where}: the core names no field")
    return terms, defaults


def _locations(part: Any) -> list[str]:
    files = _child(part, "files")
    locations = [] if files is None else [child for child in files if _short(child.tag) == "location"]
    return [child.text.strip() for child in locations if child.text and child.text.strip()]


def _child(part: Any, name: str) -> Any:
    return next((child for child in part if _short(child.tag) == name), None)


def _short(term: str) -> str:
    """The last part of a URI or of a name with a namespace."""
    return term.rstrip("/#").rpartition("/")[2].rpartition("#")[2].rpartition("}")[2]


def _unescape(text: str) -> str:
    for written, meant in (("\\t", "\t"), ("\\r", "\r"), ("\\n", "\n"), ('\\"', '"')):
        text = text.replace(written, meant)
    return text


def members(archive: zipfile.ZipFile) -> list[str]:
    """Names of the files in an archive, in its order."""
    return [name for name in archive.namelist() if not is_junk(name)]
