"""What a model is asked: one value from the flow to the stages."""

from pydantic import BaseModel, ConfigDict

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.store import ArtifactRef
from pipeline_lib.vlm.model_ref import ModelRef


class Inputs(BaseModel):
    """A model, the prompt that it is asked, the images that it is asked about, and the longest answer in tokens."""

    model_config = ConfigDict(frozen=True)

    model: ModelRef
    prompt: Prompt
    images: ImageSet
    max_new_tokens: int

    def under(self, model: ModelRef) -> "Inputs":
        """The same question to another model."""
        return self.model_copy(update={"model": model})

    def with_adapter(self, adapter: ArtifactRef) -> "Inputs":
        """The same question to the model under another adapter."""
        return self.under(self.model.with_adapter(adapter))
