"""What the training stages share."""

from collections.abc import Mapping
from typing import Any, Literal

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.recipe import IterativeTraining
from pipeline_lib.store import ArtifactRef
from pipeline_lib.tables.table import Table
from pipeline_lib.tables.training import TRAINING_LOG
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work


def train(
    work: Work,
    config: IterativeTraining,
    prompt: Prompt,
    model: ModelRef,
    image_set: ImageSet,
    pairs: ArtifactRef,
    table: str,
    learning_rate: float,
    seed: int,
    iteration: int,
    *,
    method: Literal["dpo", "sft"] = "dpo",
    reference: ArtifactRef | None = None,
    options: Mapping[str, Any] | None = None,
    log_table: Table = TRAINING_LOG,
) -> None:
    """Train on one table of preference pairs, and publish adapter and log.

    `reference` is what `compute_reference` made of the pairs, `options` whatever else the method takes by name. In this
    process, or in several that it starts (`runtime.training_processes`).
    """
    from pipeline_lib.train.learn import Learning

    learning = Learning(
        method=method,
        options=dict(options or {}),
        config=config,
        learning_rate=learning_rate * config.decay_per_iteration ** (iteration - 1),
        prompt=prompt,
        model=model,
        image_set=image_set,
        start=model.adapter if config.start_from == "previous" else None,
        seed=seed * 1000 + iteration,  # both branches of an iteration start from the same weights
        store=work.store.root,
        address=work.address,
        checkpoint_every=work.runtime.checkpoint_every,
        gradient_checkpointing=work.runtime.gradient_checkpointing,
        decode_workers=work.runtime.decode_workers,
        what=work.label,
    )
    work.note_scratch(f"{work.address}/checkpoints")
    tables = {"pairs": work.read(pairs, table)}
    if reference is not None:
        tables["reference"] = work.read(reference, "reference_logps")
    if work.runtime.training_processes > 1:
        from pipeline_lib.train.launch import learn_in_processes

        log = learn_in_processes(learning, tables, work.attempt.folder, work.runtime)
    else:
        from pipeline_lib.device import pick_device
        from pipeline_lib.train.learn import learn

        log = learn(learning, tables, work.attempt.folder, pick_device(work.runtime.device))
    work.write(log_table, log)
