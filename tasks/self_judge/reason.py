"""pairs, judge -> reasons with verdicts in both orders."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.judges.vlm_judge import JudgePrompt
from pipeline_lib.methods.self_judge.recipe import Reasons
from pipeline_lib.methods.self_judge.tables import REASONS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactRef
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def reason(
    work: Work,
    config: Reasons,
    prompt: JudgePrompt,
    judge: ModelRef,
    images: ImageSet,
    pairs: ArtifactRef,
    seed: int,
    iteration: int,
) -> None:
    """Let the judge of the previous iteration write a reason and a verdict on each pair, in both orders (stage II)."""
    work.write(REASONS, work.in_shards(reasons, config, prompt, judge, images, pairs, seed, iteration))


def reasons(
    work: Work,
    config: Reasons,
    prompt: JudgePrompt,
    judge: ModelRef,
    images: ImageSet,
    pairs: ArtifactRef,
    seed: int,
    iteration: int,
) -> InShards:
    """The reasons on every pair in both orders."""
    from pipeline_lib.methods.self_judge.traces import reason_on
    from pipeline_lib.vlm.generate import Sampled

    table = work.read(pairs, "synthesis")

    def make(part: pa.Table, progress: Progress) -> pa.Table:
        made = reason_on(
            work.vlm(judge),
            prompt,
            part,
            images.opener(judge.resize_px),
            decoding=Sampled(
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                seed=seed * 1000 + iteration,
            ),
            samples=config.samples,
            batch_size=work.runtime.generation_batch_size,
            progress=Progress(work.label, 2 * part.num_rows, "reasons"),
        )
        progress.advance(part.num_rows)
        return made

    return InShards(work.address, table.filter(pc.equal(table["status"], "pair")), REASONS, make)
