import pytest

from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_improve.prompt import Criterion, load_prompt
from pipeline_lib.methods.self_improve.rubric import FOLDER, Rubric, load_rubric
from pipeline_lib.store import artifact_key

PAPER = """\
Your task is to evaluate the quality of explanatory texts regarding the aesthetic value of images. You will be given \
an aesthetic score for an image and an explanatory text justifying the score. Please rate the quality of the \
explanatory text on a 5-point scale (excellent, good, fair, poor, bad). The aesthetic score ranges from 0 to 9, with \
the following meanings:

0: Very bad 4-5: Average 9: Excellent

Evaluate the quality of the explanatory text based on the following criteria, each on a 5-point scale:

** Consistency **

Does the content of the explanatory text align with the aesthetic score? Is the explanation convincing as a \
justification for the score? Only rate as "excellent" if the alignment is perfect and the justification is highly \
convincing.

** Usefulness **

Is the content of the explanatory text useful for understanding the good points and areas for improvement of the \
image? Only rate as "excellent" if the text provides clear, actionable insights.

** General **

The overall quality of the text as a piece of writing. Only rate as "excellent" if the text is exceptionally \
well-written with no grammatical errors and flows logically.

Be strict in your evaluations, and only rate as "excellent" if there is no room for improvement. Return the output in \
JSON format only.

Example output: {"consistency": "poor", "usefulness": "good", "general": "fair"}

Below are the aesthetic score and explanatory text.

#Aesthetic score: 7 #Explanatory text: The light is good."""


def criterion(score: str = "quality score") -> Criterion:
    return Criterion(value="quality", score=score, scale="0: bad 9: good")


def test_for_aesthetics_the_rubric_is_the_papers_word_for_word() -> None:
    asked = load_rubric("paper").message(load_prompt("aesthetics").criterion, 7, "The light is good.")
    assert asked == PAPER


def test_braces_and_backslashes_in_texts_and_criteria_mean_nothing() -> None:
    rubric = Rubric(name="r", text='{"a": 1} {unknown} {value} {score}: {text}')
    odd = Criterion(value="{text}", score="s", scale="{score}")
    assert rubric.message(odd, 3, r"{score} {0} {value!r} \1 {") == (
        r'{"a": 1} {unknown} {text} 3: {score} {0} {value!r} \1 {'
    )


@pytest.mark.parametrize(
    ("score", "article"),
    [
        ("aesthetic score", "an"),
        ("advertising appeal score", "an"),
        ("technical quality score", "a"),
        ("usefulness score", "a"),
        ("uniformity score", "a"),
        ("honesty score", "an"),
        ("harmony score", "a"),
    ],
)
def test_the_article_fits_the_score(score: str, article: str) -> None:
    asked = Rubric(name="r", text="{a_score_name}, {Score_name}").message(criterion(score), 1, "t")
    assert asked == f"{article} {score}, {score[0].upper()}{score[1:]}"


def test_the_text_of_a_rubric_is_in_the_key_and_its_digest_and_its_name_is_not() -> None:
    one, same, other = (
        Rubric(name="a", text="{score}{text}"),
        Rubric(name="b", text="{score}{text}"),
        Rubric(name="a", text="{score} {text}"),
    )
    key = [artifact_key("s", 1, {"rubric": rubric}) for rubric in (one, same, other)]
    assert key[0] == key[1] != key[2]
    assert one.digest(criterion()) == same.digest(criterion()) != other.digest(criterion())
    paper = load_rubric("paper")
    assert paper.digest(criterion("a score")) != paper.digest(criterion("b score"))


def test_an_unknown_rubric_is_refused_with_those_there_are() -> None:
    for name in ("strict", "../../vlm/prompts/aesthetics"):
        with pytest.raises(RecipeError, match="there are paper"):
            load_rubric(name)
    assert {load_rubric(file.stem).name for file in FOLDER.glob("*.txt")} >= {"paper"}
