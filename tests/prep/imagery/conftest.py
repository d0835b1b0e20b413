"""Fixtures of the imagery tests."""

from pathlib import Path

import pytest
from imagery_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "stac")
