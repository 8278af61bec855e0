"""Sets of prompts: those of the paper, and what a set of one's own must hold."""

from pathlib import Path

import pytest

from pipeline_lib.demo import lessons
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.stic.prompt import infused_question, load_prompts

OWN = "curated: a\nplain: [b]\nbad: [c]\ndescribe: d\ninfused: '{question} ({description})'\n"


def test_the_shipped_sets_hold_the_prompts_of_the_experiments_word_for_word() -> None:
    paper, short = load_prompts("stic"), load_prompts("stic_short")
    assert len(paper.plain) == len(paper.bad) == 8
    assert paper.curated.splitlines()[0] == (
        "Please provide a detailed description of the image, focusing on the following."
    )
    assert len(paper.curated.splitlines()) == 7 and paper.describe in paper.plain
    assert paper.infused == short.infused == lessons.INFUSED
    # The bundled model was taught these.
    for prompts in (paper, short):
        assert prompts.plain == lessons.PLAIN_PROMPTS and prompts.bad == lessons.BAD_PROMPTS
    assert short.curated == lessons.CURATED_PROMPT


def test_braces_in_a_description_or_question_are_text() -> None:
    prompts = load_prompts("stic")
    assert infused_question(prompts.infused, "a {question} mark", "why {description}?") == (
        "Image description:\na {question} mark\n\nwhy {description}?"
    )


def test_a_set_of_ones_own_is_read_and_its_name_is_not_in_the_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(OWN)
    one, two = (load_prompts(str(tmp_path / f"{name}.yaml")) for name in ("one", "two"))
    assert (
        infused_question(one.infused, "D", "Q") == "Q (D)"
        and one.name != two.name
        and one.key_fields() == two.key_fields()
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (OWN.replace("bad: [c]\n", ""), "bad"),
        (OWN.replace("plain: [b]", "plain: []"), "plain"),
        (OWN.replace("{description}", ""), "{description}"),
        (OWN + "more: x\n", "more"),
        ("just a text", "curated"),
        ("a: [", "curated"),
    ],
)
def test_what_is_wrong_with_a_set_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as raised:
        load_prompts(str(tmp_path / "mine.yaml"))
    assert named in str(raised.value)


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="stic, stic_short"):
        load_prompts("absent")
