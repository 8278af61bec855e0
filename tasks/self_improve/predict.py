"""trained model, images without scores -> predictions."""

from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.tables import NEW_PREDICTIONS
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.self_improve.evaluate import ask_about
from tasks.stage import Work, stage


# 2: the monotone reading, and intervals
@stage(version=2, gpu=True, in_shards=True)
def predict(
    work: Work,
    prompt: Prompt,
    model: ModelRef,
    max_new_tokens: int,
    new_images: ArtifactRef,
    evaluated: ArtifactRef,
    seed: int,
) -> None:
    """Score images that have no score and say why, on the scale of the data that the model was evaluated on (4.3)."""
    from pipeline_lib.methods.self_improve.predictions import new_predictions, scale_of

    given = work.in_shards(answers, prompt, model, max_new_tokens, new_images)
    scale = scale_of(work.read(evaluated, "reference_values"), work.read(evaluated, "predictions"), seed)
    work.write(NEW_PREDICTIONS, new_predictions(work.read(new_images, "new_images"), given, scale))


def answers(work: Work, prompt: Prompt, model: ModelRef, max_new_tokens: int, new_images: ArtifactRef) -> InShards:
    """The model's answers to every new image that can be read."""
    from pipeline_lib.methods.self_improve.predictions import to_ask
    from pipeline_lib.use.new_images import opener

    images = to_ask(work.read(new_images, "new_images"))
    return ask_about(work, work.address, images, prompt, model, max_new_tokens, opener(model.resize_px))
