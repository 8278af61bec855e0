"""a table of pairs of answers with a known preference -> those pairs, and their images."""

from pipeline_lib.methods.self_judge.recipe import JudgedPairs
from pipeline_lib.methods.self_judge.tables import ANSWER_PAIRS
from pipeline_lib.tables.images import IMAGES, UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=1)
def list_pairs(work: Work, data: JudgedPairs, seed: int, fingerprint: str) -> None:
    """Read the pairs and every image once; an image that cannot be read is an error."""
    from pipeline_lib.data.read_images import read_images
    from pipeline_lib.methods.self_judge.answer_pairs import pairs_table, read_pairs

    pairs = read_pairs(data, seed)
    read = read_images(pairs.images, 0.0, data.max_megapixels)
    work.write(IMAGES, read.images, extra_columns=True)
    work.write(UNREADABLE_IMAGES, read.unreadable)
    work.write(ANSWER_PAIRS, pairs_table(pairs, read.images))
