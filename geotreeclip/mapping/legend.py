"""The legend of a map: a colour for each label, as a table, for QGIS and for GDAL.

G labels.
"""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import DataError
from geotreeclip.taxonomy import Taxon

__all__ = ["Legend", "make_legend", "palette", "read_colours", "write_legend"]

_ABSENT = "#c8c8c8"
_DISTINCT = 64
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Legend:
    """What the numbers of the label band stand for.

    Attributes:
        taxa: G labels; the number of a pixel is the position.
        colours: G colours, "#rrggbb"; grey for labels that no pixel has.
        pixels: [G] pixels of each.
        pixel_ha: Hectares of a pixel, NaN where the grid is in degrees.
    """

    taxa: tuple[Taxon, ...]
    colours: tuple[str, ...]
    pixels: NDArray[np.int64]
    pixel_ha: float

    @property
    def present(self) -> list[int]:
        """Labels that some pixel has, the most frequent first."""
        order = np.argsort(-self.pixels, kind="stable")
        return [int(index) for index in order if self.pixels[index]]

    def name(self, index: int) -> str:
        """Name of a label at its own rank."""
        return self.taxa[index].name(self.taxa[index].rank)


def make_legend(
    taxa: list[Taxon], pixels: NDArray[np.int64], pixel_ha: float, colours: dict[str, str] | None = None
) -> Legend:
    """Give the labels that occur colours that differ as much as can be, the most frequent ones first.

    Args:
        taxa: G labels.
        pixels: [G] pixels of each.
        pixel_ha: Hectares of a pixel.
        colours: Name to colour, for those that are given; other maps' colours stay the same so.
    """
    given = colours or {}
    named = [taxon.name(taxon.rank) for taxon in taxa]
    chosen = [given.get(name, _ABSENT) for name in named]
    fresh = (colour for colour in palette() if colour not in given.values())
    for index in np.argsort(-pixels, kind="stable"):
        if pixels[index] and named[index] not in given:
            # Beyond 64 labels on one map no eye tells colours apart; they come round again.
            chosen[index] = next(fresh, None) or palette()[index % _DISTINCT]
    return Legend(tuple(taxa), tuple(chosen), pixels, pixel_ha)


@functools.cache
def palette() -> tuple[str, ...]:
    """Colours of which the first k are far apart for every k: each next one is farthest from those before it.

    Distance is Euclidean in CIELAB (CIE 1976, white D65), after Gonzalez (1985); very light, dark and grey colours are
    left to paper, ink and no data, glaring ones to nobody.
    """
    steps = np.linspace(0, 1, 12)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    vivid = (lab[:, 0] > 28) & (lab[:, 0] < 90) & (chroma > 22) & (chroma < 72)
    rgb, lab = rgb[vivid], lab[vivid]
    first = int(np.abs(rgb - (0.13, 0.45, 0.2)).sum(axis=1).argmin())  # a green, for the most frequent
    chosen, near = [first], np.linalg.norm(lab - lab[first], axis=1)
    while len(chosen) < _DISTINCT:
        chosen.append(int(near.argmax()))
        near = np.minimum(near, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return tuple("#" + "".join(f"{round(255 * part):02x}" for part in rgb[index]) for index in chosen)


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of sRGB colours (IEC 61966-2-1), [n, 3]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (linear @ to_xyz.T / (0.9505, 1.0, 1.089)).T
    f = [np.where(v > (6 / 29) ** 3, np.cbrt(v), v / (3 * (6 / 29) ** 2) + 4 / 29) for v in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=1)


def read_colours(path: Path) -> dict[str, str]:
    """Colours by label of a table with columns `label` and `colour`, as `write_legend` writes it.

    Raises:
        DataError: If it is no such table, or a colour is not written as #rrggbb.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"--colours {path}: cannot be read as a table ({error})") from error
    if not rows or not {"label", "colour"} <= set(rows[0]):
        raise DataError(f"--colours {path}: needs columns label and colour")
    for number, row in enumerate(rows, 1):
        if not _COLOUR.fullmatch(row["colour"] or ""):
            raise DataError(f"--colours {path}: row {number}: {row['colour']!r} is no colour; write it as #1b7837")
    return {row["label"]: row["colour"] for row in rows if row["colour"] != _ABSENT}


def write_legend(legend: Legend, raster: Path) -> list[Path]:
    """Write NAME.legend.csv, NAME.qml (QGIS) and NAME.tif.aux.xml (GDAL: colours, categories, attribute table).

    Args:
        legend: The legend.
        raster: The map that it belongs to.

    Returns:
        The files.
    """
    files = {
        raster.with_name(raster.stem + ".legend.csv"): _table(legend),
        raster.with_suffix(".qml"): _qml(legend),
        raster.with_name(raster.name + ".aux.xml"): _pam(legend),
    }
    for path, text in files.items():
        _write(path, text)
    return list(files)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def _table(legend: Legend) -> str:
    import io

    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["index", "label", "rank", "genus", "family", "leaf_type", "colour", "pixels", "share", "area_ha"])
    total = max(1, int(legend.pixels.sum()))
    for index, taxon in enumerate(legend.taxa):
        count = int(legend.pixels[index])
        area = "" if np.isnan(legend.pixel_ha) else f"{count * legend.pixel_ha:.2f}"
        rows.writerow(
            [index, legend.name(index), taxon.rank.value, taxon.genus, taxon.family, taxon.leaf_type,
             legend.colours[index], count, f"{count / total:.6f}", area]
        )  # fmt: skip
    return stream.getvalue()


def _qml(legend: Legend) -> str:
    entries = "\n".join(
        f'        <paletteEntry value="{index}" color="{legend.colours[index]}" alpha="255" '
        f"label={quoteattr(legend.name(index))}/>"
        for index in legend.present
    )
    return (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.22">\n  <pipe>\n'
        '    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        f"      <colorPalette>\n{entries}\n      </colorPalette>\n    </rasterrenderer>\n  </pipe>\n</qgis>\n"
    )


def _pam(legend: Legend) -> str:
    """The auxiliary file of GDAL; types 0 and 2 are whole numbers and texts, usages those of GDALRATFieldUsage."""
    from xml.sax.saxutils import escape

    def rgb(index: int) -> tuple[int, ...]:
        return tuple(int(legend.colours[index][place : place + 2], 16) for place in (1, 3, 5))

    count = range(len(legend.taxa))
    colours = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255"/>' for r, g, b in map(rgb, count))
    names = "".join(f"<Category>{escape(legend.name(index))}</Category>" for index in count)
    fields = (
        ("Value", 0, 5), ("Label", 2, 2), ("Count", 0, 1), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8),
        ("Rank", 2, 0), ("Genus", 2, 0), ("Family", 2, 0),
    )  # fmt: skip
    defined = "".join(
        f'<FieldDefn index="{place}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for place, (name, kind, usage) in enumerate(fields)
    )
    rows = ""
    for index, taxon in enumerate(legend.taxa):
        cells = (index, legend.name(index), int(legend.pixels[index]), *rgb(index), taxon.rank.value, taxon.genus,
                 taxon.family)  # fmt: skip
        rows += f'<Row index="{index}">' + "".join(f"<F>{escape(str(cell))}</F>" for cell in cells) + "</Row>"
    return (
        f'<PAMDataset>\n<PAMRasterBand band="1">\n<ColorInterp>Palette</ColorInterp>\n<ColorTable>{colours}'
        f"</ColorTable>\n<CategoryNames>{names}</CategoryNames>\n"
        f'<GDALRasterAttributeTable tableType="thematic">{defined}{rows}</GDALRasterAttributeTable>\n'
        "</PAMRasterBand>\n</PAMDataset>\n"
    )
