"""Pictures of seasons hold what they should, and the command writes them."""

import numpy as np
import pandas as pd
import pytest

from geotreeclip.errors import ConfigError, DataError
from geotreeclip.evaluation.season_figures import DrawnSeries, draw_cycles, draw_embeddings, draw_map, save_figure
from geotreeclip.evaluation.season_figures_cli import main
from geotreeclip.prep.phenology import MONTH_MIDDLES, Cycles, fit_cycles
from geotreeclip.prep.phenology.fit import fitted_curve

pytest.importorskip("matplotlib")


def year(peak: float = 196.0, amplitude: float = 0.4) -> np.ndarray:
    away = (MONTH_MIDDLES - peak + 182.5) % 365 - 182.5
    return 0.15 + amplitude * np.exp(-((away / 55) ** 2))


def drawn(values: np.ndarray, title: str = "a", screened: int | None = None, latitude: float = 50.0) -> DrawnSeries:
    spikes = np.zeros(12, bool)
    if screened is not None:
        spikes[screened] = True
    return DrawnSeries(title, MONTH_MIDDLES, values, spikes, latitude)


def bands(axes) -> dict[str, float]:
    """Days shaded of each colour."""
    found: dict[str, float] = {}
    for patch in axes.patches:
        color = tuple(np.round(patch.get_facecolor()[:3], 3))
        found[str(color)] = found.get(str(color), 0) + patch.get_width()
    return found


def test_a_fitted_cycle_is_drawn_over_its_observations_with_seasons_shaded():
    values = np.stack([year(), year(15.0), np.full(12, 0.3)])
    cycles = fit_cycles(values, MONTH_MIDDLES)
    figure = draw_cycles(
        [drawn(values[0], "north", screened=3), drawn(values[1], "south"), drawn(values[2], "flat")], cycles
    )
    assert len(figure.axes) == 3
    north, south, flat = figure.axes
    for axes in (north, south):
        assert np.isclose(sum(bands(axes).values()), 365)  # seasons fill the year, also across New Year
        assert len(bands(axes)) == 4
        assert sum(len(line.get_xdata()) == 2 for line in axes.lines) == 4  # the four dates
    assert not flat.patches
    assert "no peak of enough height" in flat.get_title(loc="left")
    assert "north\ngreenup" in north.get_title(loc="left")
    by_label = {line.get_label(): line for line in north.lines}
    assert np.isfinite(by_label["observed"].get_ydata()).sum() == 11
    assert by_label["left out as spike"].get_xdata().tolist() == [MONTH_MIDDLES[3]]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["spring", "summer", "autumn", "winter", "fitted curve", "observed", "left out as spike"]
    assert all(axes.get_ylabel() == "EVI2" for axes in (north, flat))
    with pytest.raises(DataError, match="no series"):
        draw_cycles([], cycles)


def test_the_drawn_curve_is_the_fitted_one():
    values = year()
    line, filled = fitted_curve(values, MONTH_MIDDLES, None, MONTH_MIDDLES)
    assert np.allclose(line, values)  # a curve through the observations
    assert not filled.any()
    cycle = fit_cycles(values[None], MONTH_MIDDLES)[0]
    at, _ = fitted_curve(values, MONTH_MIDDLES, None, [cycle.greenup, cycle.senescence])
    low = min(values)
    assert np.isclose(at[0], low + 0.15 * (max(values) - low), atol=2e-3)
    winter = values.copy()
    winter[[11, 0]] = np.nan
    line, filled = fitted_curve(winter, MONTH_MIDDLES, 68.0, MONTH_MIDDLES)
    assert np.flatnonzero(filled).tolist() == [0, 11]
    assert np.isfinite(line).all()
    assert np.isnan(fitted_curve(np.full(12, np.nan), MONTH_MIDDLES, None, [1.0])[0]).all()


def test_a_map_shows_every_known_date_and_tells_own_from_taken():
    lon, lat = np.array([10.0, 11, 12, 13]), np.array([50.0, 51, 52, 53])
    figure = draw_map(lon, lat, np.array([100.0, 120, np.nan, 90]), ["observed", "calendar", "", "product"])
    axes, bar = figure.axes
    sizes = {group.get_label(): len(group.get_offsets()) for group in axes.collections}
    assert sizes == {"greenup not its own (1)": 1, "greenup its own (2)": 2}
    assert axes.get_title(loc="left") == "greenup of 3 places, 1 without"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("longitude", "latitude")
    assert len(bar.get_yticks()) == 12
    with pytest.raises(DataError, match="none of 4 places has a greenup"):
        draw_map(lon, lat, np.full(4, np.nan), [""] * 4)


def test_embeddings_have_a_colour_for_each_season():
    rng = np.random.default_rng(0)
    panels = [(name, rng.normal(size=(40, 2)), np.arange(40) % 3) for name in ("random", "season2")]
    figure = draw_embeddings(panels)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["random", "season2"]
    for axes in figure.axes:
        assert {line.get_label(): len(line.get_xdata()) for line in axes.lines} == {
            "spring": 14,
            "summer": 13,
            "autumn": 13,
        }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["spring", "summer", "autumn"]


def test_the_command_draws_from_files(tmp_path, capsys):
    table = pd.DataFrame({"sample_id": ["p", "q"], "lon": [10.0, 20], "lat": [50.0, 51], "start": [1, 10]})
    for month in range(12):
        table[f"e_{month}"] = [year()[month], np.roll(year(), -9)[month]]
    table.to_parquet(tmp_path / "t.parquet")
    base = ["cycle", "--table", str(tmp_path / "t.parquet"), "--index", "e_{}", "--start", "start"]
    assert main([*base, "--samples", "q", "--out", str(tmp_path / "one.png")]) == 0
    assert main([*base, "--out", str(tmp_path / "two.png")]) == 0
    assert "2 fitted cycles" in capsys.readouterr().out
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("one.png", "two.png"))
    with pytest.raises(DataError, match="has no sample 'x'"):
        main([*base, "--samples", "x", "--out", str(tmp_path / "x.png")])
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        main([*base, "--out", str(tmp_path / "x.jpg")])
    cycles = fit_cycles(np.stack([year(), year(40.0)]), MONTH_MIDDLES)
    frame = pd.concat(
        [table[["sample_id"]], pd.DataFrame({"longitude": [1.0, 2], "latitude": [3.0, 4]}), cycles.frame()], axis=1
    )
    frame.to_parquet(tmp_path / "p.parquet")
    assert (
        main(
            ["map", "--phenology", str(tmp_path / "p.parquet"), "--date", "dormancy", "--out", str(tmp_path / "m.png")]
        )
        == 0
    )
    frame.drop(columns="source").to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="lacks the columns source"):
        main(["map", "--phenology", str(tmp_path / "p.parquet"), "--out", str(tmp_path / "m.png")])


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    figure = draw_cycles([drawn(year())], Cycles.empty(1))
    assert save_figure(figure, tmp_path / "new" / "f.png").stat().st_size > 5000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.png"]
