import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config.load import load_recipe
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tests.small_run import Watched, listen, read_watched, watch_run

__all__ = ["Watched", "listen"]


@pytest.fixture(scope="session")
def run_flow(prefect_server: str) -> Callable[[SelfImproveRecipe], Watched]:
    """Run the flow in this process and tell which stages were computed and which were cached."""
    return watch_run


@pytest.fixture(scope="session")
def finished(small_run: Path) -> tuple[Path, Watched]:
    """A folder with recipe, data and the store of one finished run, and what that run computed."""
    return small_run, read_watched(small_run)


@pytest.fixture
def again(finished: tuple[Path, Watched], tmp_path: Path) -> SelfImproveRecipe:
    """The recipe of the finished run over a copy of its store, to damage."""
    shutil.copytree(finished[0] / "store", tmp_path / "store")
    return load_recipe(finished[0] / "small.yaml", {"runtime.store": str(tmp_path / "store")})
