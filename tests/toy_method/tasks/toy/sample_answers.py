"""images, model -> sampled answers to pairs of images."""

import pyarrow as pa
from pipeline_lib.methods.toy.recipe import Answers
from pipeline_lib.methods.toy.tables import ANSWERS

from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.progress import Progress
from pipeline_lib.store.shards import InShards
from pipeline_lib.vlm.model_ref import ModelRef
from tasks.stage import Work, stage


@stage(version=1, gpu=True, in_shards=True)
def sample_answers(
    work: Work, config: Answers, model: ModelRef, images: ImageSet, question: str, max_new_tokens: int, seed: int
) -> None:
    """Ask about each image and the one after it, several times."""
    work.write(ANSWERS, work.in_shards(answers, config, model, images, question, max_new_tokens, seed))


def answers(
    work: Work, config: Answers, model: ModelRef, images: ImageSet, question: str, max_new_tokens: int, seed: int
) -> InShards:
    """The answers to every pair."""
    from pipeline_lib.methods.toy import answers as toy

    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.generate import Sampled

    def ask(part: pa.Table, progress: Progress) -> pa.Table:
        vlm = work.vlm(model)
        return toy.sample_answers(
            vlm,
            render_chat(vlm.processor, question, images=2),
            part,
            images.opener(model.resize_px),
            decoding=Sampled(max_new_tokens=max_new_tokens, temperature=config.temperature, seed=seed),
            count=config.count,
            batch_size=work.runtime.generation_batch_size,
            progress=progress,
        )

    return InShards(work.address, toy.neighbours(work.read(images.table, "images")), ANSWERS, ask)
