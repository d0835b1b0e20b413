"""Every model that is offered has its card, which can be read by the hub, says all it must, and is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from geotreeclip.cli import main
from geotreeclip.model_card import SECTIONS
from geotreeclip.model_card_texts import size_card
from geotreeclip.models.config import model_names

CARDS = Path(__file__).parents[1] / "model_cards"
FILES = sorted(path for path in CARDS.glob("*.md") if path.name != "README.md")


def test_every_registered_size_has_a_card():
    assert set(model_names()) == {path.stem.partition("-")[0] for path in FILES}
    listed = (CARDS / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_hub_reads_it_and_nothing_is_left_out(path):
    text = path.read_text()
    card = ModelCard(text)
    assert card.data.library_name == "geotreeclip"
    assert "sentinel-2" in card.data.tags
    assert card.data.license
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(SECTIONS)
    for licence in ("- Code: Apache-2.0", "- Weights: ", "- Training data: "):
        assert licence in text
    assert "(B8 is the fourth)" in " ".join(text.split())


@pytest.mark.parametrize("path", [path for path in FILES if "-" not in path.stem], ids=lambda path: path.stem)
def test_a_card_without_a_run_is_what_the_command_prints(path, capsys):
    assert path.read_text() == size_card(path.stem)
    assert main(["card", "--size", path.stem]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_the_demo_card_tells_the_hub_its_scores():
    results = ModelCard((CARDS / "tiny-demo.md").read_text()).data.eval_results
    found = {result.metric_name: result.metric_value for result in results}
    assert 0 < found["species top-1, uniform prior"] < found["species top-5, uniform prior"] < 1


def test_no_weights_no_scores():
    for name in ("small", "base"):
        card = ModelCard((CARDS / f"{name}.md").read_text())
        assert "No weights exist yet" in card.text
        assert card.data.eval_results is None


def test_a_size_goes_alone(capsys):
    assert main(["card", "runs/x", "--size", "small"]) == 2
    assert "--size goes alone" in capsys.readouterr().err
    assert main(["card", "--size", "huge"]) == 2
    assert "not registered" in capsys.readouterr().err
