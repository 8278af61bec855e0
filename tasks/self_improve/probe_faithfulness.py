"""predictions, model -> faithfulness of the explanations."""

import pyarrow as pa

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.methods.self_improve.inputs import GenerationInputs
from pipeline_lib.methods.self_improve.recipe import Faithfulness
from pipeline_lib.methods.self_improve.tables import FAITHFULNESS, OTHER_EXPLANATIONS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef, artifact_key
from pipeline_lib.store.shards import InShards
from pipeline_lib.tables.metrics import METRICS
from tasks.stage import Work, stage


# 2: intervals over groups
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
    from pipeline_lib.methods.self_improve.faithfulness import draw_probes, faithfulness_metrics, faithfulness_table
    from pipeline_lib.methods.self_improve.round_trip import load_judge

    others = work.in_shards(other_explanations, config, inputs, predictions, seed)
    answers = work.read(predictions, "predictions")
    probes = draw_probes(answers, config.rows, seed)
    table = faithfulness_table(load_judge(work.read(fitted_judge, "judge_terms")), probes, others)
    work.write(FAITHFULNESS, table)
    work.write(METRICS, faithfulness_metrics(table, answers, bootstrap, seed))


def other_explanations(
    work: Work, config: Faithfulness, inputs: GenerationInputs, predictions: ArtifactRef, seed: int
) -> InShards:
    """The model's explanations of the same scores for other images."""
    from pipeline_lib.methods.self_improve.faithfulness import draw_probes, explain_other_images
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

    # The explanations do not depend on settings of the judge and the bootstrap, so they are cached apart.
    asked = artifact_key("other_explanations", 1, {"inputs": inputs, "config": config, "seed": seed})
    probes = draw_probes(work.read(predictions, "predictions"), config.rows, seed)
    return InShards(f"scratch/other_explanations/{asked}", probes, OTHER_EXPLANATIONS, explain)
