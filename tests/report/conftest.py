"""Run folders for the report's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_folders import RunMaker, make_run_folder


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    def make(name: str = "run", **settings: Any) -> Path:
        return make_run_folder(tmp_path / name, **settings)

    return make
