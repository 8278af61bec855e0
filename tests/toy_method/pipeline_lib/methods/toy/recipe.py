"""A method of the tests: it asks about two images at once, keeps some answers, and learns them."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline_lib.config.base import BaseRecipe, Lora, Section


class Answers(Section):
    """How answers are drawn."""

    count: int = Field(3, ge=1, description="Answers to each pair of images")
    temperature: float = Field(1.0, gt=0)


class Training(Lora):
    """Supervised training on the kept answers."""

    learning_rate: float = Field(1e-3, gt=0)


class ToyRecipe(BaseRecipe):
    """A run of the toy."""

    method: Literal["toy"] = "toy"
    question: str = Field("Which of the two is sharper, and why?", description="Asked about each pair of images")
    answers: Answers = Answers()
    training: Training = Training()

    control: ClassVar[str] = "the longest answer to each pair is kept instead of the shortest"


RECIPE = ToyRecipe
