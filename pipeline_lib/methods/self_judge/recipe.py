"""The sections of a self_judge recipe (arXiv 2512.05145); the defaults are the paper's where it gives them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.config.base import (
    BaseRecipe,
    Bootstrap,
    DataPath,
    Fraction,
    ImageData,
    Lora,
    RelativeToRecipe,
    Section,
    check_names,
)

Kind = Literal["open", "closed"]
"""A question with a long answer (a description), or with a short one (a number, a choice, a phrase)."""

PromptName = Annotated[str, RelativeToRecipe(".txt")]


class PromptData(ImageData):
    """Images with questions: one row a question, so an image may stand in several rows. No answer is needed."""

    question_column: str | None = Field(
        "question", description="Question of the row; null, or empty in a row: the row has none of its own"
    )
    kind_column: str | None = Field(
        None, description="Column with open or closed; null: every question of a row is closed"
    )
    answer_column: str | None = Field(
        None,
        description="Known answers, for figures and for pairs.closed: known_answer; the method itself never reads them",
    )
    open_prompts: tuple[str, ...] = Field(
        (), description="Open questions; one of them, drawn by the image's name, is asked about each image besides"
    )


class Pairs(Section):
    """Synthetic preference pairs (section 3.1 of the paper, stage I)."""

    share: Fraction = Field(1.0, description="Share of the training questions of each kind, drawn anew each iteration")
    closed_share: Fraction | None = Field(None, description="The same for closed questions; null: as pairs.share")
    inject_prompt: PromptName = Field(
        "detailed", description="How errors are asked for: a shipped prompt by its name, or the path of your own (.txt)"
    )
    answer_temperature: float = Field(
        0.0, ge=0, description="Of the answer to an open question; 0: greedy. The paper gives none"
    )
    error_temperature: float = Field(1.0, gt=0, description="Of the rewriting with errors; the paper gives none")
    max_length_difference: float = Field(
        0.2, gt=0, description="Drop a pair whose longer text has more than this share more characters than the shorter"
    )
    closed: Literal["majority", "known_answer"] = Field(
        "majority",
        description="Preferred answer to a closed question: what most samples say, or (ablation) a sample that is the"
        " known answer",
    )
    votes: int = Field(16, ge=2, description="Answers sampled to a closed question")
    min_votes: int = Field(5, ge=1, description="Votes that the majority must have")
    vote_temperature: float = Field(1.0, gt=0, description="Of these samples; the paper gives none")
    max_new_tokens: int = Field(512, ge=1, description="Longest answer")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the prompt's name: the stage gets its text separately."""
        return self.model_dump(exclude={"inject_prompt"})

    @model_validator(mode="after")
    def _majority_is_possible(self) -> "Pairs":
        if self.min_votes > self.votes:
            raise ValueError(f"pairs.min_votes {self.min_votes} is more than pairs.votes {self.votes}")
        return self


class Reasons(Section):
    """The reasons and verdicts that the judge writes (stage II)."""

    prompt: PromptName = Field(
        "criteria", description="The judge's prompt: a shipped one by its name, or the path of your own (.txt)"
    )
    samples: int = Field(
        1, ge=1, description="Reasons drawn for each order of a pair; of those with the right verdict the first is kept"
    )
    temperature: float = Field(0.6, gt=0)
    top_k: int | None = Field(50, ge=1)
    top_p: float = Field(0.9, gt=0, le=1)
    max_new_tokens: int = Field(1024, ge=1, description="Longest reason with its verdict")

    def key_fields(self) -> dict[str, Any]:
        """All fields but the prompt's name: the stage gets its text separately."""
        return self.model_dump(exclude={"prompt"})


class Filter(Section):
    """Which reasons are kept for training (stage II)."""

    both_orders: bool = Field(
        True, description="Keep only pairs that are judged rightly in both orders; false: each right verdict is kept"
    )


class Training(Lora):
    """Supervised training on the kept reasons (stage III)."""

    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(5, ge=1)
    decay_per_iteration: float = Field(
        1.0, gt=0, le=1, description="The learning rate of iteration n is lr x this^(n-1); the paper gives none"
    )
    start_from: Literal["previous", "fresh"] = Field(
        "previous", description="The adapter starts from that of the previous iteration, or anew"
    )
    balance: Literal["order_and_kind", "order", "none"] = Field(
        "order_and_kind",
        description="Draw equally many reasons of each order, or of each order and kind of question (the scarcest"
        " decides)",
    )


class JudgedPairs(Section):
    """Pairs of answers with a known preference, to measure the judge with."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Its name in the report")
    table: DataPath = Field(description="CSV, JSON lines, JSON or Parquet. Local or s3://")
    images: DataPath = Field("", description="Folder of the images; empty: the table's own folder")
    format: Literal["pairs", "vl_rewardbench", "multimodal_rewardbench"] = Field(
        "pairs",
        description="pairs: columns image, question, answer_a, answer_b, better (A or B), and if there are any"
        " dimension and group; else the tables of these benchmarks as they are published",
    )
    rows: int | None = Field(None, ge=1, description="At most so many pairs, drawn once; null: all")
    max_megapixels: float = Field(100.0, gt=0)


class Evaluation(Bootstrap):
    """Measuring the judge."""

    pairs: tuple[JudgedPairs, ...] = Field((), description="Pairs of which the better answer is known")
    held_out: Fraction = Field(
        1.0, description="Share of the validation questions that held-out synthetic pairs are made from"
    )

    @field_validator("pairs")
    @classmethod
    def _distinct_names(cls, pairs: tuple[JudgedPairs, ...]) -> tuple[JudgedPairs, ...]:
        check_names("table of pairs", [data.name for data in pairs], taken=["held_out"])
        return pairs


class SelfJudgeRecipe(BaseRecipe):
    """A run of self_judge."""

    method: Literal["self_judge"] = "self_judge"
    data: PromptData
    iterations: int = Field(4, ge=1, description="Rounds of self-training (the paper: 4)")
    pairs: Pairs = Pairs()
    reasons: Reasons = Reasons()
    filter: Filter = Filter()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    control: ClassVar[str] = "reasons are kept where the verdict is the opposite of how the pair was made"

    @model_validator(mode="after")
    def _known_answers_are_there(self) -> "SelfJudgeRecipe":
        if self.pairs.closed == "known_answer" and self.data.answer_column is None:
            raise ValueError("pairs.closed: known_answer needs data.answer_column")
        return self


RECIPE = SelfJudgeRecipe
