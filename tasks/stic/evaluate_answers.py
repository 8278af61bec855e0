"""questions, model, its descriptions -> answers, checked descriptions, metrics."""

from collections.abc import Mapping

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.methods.stic.recipe import Scoring
from pipeline_lib.methods.stic.tables import ANSWERS, CHECKED, PREDICTIONS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def evaluate_answers(
    work: Work,
    config: Scoring,
    bootstrap: Bootstrap,
    infused: str,
    model: ModelRef,
    images: ImageSet,
    descriptions: ArtifactRef,
    seed: int,
) -> None:
    """Answer the questions directly and behind the model's own description; check answers and descriptions."""
    from pipeline_lib.methods.stic.answers import by_image
    from pipeline_lib.methods.stic.figures import (
        answer_metrics,
        check_descriptions,
        description_metrics,
        score_answers,
    )

    questions, described = work.read(images.table, "questions"), work.read(descriptions, "descriptions")
    of_image = {image: row["description"] for image, row in by_image(described).items()}
    direct = work.in_shards(answers, config.max_new_tokens, infused, model, images, None, None)
    behind = work.in_shards(answers, config.max_new_tokens, infused, model, images, descriptions, of_image)
    predictions = score_answers(questions, direct, behind, config)
    checked = check_descriptions(questions, described, config.things)
    work.write(PREDICTIONS, predictions)
    work.write(CHECKED, checked)
    metrics = [answer_metrics(predictions, bootstrap, seed), description_metrics(checked, bootstrap, seed)]
    work.write(METRICS, pa.concat_tables(metrics))


def answers(
    work: Work,
    max_new_tokens: int,
    infused: str,
    model: ModelRef,
    images: ImageSet,
    descriptions: ArtifactRef | None,
    of_image: Mapping[str, str] | None,
) -> InShards:
    """The answers to every question, behind the description of its image if there are any."""
    from pipeline_lib.methods.stic.answers import answer_questions

    # Answers depend on these alone: with another rule of scoring or other intervals they stay cached.
    decided_by = {
        "max_new_tokens": max_new_tokens,
        "model": model,
        "images": images,
        "infused": infused if descriptions else "",
        "descriptions": descriptions,
    }
    address = f"scratch/stic_answers/{artifact_key('stic_answers', 1, decided_by)}"

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        return answer_questions(
            work.vlm(model),
            part,
            images.opener(model.resize_px),
            of_image,
            infused,
            max_new_tokens=max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(address, work.read(images.table, "questions"), ANSWERS, ask)
