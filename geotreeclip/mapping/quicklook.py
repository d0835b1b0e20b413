"""A picture of a map with its legend, for a first look.

Shapes: h w pixels shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geotreeclip.data.shardfile import write_atomically
from geotreeclip.errors import ConfigError
from geotreeclip.mapping.legend import Legend
from geotreeclip.mapping.tiles import ENTROPY_SCALE, NODATA, PROBABILITY_SCALE

__all__ = ["write_quicklook"]

_LONGEST = 1400  # pixels shown along the longer side
_LISTED = 24


def write_quicklook(raster: Path, legend: Legend, out: Path, title: str) -> None:
    """Draw labels, probability and entropy side by side.

    Args:
        raster: The map.
        legend: Its legend.
        out: PNG to write.
        title: First line.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    try:
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ConfigError("the quick look needs matplotlib: pip install 'geotreeclip[prep]'") from error
    import rasterio

    with rasterio.open(raster) as source:
        shrink = max(1.0, max(source.height, source.width) / _LONGEST)
        shape = (3, max(1, round(source.height / shrink)), max(1, round(source.width / shrink)))
        data = source.read(out_shape=shape)
        metres = abs(source.transform.a) if source.crs.is_projected else None
        length = source.width
    label, known = data[0], data[0] != NODATA
    table = np.array([to_rgb(colour) for colour in legend.colours])
    picture = np.ones((*label.shape, 3))
    picture[known] = table[label[known]]

    height, width = label.shape
    aspect = min(2.5, max(0.4, height / width))
    side = 6.4  # inches, of the label map's width
    figure = Figure(figsize=(side + 6.4, max(4.4, side * aspect + 0.7)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(side, 2.9, 2.8))
    main = figure.add_subplot(grid[:, 0])
    main.imshow(picture, interpolation="nearest")
    main.set_title(title, fontsize=11, loc="left")
    if metres is not None:
        _scale_bar(main, width, height, metres * length / width)
    for row, (name, values, unit, top) in enumerate(
        (
            ("probability of the label", data[1] * PROBABILITY_SCALE, "", 1.0),
            ("entropy of all labels", data[2] * ENTROPY_SCALE, "nats", None),
        )
    ):
        axes = figure.add_subplot(grid[row, 1])
        shown = np.where(known, values, np.nan)
        image = axes.imshow(
            shown, interpolation="nearest", vmin=0, vmax=top, cmap="viridis" if row == 0 else "magma_r"
        )  # fmt: skip
        axes.set_title(name, fontsize=9.5, loc="left")
        figure.colorbar(image, ax=axes, label=unit, fraction=0.05, pad=0.03, aspect=14, shrink=0.9 * min(1, aspect))
        _bare(axes)
    _bare(main)
    beside = figure.add_subplot(grid[:, 2])
    beside.axis("off")
    beside.legend(
        handles=[Patch(facecolor=colour, label=text) for colour, text in _entries(legend)], loc="upper left",
        frameon=False, fontsize=9, borderaxespad=0, handlelength=1.2, handleheight=1.2, title="label, share of the map",
        title_fontsize=9, alignment="left", bbox_to_anchor=(0, 1),
    )  # fmt: skip
    write_atomically(out, lambda path: figure.savefig(path, format="png"))


def _entries(legend: Legend) -> list[tuple[str, str]]:
    """Colour and text of the labels, the most frequent first; the rest in one line."""
    total = max(1, int(legend.pixels.sum()))
    present = legend.present
    listed = present if len(present) <= _LISTED else present[: _LISTED - 1]
    entries = []
    for index in listed:
        name = legend.name(index)
        italic = f"$\\it{{{name.replace(' ', chr(92) + ' ')}}}$" if _is_plain(name) else name
        share = legend.pixels[index] / total
        entries.append((legend.colours[index], f"{italic}  {share:.1%}" if share >= 0.001 else f"{italic}  < 0.1%"))
    if len(listed) < len(present):
        rest = sum(int(legend.pixels[index]) for index in present[len(listed) :])
        entries.append(("#ffffff", f"{len(present) - len(listed)} more labels  {rest / total:.1%}"))
    return entries


def _is_plain(name: str) -> bool:
    """Whether a name can stand in mathematical italics without being taken for markup."""
    return all(letter.isalpha() or letter == " " for letter in name)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#999999")


def _scale_bar(axes: Any, width: int, height: int, metres: float) -> None:
    """A bar of about a fifth of the width, of 1, 2 or 5 times a power of ten metres, below the map."""
    wanted = width * metres / 5
    power = 10 ** np.floor(np.log10(wanted))
    size = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    text = f"{size / 1000:g} km" if size >= 1000 else f"{size:g} m"
    axes.annotate(
        "", xy=(0, -0.03), xytext=(size / metres / width, -0.03), xycoords="axes fraction", annotation_clip=False,
        arrowprops={"arrowstyle": "|-|,widthA=0.25,widthB=0.25", "shrinkA": 0, "shrinkB": 0, "lw": 1.2},
    )  # fmt: skip
    axes.annotate(text, xy=(size / metres / width + 0.015, -0.03), xycoords="axes fraction", va="center", fontsize=9,
                  annotation_clip=False)  # fmt: skip
