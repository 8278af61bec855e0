"""A model with its prompt and images, as one value from the flow to the stages."""

from typing import Self

from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef


class Inputs(BaseModel):
    """A model, the prompt that it is asked, and the images that it is asked about."""

    model_config = ConfigDict(frozen=True)

    model: ModelRef
    prompt: Prompt
    images: ImageSet

    def with_adapter(self, adapter: ArtifactRef) -> Self:
        """The same with another adapter."""
        return self.model_copy(update={"model": self.model.with_adapter(adapter)})


class GenerationInputs(Inputs):
    """Inputs with the longest answer in tokens, for stages that generate answers."""

    max_new_tokens: int

    @property
    def inputs(self) -> Inputs:
        """Without the length of an answer, for stages that generate none."""
        return Inputs(model=self.model, prompt=self.prompt, images=self.images)
