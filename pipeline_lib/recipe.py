"""The whole configuration of a run, as frozen pydantic models; the same models are the form in the Prefect UI.

Two kinds of fields, and one place that separates them: everything under `runtime` is *transient* (it cannot change a
result and never enters an artifact's key); every other field belongs to the key of each stage that is handed its
section.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline_lib.errors import RecipeError

SCORES = tuple(range(10))
"""The integer scores a model may state (section 4.1 of the paper): ten bins, 0 the lowest."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen group of recipe fields; an unknown field is an error, so that a typing mistake is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


DatasetName = Literal["table", "ava", "aadb", "koniq10k", "spaq", "kadid10k", "tid2013"]


class SplitLists(Section):
    """Files that say which image is in which split: one image a line, with or without folder and ending."""

    train: str | None = Field(None, description="If given, images in no list are left out; else they are training")
    val: str | None = Field(None, description="If not given, data.val_fraction of the rest is drawn")
    test: str | None = None


class Data(Section):
    """Which photographs and scores to learn from."""

    dataset: DatasetName = Field(
        "table", description="'table': any CSV, Parquet or image folder; else a known data set"
    )
    table: str = Field(
        description="CSV or Parquet file with one row an image, or a Hugging Face image folder; for a known data set"
        " its label file or the folder of its label files. Local or s3://"
    )
    images: str = Field(
        "", description="Folder or s3:// prefix that the image column is relative to; empty: the table's own folder"
    )
    image_column: str = Field("image", description="Path of the image, or the image itself as bytes (Parquet)")
    score_column: str = Field("score", description="A numeric column, on any scale; higher is better")
    split_column: str | None = Field("split", description="Column with train / val / test; null: draw the splits")
    group_column: str | None = Field(
        None, description="Images that share a value never straddle splits (one source photograph, one product, ..)"
    )
    split_lists: SplitLists = Field(SplitLists(), description="Instead of a split column")
    val_fraction: Fraction = Field(
        0.1, description="Share of groups drawn for validation when there is no split column"
    )
    test_fraction: Fraction = Field(0.1, description="Share of groups drawn for testing when there is no split column")
    max_unreadable_fraction: float = Field(
        0.0, ge=0, lt=1, description="Refuse the table when more than this share of its images is missing or unreadable"
    )
    max_megapixels: float = Field(100.0, gt=0, description="Refuse images with more pixels (decompression bombs)")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the paths: where the files lie is not what they hold (see `data.table.fingerprint`)."""
        return self.model_dump(exclude={"table", "images", "split_lists"})


class Model(Section):
    """The base vision-language model and how it is driven, the same in generation, training and evaluation."""

    id: str = Field(
        description="Hub id, a local or s3:// directory, or 'bundled' for the base VLM that ships with WhyScore"
    )
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="Commit of a hub id, never a branch; a directory has none"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    resize_px: int = Field(448, ge=16, description="Longest image side before the family's own processing (A.1)")
    max_tiles: int | None = Field(
        None, ge=1, description="Most tiles an image is cut into, by a family that does; null: the family's own setting"
    )
    max_new_tokens: int = Field(256, ge=8, description="Greedy generation stops here (A.1)")


class Generation(Section):
    """How score pairs are made (section 3.1)."""

    fraction: Fraction = Field(1.0, description="Share of the training images used in each iteration (A.1: AVA .25)")
    redraw: bool = Field(True, description="Draw that share anew in each iteration; the paper does not say")
    min_distance: int = Field(
        3, ge=1, le=5, description="The wrong score is at least this far from the true one; the paper gives no figure"
    )
    engine: Literal["transformers", "openai"] = Field(
        "transformers",
        description="Who writes the explanations: this process, or a vLLM or SGLang server (runtime.generation_server)",
    )

    def key_fields(self) -> dict[str, Any]:
        """All fields; the engine only where it is not the usual one, so that earlier pairs are still known."""
        return self.model_dump(exclude={"engine"} if self.engine == "transformers" else set())


class Swap(Section):
    """How consistency pairs are made (section 3.1)."""

    fraction: Fraction = Field(1.0, description="Share of the score pairs that are swapped (A.1: AVA .3)")


class Training(Section):
    """DPO on LoRA adapters (sections 3.2 and 4.2, Table 4, appendix A.1)."""

    learning_rate: float = Field(5e-5, gt=0)
    decay_per_iteration: float = Field(
        0.8, gt=0, le=1, description="The learning rate of iteration n is lr x this^(n-1)"
    )
    beta: float = Field(0.1, gt=0, description="DPO's beta")
    sft_weight: float = Field(
        0.0, ge=0, description="Weight of a likelihood term on the chosen text, which keeps the format; paper: none"
    )
    lora_rank: int = Field(64, ge=1, description="LoRA alpha is twice the rank (A.1)")
    batch_size: int = Field(128, ge=1, description="Pairs an optimiser step")
    micro_batch_size: int = Field(4, ge=1, description="Pairs a forward pass; must divide batch_size")
    epochs: int = Field(1, ge=1)
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Of the learning rate, in training")
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(4096, ge=64, description="Longest row in tokens; a longer one is refused by name, not cut")
    start_from: Literal["previous", "fresh"] = Field(
        "previous", description="Adapters start from the previous iteration's adapter, or anew from the base"
    )

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> "Training":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        return self


class Consistency(Section):
    """Where the consistency branch is trained otherwise than the score branch."""

    learning_rate_factor: float = Field(1.0, gt=0, description="Learning rate over training.learning_rate (paper: 1)")


class Merge(Section):
    """Merging of the score and the consistency adapter (appendix A.1: TIES)."""

    method: Literal["ties", "linear", "dare_ties", "magnitude_prune"] = Field("ties", description="The paper: ties")
    space: Literal["factors", "delta"] = Field(
        "factors",
        description="What is merged: the two LoRA factors each by itself, as PEFT and the paper do, or the weight"
        " update they make, brought back to the rank by singular value decomposition",
    )
    weights: tuple[float, float] = Field((1.0, 1.0), description="Weight of the score and of the consistency adapter")
    density: Fraction = Field(0.5, description="Share of entries kept of each adapter; not used by linear")
    majority_sign_method: Literal["frequency", "total"] = Field(
        "frequency", description="Sign by count or by magnitude; used by ties and dare_ties"
    )


class MergeAblation(Section):
    """Ways of merging to compare on validation (flow `merge_ablation`)."""

    iteration: int = Field(2, ge=2, description="Whose two adapters are merged")
    merges: tuple[Merge, ...] = (
        Merge(),
        Merge(majority_sign_method="total"),
        Merge(space="delta"),
        Merge(space="delta", majority_sign_method="total"),
        Merge(method="linear", weights=(0.5, 0.5)),
        Merge(method="linear"),
        Merge(method="linear", weights=(0.5, 0.5), space="delta"),
        Merge(method="dare_ties"),
        Merge(method="magnitude_prune"),
    )


class Ablation(Section):
    """The rows of the paper's Table 3 (flow `ablation`)."""

    rows: tuple[Literal["sft_score", "sft_score_text", "dpo", "iterative_dpo"], ...] = (
        "sft_score",
        "sft_score_text",
        "dpo",
        "iterative_dpo",
    )
    sft_learning_rate: float | None = Field(
        None, gt=0, description="Of the two supervised rows; null: training.learning_rate. The paper gives none"
    )


class GridSearch(Section):
    """Hyper-parameters to try, chosen by a figure on validation (appendix A.1, flow `grid_search`)."""

    learning_rate: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-5, 3e-5, 5e-5, 1e-4, 3e-4)
    beta: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.05, 0.1, 0.2)
    lora_rank: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (16, 64, 256)
    metric: Literal["srcc_unfitted", "plcc_unfitted"] = Field(
        "srcc_unfitted", description="Validation figure to choose by; the fitted ones are fitted on validation itself"
    )


class Evaluation(Section):
    """Scores, explanations and their intervals (section 4.3)."""

    bootstrap_samples: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    min_parse_rate: float = Field(0.5, ge=0, le=1, description="A model under this parse rate is reported as collapsed")
    branches: Literal["test", "val"] = Field(
        "test",
        description="The two branches of an iteration are evaluated on validation and test, as in the paper's Table 1,"
        " or ('val') on validation alone, which from iteration 2 on saves the test answers of two models of three",
    )

    def key_fields(self) -> dict[str, Any]:
        """All fields but the branches': the splits of an evaluation are handed to the stage beside this section."""
        return self.model_dump(exclude={"branches"})


class Faithfulness(Section):
    """Whether explanations belong to their score and their image, which the paper names as missing (section 6)."""

    rows: int = Field(200, ge=0, description="Test images that are probed, drawn once; 0: none")


class RoundTripJudge(Section):
    """The local judge, which needs no labels and no network."""

    holdout_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of images held out to measure the judge's error"
    )


class OpenAIJudge(Section):
    """A judge model behind an OpenAI-compatible server (section 4.3); which server is in `runtime.openai`."""

    model: str | None = Field(
        None, min_length=1, description="Name of the judge model, e.g. gpt-4o-2024-08-06 as in the paper; null: none"
    )
    rubric: str = Field("paper", description="Prompt file in pipeline_lib/judge/prompts, without its ending")
    max_tokens: int = Field(
        64, ge=16, description="Longest answer of the judge; one that thinks first needs some thousands"
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="null: not sent, for judge models that refuse it; the paper does not say"
    )

    def key_fields(self) -> dict[str, Any]:
        """All fields but the rubric's name: its text is handed to the stage beside this section."""
        return self.model_dump(exclude={"rubric"})


class Judge(Section):
    """Who rates the explanations: the local round-trip judge always, an OpenAI-compatible one beside it if named."""

    rows: int | None = Field(
        None, ge=1, description="Judge this many rows of a split, drawn once (A.1: AVA 1,000); null: all"
    )
    anchors: int = Field(
        100, ge=0, description="Test images whose explanations are kept, of every model, for judges yet to come"
    )
    round_trip: RoundTripJudge = RoundTripJudge()
    openai: OpenAIJudge = OpenAIJudge()


class OpenAIEndpoint(Section):
    """How the judge's server is reached. The key is read from the environment (OPENAI_API_KEY), never from here."""

    base_url: str | None = Field(None, description="E.g. http://localhost:8000/v1 (vLLM, SGLang); null: api.openai.com")
    concurrency: int = Field(8, ge=1, description="Requests at a time")
    timeout_s: float = Field(60.0, gt=0, description="For one answer, from the request to its last byte")
    max_retries: int = Field(6, ge=0, description="After 408, 409, 429, 5xx, timeouts and cut connections")
    usd_per_million_input_tokens: float | None = Field(None, ge=0, description="For the preview and the budget")
    usd_per_million_output_tokens: float | None = Field(None, ge=0, description="For the preview and the budget")
    budget_usd: float | None = Field(
        None, ge=0, description="Never spend more than this in one stage; null: no cap, for private servers alone"
    )


class GenerationServer(Section):
    """Where the engine is, if it is a server. Its key is read from the environment (WHYSCORE_ENGINE_KEY) alone."""

    base_url: str = Field("http://localhost:8000/v1", description="Of vLLM or SGLang (there port 30000)")
    model: str | None = Field(None, min_length=1, description="Name that the server has for the base; null: model.id")
    adapters: str = Field(
        "whyscore-data/served_adapters",
        description="Folder that this machine and the server see by the same path; adapters are put there to be loaded",
    )
    concurrency: int = Field(32, ge=1, description="Requests at a time, two an image")
    timeout_s: float = Field(600.0, gt=0, description="For one answer, from the request to its last byte")
    max_retries: int = Field(6, ge=0, description="After 408, 409, 429, 5xx, timeouts and cut connections")


class Runtime(Section):
    """Transient settings: they change where and how fast, never what comes out, and are in no artifact's key."""

    store: str = Field(
        "whyscore-data/store", description="Where artifacts are kept: a local folder or s3://bucket/prefix"
    )
    min_memory_gb: float = Field(
        0.0, ge=0, description="Memory of the device (of the machine, on a CPU) without which the run is not started"
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
    fsdp: bool = Field(
        False, description="They share the base's weights (FSDP) instead of holding all of them each; needs GPUs"
    )
    decode_workers: int = Field(
        0, ge=0, description="Processes that open photographs for training while the GPU computes; 0: none, for a CPU"
    )
    pixel_cache: str | None = Field(
        None, description="Local folder that keeps resized photographs, so that each is decoded once; null: none"
    )
    pixel_cache_gb: float = Field(20.0, gt=0, description="No more is kept then; at 448 px 20 GB are 50,000 pictures")
    dask: str | None = Field(
        None, description="Scheduler whose workers share the shards, e.g. tcp://gpu1:8786; null: all of them here"
    )
    openai: OpenAIEndpoint = OpenAIEndpoint()
    generation_server: GenerationServer = GenerationServer()


class Recipe(Section):
    """One run of WhyScore."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="Name of the run: folder runs/<name>/ in the store"
    )
    seed: int = Field(0, ge=0)
    iterations: int = Field(4, ge=1, description="Rounds of self-training (the paper: 4)")
    prompt: str = Field(
        "aesthetics",
        description="The criterion: a prompt file in pipeline_lib/vlm/prompts, or the path of your own (.txt)",
    )
    data: Data
    model: Model
    generation: Generation = Generation()
    swap: Swap = Swap()
    training: Training = Training()
    consistency: Consistency = Consistency()
    merge: Merge = Merge()
    evaluation: Evaluation = Evaluation()
    judge: Judge = Judge()
    faithfulness: Faithfulness = Faithfulness()
    ablation: Ablation = Ablation()
    grid_search: GridSearch = GridSearch()
    merge_ablation: MergeAblation = MergeAblation()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "Recipe":
        batch, micro, processes = (
            self.training.batch_size, self.training.micro_batch_size, self.runtime.training_processes
        )  # fmt: skip
        if batch // micro % processes:
            raise ValueError(
                f"training.batch_size {batch} is {batch // micro} micro-batch(es) of {micro}, which"
                f" {processes} processes (runtime.training_processes) cannot share evenly"
            )
        if self.runtime.fsdp and processes == 1:
            raise ValueError("runtime.fsdp shares the weights among processes: set runtime.training_processes")
        return self


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a YAML recipe; `overrides` maps dotted field names to values, e.g. `{"data.table": "my.csv"}`.

    A relative path in the file (`data.table`, `data.images`, `data.split_lists`, a `prompt` ending in .txt) is relative
    to the file's folder; one in `overrides` to the working directory. Raises `RecipeError` that lists every wrong field
    at once.
    """
    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"recipe {path} must be a mapping of fields, found {type(fields).__name__}")
    _resolve_paths(fields, path.parent)
    for dotted, value in (overrides or {}).items():
        section: Any = fields
        *parents, leaf = dotted.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise RecipeError(f"--set {dotted}: {parent} is not a section of the recipe")
        section[leaf] = value
    return parse_recipe(fields, source=str(path))


def _resolve_paths(fields: dict[str, Any], folder: Path) -> None:
    data = fields.get("data")
    lists = data.get("split_lists") if isinstance(data, dict) else None
    sections: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (data, ("table", "images")),
        (lists, SPLITS),
        (fields, ("prompt",)),
    )
    for section, names in sections:
        for name in names:
            value = section.get(name) if isinstance(section, dict) else None
            if not isinstance(value, str) or not value or "://" in value:
                continue
            if name != "prompt" or value.endswith(".txt"):  # other prompts are names, not paths
                section[name] = str(folder / value)


def parse_recipe(fields: dict[str, Any], source: str = "recipe") -> Recipe:
    """Validate recipe fields; raises `RecipeError` naming each wrong field, what was found and what is allowed."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError("\n  ".join([f"{source}: {len(lines)} problem(s)", *lines])) from None


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in problem["loc"][:-1]:  # a number is a place in a list, whose type is the first argument
            section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
        return f"{where}: unknown field; known here: {', '.join(section.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}: required, and missing"
    if where == "model.revision":
        return f"{where}: must be a commit of 40 hex digits, in quotes, found {problem['input']!r}"
    return f"{where}: {problem['msg']}, found {problem['input']!r}"
