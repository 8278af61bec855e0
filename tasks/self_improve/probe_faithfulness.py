"""predictions, model -> faithfulness of the explanations."""

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import Faithfulness
from pipeline_lib.methods.self_improve.tables import FAITHFULNESS, OTHER_EXPLANATIONS, TEXT_SCORES
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


# 2: other scores, texts alone, named faults; intervals over groups
@stage(version=2, gpu=True, in_shards=True)
def probe_faithfulness(
    work: Work,
    config: Faithfulness,
    bootstrap: Bootstrap,
    inputs: GenerationInputs,
    fitted_judge: ArtifactRef,
    predictions: ArtifactRef,
    seed: int,
) -> None:
    """Probe explanations: do they tell their score, depend on their image, and name no number (section 6)?"""
    from pipeline_lib.methods.self_improve.faithfulness import (
        Replies,
        draw_probes,
        faithfulness_metrics,
        faithfulness_table,
    )
    from pipeline_lib.methods.self_improve.named_faults import fault_metrics
    from pipeline_lib.methods.self_improve.round_trip import load_judge

    replies = Replies(
        work.in_shards(other_explanations, config.rows, inputs, predictions, seed, False),
        work.in_shards(other_explanations, config.rows, inputs, predictions, seed, True),
        work.in_shards(text_scores, config.rows, inputs, predictions, seed),
    )
    answers = work.read(predictions, "predictions")
    probes = draw_probes(answers, config.rows, seed)
    table = faithfulness_table(load_judge(work.read(fitted_judge, "judge_terms")), probes, replies)
    metrics = [faithfulness_metrics(table, answers, bootstrap, seed)]
    if config.faults:
        images = work.read(inputs.images.table, "images")
        metrics.append(fault_metrics(answers, images, config.faults, bootstrap, seed))
    work.write(FAITHFULNESS, table)
    work.write(METRICS, pa.concat_tables(metrics))


def other_explanations(
    work: Work, rows: int, inputs: GenerationInputs, predictions: ArtifactRef, seed: int, other_score: bool
) -> InShards:
    """The model's explanations of the same scores for other images, or of other scores for the same images."""
    from pipeline_lib.methods.self_improve.faithfulness import draw_probes, explain_other_images, rescore
    from pipeline_lib.vlm.chat import render_chat

    open_image = inputs.images.opener(inputs.model.resize_px)

    def explain(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(inputs.model)
        return explain_other_images(
            vlm,
            render_chat(vlm.processor, inputs.prompt.text),
            part,
            open_image,
            max_new_tokens=inputs.max_new_tokens,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    probes = draw_probes(work.read(predictions, "predictions"), rows, seed)
    kind = "other_score_explanations" if other_score else "other_explanations"
    return InShards(
        _scratch(kind, inputs, rows, seed), rescore(probes) if other_score else probes, OTHER_EXPLANATIONS, explain
    )


def text_scores(work: Work, rows: int, inputs: GenerationInputs, predictions: ArtifactRef, seed: int) -> InShards:
    """The scores that the model reads from its explanations alone."""
    from pipeline_lib.methods.self_improve.faithfulness import draw_probes
    from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
    from pipeline_lib.methods.self_improve.text_alone import score_texts
    from pipeline_lib.vlm.chat import render_chat

    def score(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(inputs.model)
        scores = resolve_score_tokens(vlm.processor.tokenizer, render_chat(vlm.processor, inputs.prompt.text))
        return score_texts(
            vlm,
            inputs.prompt.text,
            scores,
            part,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    probes = draw_probes(work.read(predictions, "predictions"), rows, seed)
    return InShards(_scratch("text_scores", inputs, rows, seed), probes, TEXT_SCORES, score)


def _scratch(kind: str, inputs: GenerationInputs, rows: int, seed: int) -> str:
    """Answers do not depend on settings of the judge and the bootstrap, so they are cached apart."""
    return f"scratch/{kind}/{artifact_key(kind, 1, {'inputs': inputs, 'rows': rows, 'seed': seed})}"
