"""A run of the demo's own recipe at a size for tests: same model, same stages, fewer photographs."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from pipeline_lib.config.load import load_recipe
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

RECIPES = Path(__file__).parents[1] / "recipes" / "self_improve"


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


def watch_run(recipe: SelfImproveRecipe) -> Watched:
    """Run the flow in this process and tell which stages were computed and which were cached."""
    from flows.self_improve import self_improve

    with listen("whyscore") as messages, listen("prefect.task_runs") as prefect_messages:
        self_improve(recipe)
    return Watched(messages, prefect_messages)


def write_small_recipe(folder: Path, store: Path, table: Path | None = None) -> Path:
    """A recipe of two iterations over 40 training, 24 validation and 16 test images, or over those of a table."""
    if table is None:
        table = write_dataset(folder / "data", seed=5, train=40, val=24, test=16)
    fields = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    fields["name"] = "small"
    fields["iterations"] = 2
    fields["data"]["table"] = str(table)
    fields["training"] |= {"batch_size": 8, "micro_batch_size": 8, "epochs": 1}
    fields["evaluation"] = {"bootstrap_samples": 100}
    fields["runtime"] |= {"store": str(store), "shard_rows": 16, "checkpoint_every": 2, "generation_batch_size": 16}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def make_small_run(folder: Path) -> None:
    """The recipe, its data, the store of its finished run, and what that run logged; on the Prefect server there is."""
    recipe = load_recipe(write_small_recipe(folder, folder / "store"))
    (folder / "watched.json").write_text(json.dumps(vars(watch_run(recipe))))


def read_watched(folder: Path) -> Watched:
    """What the run of `make_small_run` computed."""
    watched = Watched([], [])
    vars(watched).update(json.loads((folder / "watched.json").read_text()))
    return watched
