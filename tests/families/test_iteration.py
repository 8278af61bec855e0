"""A whole miniature iteration of each family: generate, swap, train both adapters, merge, evaluate."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file

from pipeline_lib.methods.self_improve.evaluation import answer_images, evaluate_answers
from pipeline_lib.methods.self_improve.merge import merge_adapters
from pipeline_lib.methods.self_improve.pairs import usable_pairs
from pipeline_lib.methods.self_improve.recipe import Evaluation, Merge, Training
from pipeline_lib.methods.self_improve.score_pairs import generate_score_pairs
from pipeline_lib.methods.self_improve.swap import swap_scores
from pipeline_lib.methods.self_improve.tables import MODEL_ANSWERS, PREDICTIONS, SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.key import ArtifactRef
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import PROMPT, image_table, model_ref, picture, reference_of, training
from pipeline_lib.testing.tiny_families import LAYERS
from pipeline_lib.train.dpo import train_dpo
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base, load_vlm
from tests.families.conftest import Loaded

CPU = torch.device("cpu")
CONFIG = Training(learning_rate=1e-2, lora_rank=2, batch_size=4, micro_batch_size=2, max_length=400)


def open_image(image: str, sha256: str):  # type: ignore[no-untyped-def]
    """Pictures of several aspect ratios."""
    width, height = [(28, 28), (60, 30), (30, 90), (56, 42)][int(image.rpartition("-")[2].split(".")[0]) % 4]
    return picture(image, 96).crop((0, 0, width, height))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def test_a_miniature_iteration(loaded: Loaded, tmp_path: Path) -> None:
    ref = model_ref(loaded.folder)
    store = ArtifactStore(str(tmp_path / "store"))
    score_pairs = conform(
        generate_score_pairs(
            loaded.vlm,
            loaded.chat,
            image_table(8),
            open_image,
            min_distance=3,
            max_new_tokens=6,
            batch_size=8,
            seed=1,
            iteration=1,
            progress=Progress("pairs", 8),
        ),
        SCORE_PAIRS.schema,
    )
    assert set(score_pairs["prompt"].to_pylist()) == {loaded.family.prompt}

    swapped = conform(swap_scores(score_pairs.slice(1)), SCORE_PAIRS.schema)
    reference = reference_of(load_base(ref, CPU), loaded.chat, score_pairs, open_image, swapped)
    answers = [2 * usable_pairs(score_pairs, 400).num_rows, usable_pairs(swapped, 400).num_rows]
    assert reference.num_rows == sum(answers) and reference["answer"].to_pylist().count("swapped") == answers[1]

    def train(name: str, pairs: pa.Table) -> Path:
        vlm = load_base(ref, CPU)
        before = {key: weight.clone() for key, weight in vlm.model.state_dict().items()}
        given = training(
            ref, store, f"steps/{name}/k", tmp_path / name, CONFIG,
            seed=1, checkpoint_every=10, gradient_checkpointing=True,
        )  # fmt: skip
        log = train_dpo(
            vlm, render_chat(vlm.processor, PROMPT), usable_pairs(pairs, 400), open_image, reference, **given
        )
        assert log.num_rows == 2 and np.isfinite(log["loss"].to_numpy()).all()
        assert abs(log["loss"][0].as_py() - np.log(2)) < 0.05 and min(log["grad_norm"].to_pylist()) > 0
        after = {key.replace(".base_layer", ""): weight for key, weight in vlm.model.state_dict().items()}
        assert all(torch.equal(weight, after[key]) for key, weight in before.items())
        return tmp_path / name

    score = train("score", score_pairs)
    consistency = train("consistency", swapped)
    found = [adapter(score), adapter(consistency)]
    assert len(found[0]) == 2 * 7 * LAYERS and all(".language_model.layers." in name for name in found[0])
    assert all(float(weight.abs().sum()) > 0 for name, weight in found[0].items() if "lora_B" in name)
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])

    merge_adapters(load_base(ref, CPU), score, consistency, tmp_path / "merged", Merge(), seed=1, base_name="tiny")
    with store.attempt() as attempt:
        for path in (tmp_path / "merged").iterdir():
            (attempt.folder / path.name).write_bytes(path.read_bytes())
        store.publish("steps/merged/k", attempt, {})
    merged = load_vlm(ref.with_adapter(ArtifactRef(stage="merged", key="k")), store, CPU)
    test, val = image_table(4, "test"), image_table(12, "val")
    options = {"max_new_tokens": 6, "batch_size": 8, "progress": Progress("answers", 16)}
    images = pa.concat_tables([test, val])
    answers = answer_images(merged, loaded.chat, loaded.scores, images, open_image, **options)
    plain = answer_images(loaded.vlm, loaded.chat, loaded.scores, images, open_image, **options)
    assert answers.schema.equals(MODEL_ANSWERS.schema) and not answers.equals(plain)
    bins = pa.table({"mean_score": [score + 0.5 for score in range(10)]})
    tables = evaluate_answers(answers, images, ("val", "test"), bins, Evaluation(bootstrap_samples=100), 1)
    predictions = conform(tables.predictions, PREDICTIONS.schema)
    assert predictions.num_rows == 16 and np.isfinite(predictions["predicted_unfitted"].to_numpy()).all()
