"""model, images of another labelled data set -> predictions and figures."""

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.tables import OTHER_PREDICTIONS
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.self_improve.evaluate import ask_about
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def evaluate_also(
    work: Work, bootstrap: Bootstrap, inputs: GenerationInputs, evaluated: ArtifactRef, seed: int
) -> None:
    """Score the images of another labelled data set and measure the scores; nothing is fitted on it."""
    from pipeline_lib.methods.self_improve.other_data import evaluate_other

    given = work.in_shards(answers, inputs)
    images, values = work.read(inputs.images.table, "images"), work.read(evaluated, "reference_values")
    tables = evaluate_other(given, images, values, bootstrap, seed)
    work.write(OTHER_PREDICTIONS, tables.predictions)
    work.write(METRICS, tables.metrics)


def answers(work: Work, inputs: GenerationInputs) -> InShards:
    """The model's answers to every image of the data set."""
    from pipeline_lib.methods.self_improve.other_data import to_ask

    images = to_ask(work.read(inputs.images.table, "images"))
    # Answers depend on the model and the images alone: with other bootstrap settings they stay cached.
    address = f"scratch/answers/{artifact_key('answers', 1, {'inputs': inputs})}/also"
    open_image = inputs.images.opener(inputs.model.resize_px)
    return ask_about(work, address, images, inputs.prompt, inputs.model, inputs.max_new_tokens, open_image)
