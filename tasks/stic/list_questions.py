"""a table of questions -> the questions, and their images."""

from pipeline_lib.methods.stic.recipe import QuestionData
from pipeline_lib.methods.stic.tables import QUESTION_IMAGES, QUESTIONS
from pipeline_lib.tables.images import UNREADABLE_IMAGES
from tasks.stage import Work, stage


@stage(version=1)
def list_questions(work: Work, data: QuestionData, seed: int, fingerprint: str) -> None:
    """Read questions with reference answers and every image once; name the images that cannot be read."""
    from pipeline_lib.methods.stic.questions import read_images, read_questions

    found = read_images(read_questions(data, seed), data)
    work.write(QUESTIONS, found.questions)
    work.write(QUESTION_IMAGES, found.images)
    work.write(UNREADABLE_IMAGES, found.unreadable)
