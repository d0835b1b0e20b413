"""Which month and which band a layer holds, by its name: "2020-06_B04", "B8A jun", "s2_202006"."""

from __future__ import annotations

import re

from geotreeclip.inputs.bands import UNUSED_BANDS, band_name

__all__ = ["band_in", "is_unused", "month_in"]

_WORDS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_DATED = re.compile(r"(?<!\d)(?:19|20)\d\d[-_. ]?(0[1-9]|1[0-2])(?!\d{3})(?!\d(?!\d))")
_SAID = re.compile(r"(?:^|[^a-z])(?:month|mon|m)[-_. ]?(\d{1,2})(?!\d)")
_NUMBER = re.compile(r"(?<![\da-z])(\d{1,2})(?![\da-z])")
_SPLIT = re.compile(r"[\s_./:|,;-]+")


def band_in(name: str) -> tuple[str | None, str]:
    """The band that a name tells, of those the model reads or `UNUSED_BANDS`, and the name without it.

    Args:
        name: Such as "2020-06_B04", "nir 06", "B8A_jun".

    Returns:
        The schema's name of the band, or None where no word, or more than one, is a band.
    """
    words = [word for word in _SPLIT.split(name) if word]
    found = [word for word in words if band_name(word) is not None]
    if len({band_name(word) for word in found}) != 1:
        return None, name
    return band_name(found[0]), re.sub(rf"(?<![0-9A-Za-z]){re.escape(found[0])}(?![0-9A-Za-z])", " ", name)


def month_in(name: str) -> int | None:
    """The calendar month, 1 to 12, that a name tells, or None where it tells none or several.

    A year with its month ("2020-06", "202006", "2020-06-15") goes before "m06" or "month 6", this before the English
    name of a month, and that before a number standing alone.
    """
    text = name.lower()
    for pattern in (_DATED, _SAID):
        found = {int(number) for number in pattern.findall(text)}
        if found:
            return _only(found)
    words = [word for word in _SPLIT.split(text) if word]
    named = {
        number for number, month in enumerate(_WORDS, 1) for word in words if word == month or word == month[:3]
    }  # fmt: skip
    if named:
        return _only(named)
    return _only({int(number) for number in _NUMBER.findall(text)})


def _only(numbers: set[int]) -> int | None:
    number = next(iter(numbers)) if len(numbers) == 1 else 0
    return number if 1 <= number <= 12 else None


def is_unused(band: str) -> bool:
    """Whether stacks may hold a band that the model leaves out."""
    return band in UNUSED_BANDS
