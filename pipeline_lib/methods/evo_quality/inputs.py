"""A model that rates, as one value from the flow to the stages."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.methods.evo_quality.prompt import Prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe, Exact
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef


class Rater(BaseModel):
    """A model, the prompt by which it rates an image, and how often it is asked."""

    model_config = ConfigDict(frozen=True)

    model: ModelRef
    prompt: str
    answers: int  # sampled ratings of an image, beside the greedy one
    temperature: float
    max_new_tokens: int
    exact: Exact | None = None  # the expectation instead of sampled ratings

    def key_fields(self) -> dict[str, Any]:
        """All fields; of the two ways to rate the one that is used, so that sampled ratings keep their keys."""
        unused = {"answers"} if self.exact else {"exact"}
        return {name: value for name, value in self if name not in unused}

    @classmethod
    def of(cls, recipe: EvoQualityRecipe, model: ModelRef, prompts: Prompts) -> "Rater":
        """The model of a recipe as it is asked for ratings, in evaluation and for new images."""
        return cls(
            model=model,
            prompt=prompts.rate,
            answers=recipe.evaluation.answers,
            temperature=recipe.evaluation.temperature,
            max_new_tokens=recipe.training.grpo.max_new_tokens,
            exact=recipe.evaluation.exact,
        )

    def with_adapter(self, adapter: ArtifactRef) -> "Rater":
        """The same under another adapter."""
        return self.model_copy(update={"model": self.model.with_adapter(adapter)})
