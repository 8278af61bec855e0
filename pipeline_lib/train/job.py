"""One training of one adapter as a value: its settings (`TrainingJob`) and its place (`Place`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.base import Grpo, Lora, TrackerName
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.model_ref import ModelRef


class DPO(BaseModel):
    """TRL's sigmoid loss, plus `sft_weight` times the negative log-likelihood of the chosen answer, a token's mean.

    `chosen_logp_weight` times its log-probability, summed over its tokens, is subtracted (STIC's alpha): a mean over
    tokens would count those of long answers less.
    """

    model_config = ConfigDict(frozen=True)

    loss: Literal["dpo"] = "dpo"
    beta: float
    sft_weight: float = 0.0
    chosen_logp_weight: float = 0.0

    def key_fields(self) -> dict[str, Any]:
        """All fields; the weight of the summed log-probability only if it is used, so that earlier adapters stay."""
        return self.model_dump(exclude=set() if self.chosen_logp_weight else {"chosen_logp_weight"})


class SFT(BaseModel):
    """Negative log-likelihood of the column `chosen`, the mean over its tokens."""

    model_config = ConfigDict(frozen=True)

    loss: Literal["sft"] = "sft"


class Reward(BaseModel):
    """A method's reward function (`rewards.RewardFunction`) by name, because a job goes to other processes."""

    model_config = ConfigDict(frozen=True)

    function: str = Field(pattern=r"^[\w.]+:\w+$")  # `package.module:function`, from the method's code, never a recipe
    settings: dict[str, Any] = {}  # its further arguments, as JSON


class GRPO(BaseModel):
    """Group Relative Policy Optimization on answers that are sampled in each step."""

    model_config = ConfigDict(frozen=True)

    loss: Literal["grpo"] = "grpo"
    settings: Grpo
    reward: Reward
    processes: int = 1  # `runtime.training_processes`: in the key, because rounding decides what is drawn


class TrainingJob(BaseModel):
    """All settings that determine the adapter, without the rows; the training stages have them in their key."""

    model_config = ConfigDict(frozen=True)

    base: ModelRef  # without adapter: also DPO's reference
    prompt: str  # text of the user's turn
    images: ImageSet
    loss: Annotated[DPO | SFT | GRPO, Field(discriminator="loss")]
    lora: Lora
    learning_rate: float
    start: ArtifactRef | None  # the adapter to begin from; None: a fresh one, whose random half `seed` decides
    seed: int


def checkpoints_of(address: str) -> str:
    """The folder of the checkpoints of the training that makes an artifact."""
    return f"{address}/checkpoints"


class Processes(NamedTuple):
    """This process as one of several that train one adapter together; only the first one writes."""

    size: int
    rank: int
    fsdp: bool  # they share the weights instead of holding all of them each
    folder: Path  # all of them see it; for checkpoints on their way to the store
    asked_to_stop: Callable[[], bool]  # true in one of them is enough


class Place(NamedTuple):
    """Place and name of a training; they do not change the adapter."""

    store: ArtifactStore
    address: str  # checkpoints are stored below it, and training resumes from the newest valid one
    save_to: Path  # folder that the adapter is written to
    label: str  # this training's name in progress lines and errors
    checkpoint_every: int  # optimiser steps
    gradient_checkpointing: bool = False
    decode_workers: int = 0  # further processes that make batches of images
    processes: Processes | None = None  # None: this one alone
    trackers: tuple[TrackerName, ...] = ()  # that get its curves
    run: str = ""  # name of the run, for trackers
