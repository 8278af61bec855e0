"""The training of a round as a job, and its units."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.config.base import Runtime
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.recipe import Training
from pipeline_lib.train.job import GRPO, Reward, TrainingJob
from pipeline_lib.vlm.model_ref import ModelRef

_REWARDS = "pipeline_lib.methods.evo_quality.reward"


def ranking_job(
    config: Training, model: ModelRef, prompt: str, images: ImageSet, seed: int, round_number: int, runtime: Runtime
) -> TrainingJob:
    """GRPO from the adapter of the round before; the reference of the KL divergence is the initial model."""
    settings: dict[str, Any] = {"format_weight": config.format_weight}
    if config.target == "votes":
        settings["gamma"] = config.gamma
    name = "fidelity" if config.target == "votes" else "own_mean"
    return TrainingJob(
        base=model.bare(),
        prompt=prompt,
        images=images,
        loss=GRPO(
            settings=config.grpo,
            reward=Reward(function=f"{_REWARDS}:{name}", settings=settings),
            processes=runtime.training_processes,
        ),
        lora=config.lora,
        learning_rate=config.learning_rate,
        start=model.adapter,
        seed=seed * 1000 + round_number,
    )


def units_of(votes: pa.Table, prompt: str, own: pa.Table | None) -> pa.Table:
    """The pairs that have a label, as units; `own` are `RATINGS` of their images, for the ablation's `targets`.

    Raises `DataError` when no pair has a label.
    """
    labelled = votes.filter(pc.is_valid(votes["preference"]))
    if not len(labelled):
        raise DataError(
            f"none of {len(votes)} pairs has a vote that could be read, so there is nothing to learn; look at the"
            " column `answers` of the votes, and at the prompt"
        )
    units = labelled.select(["pair", "images", "preference"])
    if own is not None:
        mean = dict(zip(own["image"].to_pylist(), own["mean"].to_pylist(), strict=True))
        targets = [[mean[image["image"]] for image in pair] for pair in units["images"].to_pylist()]
        units = units.append_column("targets", pa.array(targets, pa.list_(pa.float64())))
    return units.append_column("prompt", pa.array([prompt] * len(units)))


def images_of_pairs(pairs: pa.Table) -> pa.Table:
    """Each image of some pairs once, as a row of `IMAGES`, in the order in which it comes first."""
    found = {image["image"]: image for pair in pairs["images"].to_pylist() for image in pair}
    return pa.Table.from_pylist(
        list(found.values()), schema=pa.schema(list(pairs.schema.field("images").type.value_type))
    )
