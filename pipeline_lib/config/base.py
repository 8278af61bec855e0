"""The sections of every recipe: name, seed, data, model, runtime. They are frozen pydantic models, and forms in the UI.

Two kinds of fields, and one place that separates them: everything under `runtime` is *transient* (it cannot change a
result and never enters an artifact's key); every other field belongs to the key of each stage that gets its section.
"""

import os
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline_lib.addresses import secret_in

Split = Literal["train", "val", "test"]


SPLITS: tuple[Split, ...] = get_args(Split)


Fraction = Annotated[float, Field(gt=0, le=1)]

TrackerName = Literal["mlflow", "wandb", "tensorboard"]
"""An experiment tracker; its Python package has the same name."""


Positive = Annotated[float, Field(gt=0)]


SECRET = "holds_a_secret"
"""Type of the error of a field whose value must not be shown."""


def _at_home(path: str) -> str:
    return os.path.expanduser(path) if path.startswith("~") else path


LocalPath = Annotated[str, AfterValidator(_at_home)]
"""A path or address; ~ is the home folder, as in a shell."""


class RelativeToRecipe(NamedTuple):
    """Marks a field of a path: a relative one in a recipe file is relative to the file's folder."""

    ending: str = ""  # other values are names, not paths


DataPath = Annotated[LocalPath, RelativeToRecipe()]
"""A file or folder, local or s3://."""


class Section(BaseModel):
    """A frozen group of recipe fields; an unknown field is an error, so that no typing error is ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="after")
    @classmethod
    def _fit_to_be_shown(cls, value: Any) -> Any:
        """A recipe is shown in the UI, in reports and in logs, and its texts are names of files and columns."""
        if isinstance(value, str) and (secret := secret_in(value)):
            raise PydanticCustomError(SECRET, "{why}", {"why": secret})
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a character with the code 0")
        return value


DatasetName = Literal["table", "ava", "aadb", "koniq10k", "spaq", "kadid10k", "tid2013"]


class SplitLists(Section):
    """Files that list the images of a split: one image a line, with or without folder and ending."""

    train: DataPath | None = Field(
        None, description="If given, images in no list are left out; else they are for training"
    )
    val: DataPath | None = Field(None, description="If not given, data.val_fraction of the rest is drawn")
    test: DataPath | None = None


class ImageData(Section):
    """Which images to learn from."""

    dataset: DatasetName = Field(
        "table", description="'table': any CSV, Parquet or image folder; else a known data set"
    )
    table: DataPath = Field(
        description="CSV or Parquet file with one row an image, or a Hugging Face image folder; without scores also a"
        " folder of images; for a known data set its label file or the folder of its label files. Local or s3://"
    )
    images: DataPath = Field(
        "", description="Folder or s3:// prefix that the image column is relative to; empty: the table's own folder"
    )
    image_column: str = Field("image", description="Path of the image, or the image itself as bytes (Parquet)")
    split_column: str | None = Field("split", description="Column with train / val / test; null: draw the splits")
    group_column: str | None = Field(
        None, description="Images that share a value are always in one split (one source image, one product, ..)"
    )
    split_lists: SplitLists = Field(SplitLists(), description="Instead of a split column")
    val_fraction: Fraction = Field(
        0.1, description="Share of groups drawn for validation when there is no split column"
    )
    test_fraction: Fraction = Field(0.1, description="Share of groups drawn for testing when there is no split column")
    max_unreadable_fraction: float = Field(
        0.0, ge=0, lt=1, description="Refuse the table when more than this share of its images is missing or unreadable"
    )
    max_near_duplicate_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Refuse the table when more than this share of its validation and test images looks like an image"
        " of another split; null: a run only compares whole files and allows 1 % copies (`whyscore check-data` always"
        " looks)",
    )
    near_duplicate_bits: int = Field(
        8,
        ge=0,
        le=16,
        description="Perceptual hashes of images that look alike differ in at most so many of 64 bits",
    )
    max_megapixels: float = Field(100.0, gt=0, description="Refuse images with more pixels (decompression bombs)")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the paths, whose content counts (`data.table.fingerprint`), and the limit of near-duplicates.

        That limit is kept by a stage of its own.
        """
        apart = {"table", "images", "split_lists", "max_near_duplicate_fraction", "near_duplicate_bits"}
        return self.model_dump(exclude=apart)


class FromRun(Section):
    """A model that another run in the same store has made."""

    name: str = Field(description="Name of the run")
    model: str | None = Field(None, description="E.g. 'ite-2 merged'; null: the model of its newest iteration")


class Data(ImageData):
    """Which images and scores to learn from."""

    score_column: str = Field("score", description="A numeric column, on any scale; higher is better")


class NamedData(Data):
    """A labelled data set beside that of the run: all its images are evaluated, and nothing is fitted on them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Its name in the report")
    split_column: str | None = Field(None, description="Not used, unless a method names a split")


def check_names(what: str, names: Sequence[str], taken: Sequence[str] = ()) -> None:
    """Raise `ValueError` unless all names differ from each other and from those that are taken."""
    if len({*names, *taken}) < len(names) + len(taken):
        besides = f", not {', '.join(taken)}" if taken else ""
        raise ValueError(f"each {what} needs a name of its own{besides}; found {', '.join(names)}")


class Model(Section):
    """The base vision-language model and its settings, the same in generation, training and evaluation."""

    from_run: FromRun | None = Field(
        None, description="Instead of an id: the model of another run, folded into its base when it is loaded"
    )
    id: LocalPath = Field(
        "",
        validate_default=True,
        description="Hub id, a local or s3:// directory, or 'bundled' for the base VLM that ships with WhyScore",
    )
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="Commit of a hub id, never a branch; a directory has none"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    resize_px: int = Field(448, ge=16, description="Longest image side before the family's own processing (A.1)")
    max_tiles: int | None = Field(
        None, ge=1, description="Most tiles of an image, for families that cut images; null: the family's setting"
    )
    max_new_tokens: int = Field(256, ge=8, description="Greedy generation stops here (A.1)")

    @field_validator("id")
    @classmethod
    def _one_origin(cls, id: str, fields: ValidationInfo) -> str:
        if "from_run" in fields.data and bool(id) == (fields.data["from_run"] is not None):
            raise ValueError("give either model.id or model.from_run")
        return id


class JudgeModel(Section):
    """A judge model on an OpenAI-compatible server; `runtime.openai` names the server."""

    model: str | None = Field(
        None, min_length=1, description="Name of the judge model, e.g. gpt-4o-2024-08-06 as in the paper; null: none"
    )
    max_tokens: int = Field(
        64, ge=16, description="Longest answer of the judge in tokens; a reasoning model needs some thousands"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="null: not sent, for judge models that refuse it; the paper gives none"
    )


class OpenAIEndpoint(Section):
    """Address and limits of the judge's server. Its key is read only from the environment (OPENAI_API_KEY)."""

    base_url: str | None = Field(None, description="E.g. http://localhost:8000/v1 (vLLM, SGLang); null: api.openai.com")
    concurrency: int = Field(8, ge=1, description="Requests at a time")
    timeout_s: float = Field(60.0, gt=0, description="For one answer, from the request to its last byte")
    max_retries: int = Field(6, ge=0, description="After 408, 409, 429, 5xx, timeouts and cut connections")
    usd_per_million_input_tokens: float | None = Field(None, ge=0, description="For the preview and the budget")
    usd_per_million_output_tokens: float | None = Field(None, ge=0, description="For the preview and the budget")
    budget_usd: float | None = Field(
        None, ge=0, description="Most that one stage may spend; null: no limit, for private servers only"
    )


class GenerationServer(Section):
    """Address and limits of the engine's server. Its key is read only from the environment (WHYSCORE_ENGINE_KEY)."""

    base_url: str = Field("http://localhost:8000/v1", description="Of vLLM or SGLang (there port 30000)")
    model: str | None = Field(None, min_length=1, description="The server's name for the base; null: model.id")
    adapters: LocalPath = Field(
        "whyscore-data/served_adapters",
        description="Folder that this machine and the server see by the same path; the server loads adapters from it",
    )
    compare_pixels: bool = Field(
        True,
        description="Load the model on this machine for a moment and compare log-probabilities of a few texts with the"
        " server's; false where it does not fit beside the server, or with SGLang",
    )
    concurrency: int = Field(32, ge=1, description="Requests at a time, two an image")
    timeout_s: float = Field(600.0, gt=0, description="For one answer, from the request to its last byte")
    max_retries: int = Field(6, ge=0, description="After 408, 409, 429, 5xx, timeouts and cut connections")


class Runtime(Section):
    """Transient settings: they change place and speed of the work, never its result, and are in no key."""

    store: LocalPath = Field(
        "whyscore-data/store", description="Where artifacts are kept: a local folder or s3://bucket/prefix"
    )
    min_memory_gb: float = Field(
        0.0, ge=0, description="Memory that the device needs for a run to start (on a CPU: the machine)"
    )
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1', 'mps'")
    generation_batch_size: int = Field(32, ge=1)
    shard_rows: int = Field(
        256, ge=1, description="Images a shard; a killed generation or evaluation loses one at most"
    )
    gradient_checkpointing: bool = Field(True, description="Less memory for about a third more time in training")
    checkpoint_every: int = Field(50, ge=1, description="Optimiser steps between checkpoints in the store")
    training_processes: int = Field(
        1, ge=1, description="Processes that train one adapter together on this machine, each on a GPU of its own"
    )
    fsdp: bool = Field(False, description="Share the base's weights among the processes (FSDP); needs GPUs")
    decode_workers: int = Field(
        0, ge=0, description="Processes that open images for training while the GPU computes; 0: none, for a CPU"
    )
    pixel_cache: LocalPath | None = Field(
        None, description="Local folder that keeps resized images, so that each is decoded once; null: none"
    )
    pixel_cache_gb: float = Field(20.0, gt=0, description="Size limit of the cache; at 448 px 20 GB are 50,000 images")
    dask: str | None = Field(
        None, description="Scheduler whose workers share the shards, e.g. tcp://gpu1:8786; null: all of them here"
    )
    trackers: tuple[TrackerName, ...] = Field(
        (), description="Experiment trackers that get curves and figures: mlflow, wandb, tensorboard; empty: none"
    )
    usd_per_device_hour: float | None = Field(
        None, ge=0, description="Price of an hour of one device (a GPU, or the machine on a CPU), for status and report"
    )
    openai: OpenAIEndpoint = OpenAIEndpoint()
    generation_server: GenerationServer = GenerationServer()

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, trackers: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        return tuple(dict.fromkeys(trackers))


class Bootstrap(Section):
    """Settings of the intervals of figures: percentile bootstraps."""

    bootstrap_samples: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)

    @property
    def bootstrap(self) -> "Bootstrap":
        """These settings alone, without those that a method's evaluation has beside them."""
        return Bootstrap(bootstrap_samples=self.bootstrap_samples, confidence=self.confidence)


class Lora(Section):
    """Settings of LoRA training for any loss and learning rate."""

    lora_rank: int = Field(64, ge=1, description="LoRA alpha is twice the rank (A.1)")
    batch_size: int = Field(128, ge=1, description="Pairs an optimiser step")
    micro_batch_size: int = Field(4, ge=1, description="Pairs a forward pass; must divide batch_size")
    epochs: int = Field(1, ge=1)
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Of the learning rate, in training")
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(4096, ge=64, description="Longest row in tokens; a longer one is an error, not cut")

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> "Lora":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        return self

    @property
    def lora(self) -> "Lora":
        """These fields without those that a method's training has beside them."""
        return Lora(**{name: getattr(self, name) for name in Lora.model_fields})


class Grpo(Section):
    """Settings of Group Relative Policy Optimization: how answers are sampled, and the loss on them.

    Nothing is left to a default of the library. Each sample is trained on once, by the model that gave it. So the
    ratio of new and old probabilities is 1, and the clip of that ratio and its level have no effect; they are no
    fields.
    """

    answers: int = Field(8, ge=2, description="Answers sampled for each image and step (K)")
    max_new_tokens: int = Field(256, ge=1, description="Longest sampled answer in tokens")
    temperature: float = Field(1.0, gt=0, description="Of sampling, and of the probabilities in the loss")
    top_p: float = Field(1.0, gt=0, le=1, description="Samples come from the most probable tokens that reach it")
    beta: float = Field(0.05, ge=0, description="Weight of the KL divergence from the base without adapter; 0: none")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "grpo",
        description="grpo: mean over each answer's tokens, then over answers; dapo: over all tokens of a step; dr_grpo:"
        " the sum over tokens, divided by max_new_tokens",
    )
    scale_rewards: Literal["group", "none"] = Field(
        "group", description="group: an advantage is divided by the standard deviation of its image's rewards"
    )
    answers_per_pass: int | None = Field(
        None, ge=1, description="Answers of an image in one pass of the update, to bound memory; null: all"
    )


class BaseRecipe(Section):
    """One run of WhyScore; each method adds its sections, and `method`, its name."""

    method: str
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="Name of the run: folder runs/<name>/ in the store"
    )
    seed: int = Field(0, ge=0)
    data: ImageData  # a method that reads scores has `Data`
    model: Model
    runtime: Runtime = Runtime()

    experiments: ClassVar[tuple[str, ...]] = ()
    """Sections that only experiments beside the run read."""

    control: ClassVar[str] = ""
    """How the training data of the method's negative control differ, as the end of a sentence; empty: it has none."""

    def run_fields(self) -> dict[str, Any]:
        """All fields that can change the run's results, as JSON, without `runtime` and the experiments' sections."""
        return self.model_dump(mode="json", exclude={"runtime", *self.experiments})

    def completed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The run fields of an earlier version, with today's defaults for those that it did not have.

        Unchanged when they are no recipe of this method today.
        """
        try:
            return type(self).model_validate(fields).run_fields()
        except ValidationError:
            return fields
