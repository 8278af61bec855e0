"""images with questions -> the images that can be read, and the questions about them."""

from pipeline_lib.methods.self_judge.recipe import PromptData
from pipeline_lib.methods.self_judge.tables import MULTIMODAL_PROMPTS
from pipeline_lib.tables.images import IMAGES, UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=1)
def list_prompts(work: Work, data: PromptData, seed: int, fingerprint: str) -> None:
    """Read every image once; questions about an unreadable one are left out."""
    from pipeline_lib.data.read_images import read_images
    from pipeline_lib.methods.self_judge.prompts_table import LEAST, prompts_table, read_prompts

    prompts = read_prompts(data, seed)
    read = read_images(prompts.images, data.max_unreadable_fraction, data.max_megapixels, LEAST)
    work.write(IMAGES, read.images, extra_columns=True)
    work.write(UNREADABLE_IMAGES, read.unreadable)
    work.write(MULTIMODAL_PROMPTS, prompts_table(prompts, read.images))
