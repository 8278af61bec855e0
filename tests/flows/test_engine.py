"""The `generate` stage through a generation server: the same pairs under another key, and a kill in the middle."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from prefect import flow

from pipeline_lib.config.load import load_recipe
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.engine_server import EngineServer, running
from pipeline_lib.vlm.model_ref import BUNDLED
from tasks.self_improve.generate import generate
from tasks.self_improve.run import prepare
from tasks.stage import Work
from tests.flows.conftest import listen
from tests.forked import ForkServer
from tests.small_run import write_small_recipe


class Generated(NamedTuple):
    """A folder with a recipe and a store that holds pairs by transformers and by the server."""

    folder: Path
    server: EngineServer
    recipe: SelfImproveRecipe
    inputs: GenerationInputs
    by_transformers: ArtifactRef
    by_engine: ArtifactRef

    def table(self, ref: ArtifactRef) -> pa.Table:
        return ArtifactStore(self.recipe.runtime.store).read_table(ref.address, "score_pairs")


@flow(name="pairs_alone")
def pairs(recipe: SelfImproveRecipe) -> tuple[GenerationInputs, ArtifactRef]:
    run = prepare(recipe)
    return run.base, generate(run.at.labelled("g"), recipe.generation, run.base, recipe.seed, 1)


SMALL = {"generation.fraction": 0.15, "model.max_new_tokens": 16}


def settings(server: EngineServer, folder: Path) -> dict[str, Any]:
    return {
        **SMALL,
        "generation.engine": "openai",
        "runtime.shard_rows": 2,
        "runtime.generation_server.base_url": server.url,
        "runtime.generation_server.model": "tiny",
        "runtime.generation_server.compare_pixels": False,  # else the model is loaded once, to compare
        "runtime.generation_server.adapters": str(folder / "served"),
    }


@pytest.fixture(scope="module")
def generated(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("engine")
    path = write_small_recipe(folder, folder / "store")
    with running(EngineServer(BUNDLED)) as server, pytest.MonkeyPatch.context() as patch:
        inputs, by_transformers = pairs(load_recipe(path, SMALL))

        def refuse(*_: object) -> None:
            raise AssertionError("weights were loaded")

        patch.setattr("pipeline_lib.vlm.load.load_vlm", refuse)
        recipe = load_recipe(path, settings(server, folder))
        yield Generated(folder, server, recipe, inputs, by_transformers, pairs(recipe)[1])


def test_the_pairs_are_those_of_transformers_under_a_key_of_their_own(generated: Generated) -> None:
    assert generated.by_engine.key != generated.by_transformers.key
    one, other = generated.table(generated.by_transformers), generated.table(generated.by_engine)
    assert one.num_rows == 6 and one.equals(other)
    assert len(set(one["chosen"].to_pylist())) > 3


def test_where_the_server_is_changes_nothing_and_a_finished_stage_asks_it_nothing(generated: Generated) -> None:
    before = len(generated.server.requests)
    elsewhere = settings(generated.server, generated.folder) | {
        "runtime.generation_server.base_url": "http://127.0.0.1:9/v1",
        "runtime.generation_server.concurrency": 3,
    }
    with listen("whyscore") as messages:
        found = pairs(load_recipe(generated.folder / "small.yaml", elsewhere))[1]
    assert found == generated.by_engine and len(generated.server.requests) == before
    assert any(line.startswith("g generate: cached [") for line in messages)


CHILD = """
import json, sys
from pipeline_lib.config.load import load_recipe
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.store import ArtifactStore
from tasks.self_improve.generate import generate
from tasks.stage import Work

path, overrides, inputs, address = sys.argv[1:]
recipe = load_recipe(path, json.loads(overrides))
store = ArtifactStore(recipe.runtime.store)
with store.attempt() as attempt:
    generate.body(
        Work(store, address, attempt, recipe.runtime, "g"), recipe.generation,
        GenerationInputs.model_validate_json(inputs), recipe.seed, 1,
    )
"""


def test_a_kill_in_the_middle_loses_the_shards_under_way_and_no_more(
    generated: Generated, forks: ForkServer, tmp_path: Path
) -> None:
    server, store = generated.server, ArtifactStore(generated.recipe.runtime.store)
    overrides = json.dumps(settings(server, generated.folder))
    address = "steps/generate/" + "0" * 64
    arguments = (CHILD, generated.folder / "small.yaml", overrides, generated.inputs.model_dump_json(), address)
    server.delay_s = 0.1
    child = forks.start("-c", *arguments, log=tmp_path / "log")
    try:
        shards = Path(store.path(f"{address}/shards"))
        while not list(shards.glob("*/manifest.json")) or not server.at_once:
            assert child.runs(), (tmp_path / "log").read_text()
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    server.delay_s = 0.0
    while server.at_once:  # what the killed process had asked for
        time.sleep(0.05)
    finished = [path.parent.name for path in shards.glob("*/manifest.json")]
    assert 1 <= len(finished) < 3
    server.images.clear()
    with store.attempt() as attempt:
        recipe = generated.recipe
        generate.body(
            Work(store, address, attempt, recipe.runtime, "g"), recipe.generation, generated.inputs, recipe.seed, 1
        )
        store.publish(address, attempt, {})
    table = store.read_table(address, "score_pairs")
    assert table.equals(generated.table(generated.by_engine))
    kept = {
        row["image"]: row["image_sha256"]
        for shard in finished
        for row in store.read_table(f"{address}/shards/{shard}", "shard").to_pylist()
    }
    open_image = generated.inputs.images.opener(generated.recipe.model.resize_px)
    done = {np.asarray(open_image(image, sha256)).tobytes() for image, sha256 in kept.items()}
    asked = {np.asarray(image).tobytes() for image in server.images}
    assert len(done) == len(kept) == 2 * len(finished)
    assert not done & asked and len(asked) == table.num_rows - len(done)
