"""The training of a round as a job, and its units."""

import heapq
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
        if config.partners > 1:  # else the key is that of units of one pair, and so are the units
            settings["partners"] = config.partners
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


def units_of(votes: pa.Table, prompt: str, own: pa.Table | None, partners: int = 1) -> pa.Table:
    """The pairs that have a label, as units; `own` are `RATINGS` of their images, for the ablation's `targets`.

    With more than one of `partners` a unit is an image with up to so many images that it is paired with
    (`around_one_image`). Raises `DataError` when no pair has a label.
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
    elif partners > 1:
        units = around_one_image(units, partners)
    return units.append_column("prompt", pa.array([prompt] * len(units)))


def around_one_image(pairs: pa.Table, most: int) -> pa.Table:
    """Units of an image, first in `images`, with up to `most` of its partners, from pairs with a `preference`.

    Each pair is in one unit, and the image with the most pairs that are left comes first, so that units have as many
    partners as they can. `preferences` are the labels for the first image beside each partner.
    """
    rows = pairs.to_pylist()
    left: dict[str, dict[int, None]] = {}  # of each image its pairs, in their order
    for at, row in enumerate(rows):
        for image in row["images"]:
            left.setdefault(image["image"], {})[at] = None
    order = {name: place for place, name in enumerate(left)}
    waiting = [(-len(of_image), order[name], name) for name, of_image in left.items()]
    heapq.heapify(waiting)
    units = []
    while waiting:
        count, place, name = heapq.heappop(waiting)
        if not left[name]:
            continue
        if -count != len(left[name]):  # some of its pairs are in other units by now
            heapq.heappush(waiting, (-len(left[name]), place, name))
            continue
        chosen = list(left[name])[:most]
        images: list[dict[str, Any]] = []
        preferences: list[float] = []
        for at in chosen:
            first = rows[at]["images"][0]["image"] == name
            own, partner = rows[at]["images"] if first else rows[at]["images"][::-1]
            images = images or [own]
            images.append(partner)
            preferences.append(rows[at]["preference"] if first else 1 - rows[at]["preference"])
            del left[name][at], left[partner["image"]][at]
        units.append({"pair": rows[chosen[0]]["pair"], "images": images, "preferences": preferences})
        heapq.heappush(waiting, (-len(left[name]), place, name))
    units.sort(key=lambda unit: str(unit["pair"]))
    schema = pa.schema(
        [*(pairs.schema.field(name) for name in ("pair", "images")), pa.field("preferences", pa.list_(pa.float64()))]
    )
    return pa.Table.from_pylist(units, schema=schema)


def images_of_pairs(pairs: pa.Table) -> pa.Table:
    """Each image of some pairs once, as a row of `IMAGES`, in the order in which it comes first."""
    found = {image["image"]: image for pair in pairs["images"].to_pylist() for image in pair}
    return pa.Table.from_pylist(
        list(found.values()), schema=pa.schema(list(pairs.schema.field("images").type.value_type))
    )
