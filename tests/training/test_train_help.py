"""Help of the training commands: every setting with its words, without the reader of arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from geotreeclip.training import cli
from geotreeclip.training.config import RunConfig
from geotreeclip.training.seasonal import cli as seasonal
from geotreeclip.training.seasonal.config import SeasonalConfig


def names(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from names(value, f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}"


@pytest.mark.parametrize(("main", "config"), [(cli.main, RunConfig), (seasonal.main, SeasonalConfig)])
def test_help_tells_of_every_setting(main, config, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    entries = capsys.readouterr().out.split("\n  --")
    told = {f"--{entry.split()[0]}": entry for entry in entries}
    wanted = list(names(config().to_dict()))
    assert len(wanted) > 20
    for name in wanted:
        assert len(told[name].partition("(default")[0].split()) > 2, f"{name} has no words"


def test_help_shows_choices_and_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--data", "x", "-h"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--precision {auto,no,bf16,fp16}" in text
    assert "--optimizer.learning_rate X Peak learning rate. (default: 0.001)" in text
    assert "--plan_tflops N dry run: sustained TFLOP/s of a device" in text


def test_settings_are_read_beside_options():
    config, options = cli.parse(["--data", "d", "--out", "o", "--dry-run", "--plan_taxa", "7", "--stream"])
    assert (config.data, config.out, config.stream) == ("d", "o", True)
    assert (options.dry_run, options.plan_taxa, options.plan_tflops) == (True, 7, 100.0)
