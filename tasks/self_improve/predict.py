"""trained model, images without scores -> predictions."""

from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.tables import NEW_PREDICTIONS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.self_improve.evaluate import ask_about
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def predict(
    work: Work,
    prompt: Prompt,
    model: ModelRef,
    max_new_tokens: int,
    new_images: ArtifactRef,
    evaluated: ArtifactRef,
) -> None:
    """Score images that have no score and say why, on the scale of the data that the model was evaluated on (4.3)."""
    from pipeline_lib.methods.self_improve.predictions import new_predictions

    given = work.in_shards(answers, prompt, model, max_new_tokens, new_images)
    images, scale = work.read(new_images, "new_images"), work.read(evaluated, "reference_values")
    work.write(NEW_PREDICTIONS, new_predictions(images, given, scale))


def answers(work: Work, prompt: Prompt, model: ModelRef, max_new_tokens: int, new_images: ArtifactRef) -> InShards:
    """The model's answers to every new image that can be read."""
    from pipeline_lib.methods.self_improve.predictions import to_ask
    from pipeline_lib.use.new_images import opener

    images = to_ask(work.read(new_images, "new_images"))
    return ask_about(work, work.address, images, prompt, model, max_new_tokens, opener(model.resize_px))
