"""A model that rates, as one value from the flow to the stages."""

from pydantic import BaseModel, ConfigDict

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

    def with_adapter(self, adapter: ArtifactRef) -> "Rater":
        """The same under another adapter."""
        return self.model_copy(update={"model": self.model.with_adapter(adapter)})
