import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from pipeline_lib.config.load import load_recipe
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tests.small_run import write_small_recipe


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with a database of its own."""
    from tasks.stage.cards import flush

    with prefect_test_harness(server_startup_timeout=120):
        yield
        flush()  # a card that is sent when the server is gone keeps the process for a minute


class Watched:
    """Stages by what happened to them in one run of the flow, and the states that Prefect gave them."""

    def __init__(self, messages: list[str], prefect_messages: list[str]):
        self.cached = [line.split(":")[0] for line in messages if ": cached [" in line]
        self.computed = [line.split(":")[0] for line in messages if ": computing [" in line]
        self.prefect_states = [
            line.removeprefix("Finished in state ") for line in prefect_messages if "in state" in line
        ]


@contextmanager
def listen(name: str) -> Iterator[list[str]]:
    """The messages that a logger gets meanwhile."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture(scope="session")
def run_flow(prefect_server: None) -> Callable[[SelfImproveRecipe], Watched]:
    """Run the flow in this process and tell which stages were computed and which were cached."""

    def call(recipe: SelfImproveRecipe) -> Watched:
        from flows.self_improve import self_improve

        with listen("whyscore") as messages, listen("prefect.task_runs") as prefect_messages:
            self_improve(recipe)
        return Watched(messages, prefect_messages)

    return call


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, run_flow: Callable[[SelfImproveRecipe], Watched]
) -> tuple[Path, Watched]:
    """A folder with recipe, data and the store of one finished run, and what that run computed."""
    folder = tmp_path_factory.mktemp("finished")
    watched = run_flow(load_recipe(write_small_recipe(folder, folder / "store")))
    return folder, watched


@pytest.fixture
def again(finished: tuple[Path, Watched], tmp_path: Path) -> SelfImproveRecipe:
    """The recipe of the finished run over a copy of its store, to damage."""
    shutil.copytree(finished[0] / "store", tmp_path / "store")
    return load_recipe(finished[0] / "small.yaml", {"runtime.store": str(tmp_path / "store")})
