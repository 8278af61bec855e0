"""What the tests of the experiments share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from tests.flows.conftest import Watched, listen


def watch(flow: Callable[[SelfImproveRecipe], ArtifactRef], recipe: SelfImproveRecipe) -> Watched:
    """Run a flow in this process and tell which stages were computed and which were cached."""
    with listen("whyscore") as messages:
        flow(recipe)
    return Watched(messages, [])


def text_of(recipe: SelfImproveRecipe, experiment: str) -> str:
    """The table that an experiment ended in."""
    folder = Path(ArtifactStore(recipe.runtime.store).path(f"runs/{recipe.name}/{experiment}"))
    assert "<html" in (folder / "comparison.html").read_text()
    return (folder / "comparison.txt").read_text()


def tables(store: ArtifactStore, stage: str, name: str, earlier: Any = ()) -> dict[str, pa.Table]:
    """A table of every artifact of a stage that is not among the earlier ones, by key."""
    keys = [key for key in store.children(f"steps/{stage}") if key not in earlier]
    return {key: store.read_table(f"steps/{stage}/{key}", name) for key in keys}
