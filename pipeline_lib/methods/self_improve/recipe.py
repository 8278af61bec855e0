"""The sections of a self_improve recipe; the defaults are the paper's."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.config.base import (
    BaseRecipe,
    Bootstrap,
    Data,
    Fraction,
    FromRun,
    JudgeModel,
    LocalPath,
    Lora,
    NamedData,
    Positive,
    RelativeToRecipe,
    Section,
    check_names,
)

SCORES = tuple(range(10))
"""The integer scores a model may state (section 4.1 of the paper): ten bins, 0 the lowest."""


class Generation(Section):
    """Settings of score pairs (section 3.1)."""

    fraction: Fraction = Field(1.0, description="Share of the training images used in each iteration (A.1: AVA .25)")
    redraw: bool = Field(True, description="Draw that share again in each iteration; the paper does not say")
    min_distance: int = Field(
        3, ge=1, le=5, description="The wrong score is at least this far from the true one; the paper gives no figure"
    )
    engine: Literal["transformers", "openai"] = Field(
        "transformers",
        description="Writer of the explanations: this process, or a vLLM or SGLang server (runtime.generation_server)",
    )

    def key_fields(self) -> dict[str, Any]:
        """All fields; the engine only if it is not the default, so that earlier pairs keep their key."""
        return self.model_dump(exclude={"engine"} if self.engine == "transformers" else set())


class Swap(Section):
    """Settings of consistency pairs (section 3.1)."""

    fraction: Fraction = Field(1.0, description="Share of the score pairs that are swapped (A.1: AVA .3)")


class Training(Lora):
    """DPO on LoRA adapters, in each iteration (sections 3.2 and 4.2, Table 4, appendix A.1)."""

    learning_rate: float = Field(5e-5, gt=0)
    decay_per_iteration: float = Field(
        0.8, gt=0, le=1, description="The learning rate of iteration n is lr x this^(n-1)"
    )
    beta: float = Field(0.1, gt=0, description="DPO's beta")
    sft_weight: float = Field(
        0.0, ge=0, description="Weight of a likelihood term on the chosen text, which keeps its form; paper: none"
    )
    start_from: Literal["previous", "fresh"] = Field(
        "previous", description="Adapters start from the previous iteration's adapter, or from the base"
    )


class Consistency(Section):
    """Settings in which the training of the consistency branch differs from the score branch."""

    learning_rate_factor: float = Field(
        1.0, gt=0, description="Learning rate divided by training.learning_rate (paper: 1)"
    )


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

    iteration: int = Field(2, ge=2, description="Iteration whose two adapters are merged")
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
        None,
        gt=0,
        description="Learning rate of the two supervised rows; null: training.learning_rate. The paper gives none",
    )


class GridSearch(Section):
    """Hyper-parameters to try, chosen by a figure on validation (appendix A.1, flow `grid_search`)."""

    learning_rate: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-5, 3e-5, 5e-5, 1e-4, 3e-4)
    beta: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.05, 0.1, 0.2)
    lora_rank: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (16, 64, 256)
    metric: Literal["srcc_unfitted", "plcc_unfitted"] = Field(
        "srcc_unfitted", description="Validation figure to choose by; the fitted ones are fitted on validation itself"
    )


class Evaluation(Bootstrap):
    """Scores, explanations and their intervals (section 4.3)."""

    min_parse_rate: float = Field(0.5, ge=0, le=1, description="A model under this parse rate is reported as collapsed")
    branches: Literal["test", "val"] = Field(
        "test",
        description="The two branches of an iteration are evaluated on validation and test, as in the paper's Table 1,"
        " or ('val') on validation alone, which from iteration 2 on saves the test answers of two models of three",
    )

    also: tuple[NamedData, ...] = Field(
        (), description="Further labelled data sets that the base and the final model are evaluated on"
    )

    @field_validator("also")
    @classmethod
    def _distinct_names(cls, also: tuple[NamedData, ...]) -> tuple[NamedData, ...]:
        check_names("data set", [data.name for data in also])
        return also

    def key_fields(self) -> dict[str, Any]:
        """The fields of the stage `evaluate`, which gets the splits separately and no other data sets."""
        return self.model_dump(exclude={"branches", "also"})


class Faithfulness(Section):
    """The probe of explanations against their score and image, which the paper leaves to future work (section 6)."""

    rows: int = Field(200, ge=0, description="Test images that are probed, drawn once; 0: none")
    faults: dict[str, tuple[str, ...]] = Field(
        {},
        description="Words of each known fault, to see whether explanations name it: a column of severities, e.g. blur:"
        " [blur, soft] or blur>0.2: [blur, soft], or the value of a column, e.g. distortion=1: [noise, grain]",
    )

    @field_validator("faults")
    @classmethod
    def _faults_have_words(cls, faults: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        form = re.compile(r"[^=>]+(=.+|>[0-9.]+)?")
        wrong = [name for name, words in faults.items() if not form.fullmatch(name) or not words]
        if wrong:
            raise ValueError(f"give words, and a column, column>number or column=value, for {', '.join(wrong)}")
        return faults


class RoundTripJudge(Section):
    """The local judge, which needs no labels and no network."""

    holdout_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of images held out to measure the judge's error"
    )


class OpenAIJudge(JudgeModel):
    """The judge model of section 4.3, and its rubric."""

    rubric: str = Field("paper", description="A shipped rubric by its name")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the rubric's name: the stage gets its text separately."""
        return self.model_dump(exclude={"rubric"})


class VlmJudge(Section):
    """A judge that sees the image: the model of a run of self_judge, or any other VLM of a run."""

    from_run: FromRun | None = Field(None, description="The run that has made it; null: no such judge")
    prompt: Annotated[str, RelativeToRecipe(".txt")] = Field(
        "criteria", description="Its prompt, the one that it was trained with: a shipped one or the path of a .txt file"
    )
    rows: int = Field(100, ge=1, description="Test explanations that it rates, drawn once; six questions each")
    max_new_tokens: int = Field(1024, ge=1, description="Longest reason with its verdict")

    def key_fields(self) -> dict[str, Any]:
        """Without the run and the prompt's name: the stage gets model and text separately."""
        return self.model_dump(exclude={"from_run", "prompt"})


class Judge(Section):
    """The judges of explanations: always the local round-trip judge; an OpenAI-compatible and a VLM judge if named."""

    rows: int | None = Field(
        None, ge=1, description="Judge this many rows of a split, drawn once (A.1: AVA 1,000); null: all"
    )
    anchors: int = Field(
        100, ge=0, description="Test images whose explanations by every model are kept for later judges"
    )
    round_trip: RoundTripJudge = RoundTripJudge()
    openai: OpenAIJudge = OpenAIJudge()
    vlm: VlmJudge = VlmJudge()


class SelfImproveRecipe(BaseRecipe):
    """A run of self_improve."""

    method: Literal["self_improve"] = "self_improve"
    data: Data
    iterations: int = Field(4, ge=1, description="Rounds of self-training (the paper: 4)")
    prompt: Annotated[LocalPath, RelativeToRecipe(".txt")] = Field(
        "aesthetics",
        description="The criterion: a shipped prompt by its name, or the path of your own (.txt)",
    )
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

    experiments: ClassVar[tuple[str, ...]] = ("ablation", "grid_search", "merge_ablation")
    control: ClassVar[str] = "the scores of the training images are shuffled among these images"

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "SelfImproveRecipe":
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


RECIPE = SelfImproveRecipe
