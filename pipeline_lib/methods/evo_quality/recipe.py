"""The sections of an evo_quality recipe; the defaults are the paper's where it gives them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.config.base import (
    BaseRecipe,
    Bootstrap,
    Fraction,
    Grpo,
    LocalPath,
    Lora,
    NamedData,
    RelativeToRecipe,
    Section,
    Split,
    check_names,
)


class Variants(Section):
    """Distorted variants of the images, whose pairs are voted on as well."""

    per_image: int = Field(10, ge=0, description="Variants of each image, drawn from all distortions and levels")
    kinds: int = Field(35, ge=1, le=35, description="Drawn from the first so many distortions (the paper: 35)")
    from_round: int = Field(2, ge=1, description="First round with pairs of variants (the paper: 2)")
    fraction: Fraction = Field(0.5, description="Share of a round's pairs that are two variants of one image")


class Pairs(Section):
    """The pairs of images of a round."""

    count: int = Field(20_000, ge=1, description="Training pairs of a round")
    held_out: int = Field(500, ge=1, description="Pairs of validation images; their votes are the base's")
    variants: Variants = Variants()


class Votes(Section):
    """How pairs are labelled."""

    method: Literal["sampled", "exact"] = Field(
        "sampled",
        description="sampled: answers are counted; exact: the probabilities of the two answers in both orders, for"
        " prompts without a reasoning text",
    )
    answers: int = Field(32, ge=1, description="Answers a pair (K), each to a random order of the two images")
    temperature: float = Field(1.0, gt=0, description="Of sampling; the paper gives none")
    max_new_tokens: int = Field(512, ge=2, description="Longest answer in tokens")
    label: Literal["majority", "share"] = Field(
        "majority", description="majority: 1, 0, or .5 for a tie; share: the share of votes, a soft label"
    )


class Training(Lora):
    """GRPO on a LoRA adapter, in each round; the paper trains all weights at 3e-7."""

    learning_rate: float = Field(1e-5, gt=0, description="Of LoRA; the paper's 3e-7 is for all weights")
    target: Literal["votes", "own_mean"] = Field(
        "votes",
        description="votes: rank as the votes say; own_mean: the paper's ablation, each rating is drawn to the mean of"
        " the model's own ratings of the image",
    )
    partners: int = Field(
        5,
        ge=1,
        description="A unit of `batch_size` is an image with up to so many images that it is paired with; its reward is"
        " the mean over them. The paper gives no number: its 20,000 pairs of 7,058 images are 5.7 an image. 1: a pair",
    )
    gamma: float = Field(1e-6, gt=0, description="Added to the variance in the Thurstone probability")
    format_weight: float = Field(1.0, ge=0, description="Reward of an answer that can be read; the paper gives none")
    grpo: Grpo = Grpo(answers=32, max_new_tokens=512, beta=0.05)


class Labelled(NamedData):
    """A labelled data set, for measuring alone."""

    split: Split | None = Field(None, description="Images of this split alone (`split_column`); null: all images")

    @model_validator(mode="after")
    def _split_has_a_column(self) -> "Labelled":
        if self.split is not None and self.split_column is None and self.dataset == "table":
            raise ValueError("split: give split_column as well, the column with train / val / test")
        return self


class Exact(Section):
    """The expectation of a rating over the model's answers instead of a mean of samples; for prompts without reasoning.

    Answers less probable than `least_probability` are not followed. What they could change is at most 4 times their
    probability, as a share of the probability of the answers that can be read.
    """

    least_probability: float = Field(
        1e-4, gt=0, lt=1, description="Of an answer, or a beginning of one, that is followed"
    )
    least_mass: float = Field(
        0.98,
        gt=0,
        le=1,
        description="Probability that the followed answers must have together; else there is no rating",
    )


class Evaluation(Bootstrap):
    """Ratings of images, and their figures."""

    answers: int = Field(32, ge=2, description="Sampled ratings of an image; their mean is its rating")
    temperature: float = Field(1.0, gt=0, description="Of sampling")
    exact: Exact | None = Field(None, description="The exact expectation instead of a mean of samples; null: samples")
    labelled: tuple[Labelled, ...] = Field(
        (), description="Labelled data sets, each evaluated for every model; the first one is the main one"
    )
    stop: Labelled | None = Field(
        None,
        description="A small labelled data set that only stops the rounds: after a round that lowers SRCC on it, the"
        " model before is the run's",
    )

    @field_validator("labelled")
    @classmethod
    def _distinct_names(cls, labelled: tuple[Labelled, ...]) -> tuple[Labelled, ...]:
        check_names("data set", [data.name for data in labelled])
        return labelled


class EvoQualityRecipe(BaseRecipe):
    """A run of evo_quality."""

    method: Literal["evo_quality"] = "evo_quality"
    rounds: int = Field(2, ge=1, description="Rounds of voting and ranking (the paper: 2)")
    prompts: Annotated[LocalPath, RelativeToRecipe(".yaml")] = Field(
        "paper", description="Shipped prompts by their name, or the path of your own (.yaml)"
    )
    pairs: Pairs = Pairs()
    votes: Votes = Votes()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    control: ClassVar[str] = "the votes are shuffled among the pairs of a round"


RECIPE = EvoQualityRecipe
