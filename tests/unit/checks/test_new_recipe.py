"""whyscore new: what a table's columns are is found by looking, and the recipe that is written is the one meant."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline_lib.checks.columns import look_at_table
from pipeline_lib.checks.new_recipe import Answers, suggested_name, write_recipe, yaml_text
from pipeline_lib.checks.survey import survey_data
from pipeline_lib.config.base import Data
from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import DataError
from whyscore.cli import app

NAMES = [f"{n}.png" for n in range(60)]
SCORES = [round(1 + 8 * (n * 37 % 60) / 60, 2) for n in range(60)]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "photos"
    folder.mkdir()
    for n, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (n * 4, 255 - n * 4, n)).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "photos").symlink_to(photos)
    return tmp_path


def write(folder: Path, name: str = "t.csv", sep: str = ",", **columns: Sequence[Any]) -> str:
    pd.DataFrame(columns).to_csv(folder / name, index=False, sep=sep)
    return str(folder / name)


def new(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new", *arguments])


def written(table: str) -> Any:
    return load_recipe(Path(table).with_suffix(".yaml")).data


def test_a_plain_table_needs_no_question(folder: Path) -> None:
    table = write(folder, image=NAMES, score=SCORES)
    answer = new(table, "--yes")
    assert answer.exit_code == 0, answer.output
    data = written(table)
    assert (data.table, data.images) == (table, str(folder / "photos"))
    assert (data.image_column, data.score_column, data.split_column, data.group_column) == (
        "image",
        "score",
        None,
        None,
    )
    assert survey_data(data, 0).problems == []
    for command in ("check-data", "doctor", "plan", "run"):
        assert f"whyscore {command} {folder}/t.yaml" in answer.output


def test_columns_are_found_under_any_name_and_in_any_form(folder: Path) -> None:
    """As a German Excel writes it on Windows: semicolons, decimal commas, backslashes; and signs that YAML reads."""
    table = write(
        folder,
        sep=";",
        **{
            "Nr": range(60),
            "Datei": [f"photos\\{name.upper()}" for name in NAMES],
            "Note: \"a\" # 'b'": [str(score).replace(".", ",") for score in SCORES],
            "Menge": ["training"] * 36 + ["dev"] * 14 + ["testing"] * 10,
            "Serie": [f"S{n // 2}" for n in range(60)],
            "breite": [16] * 60,
        },
    )
    assert new(table, "--yes").exit_code == 0
    data = written(table)
    assert (data.image_column, data.score_column) == ("Datei", "Note: \"a\" # 'b'")
    assert (data.split_column, data.group_column, data.images) == ("Menge", "Serie", "")
    assert survey_data(data, 0).problems == []


def test_of_several_numbers_the_one_with_a_scores_name_is_taken(folder: Path) -> None:
    table = write(folder, image=NAMES, sharpness=SCORES, MeanScore=SCORES[::-1], width=range(60))
    found = look_at_table(table)
    assert found.score.choice == "MeanScore"
    assert [column.name for column in found.score.columns] == ["sharpness", "MeanScore"]


def test_of_two_equal_columns_a_person_has_to_choose(folder: Path) -> None:
    table = write(folder, image=NAMES, beauty=SCORES, sharpness=SCORES[::-1])
    refused = new(table, "--yes")
    assert refused.exit_code == 1 and "--score-column" in refused.output and not (folder / "t.yaml").exists()
    assert new(table, "--yes", "--score-column", "sharpness").exit_code == 0
    assert written(table).score_column == "sharpness"
    wrong = new(table, "--yes", "--score-column", "image", "--replace")
    assert wrong.exit_code == 1 and "beauty, sharpness" in wrong.output


def test_without_a_terminal_it_asks_nothing_and_names_the_options(folder: Path) -> None:
    table = write(folder, image=NAMES, score=SCORES)
    refused = new(table)
    assert refused.exit_code == 1
    for option in ("--name", "--model", "--criterion"):
        assert option in refused.output
    assert not (folder / "t.yaml").exists()
    given = new(table, "--name", "mine", "--model", "bundled", "--criterion", "technical_quality")
    assert given.exit_code == 0 and load_recipe(folder / "t.yaml").name == "mine"


def test_at_a_terminal_it_asks_again_until_an_answer_fits(folder: Path) -> None:
    table = write(folder, image=NAMES, beauty=SCORES, sharpness=SCORES[::-1], camera=["x", "y", "z"] * 20)
    ours, theirs = pty.openpty()
    os.write(
        ours, b"nothing\nbeauty\ncamera\nMy Run\nmy-run\n\n\n"
    )  # column, again; group; name, again; model; criterion
    child = subprocess.run(
        [sys.executable, "-m", "whyscore.cli", "new", table],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 0, child.stdout + child.stderr
    recipe = load_recipe(folder / "t.yaml")
    assert recipe.name == "my-run" and recipe.model.id == "bundled"
    assert written(table).score_column == "beauty" and written(table).group_column == "camera"


def test_a_folder_of_images_is_rated_without_scores(photos: Path, tmp_path: Path) -> None:
    assert new(str(photos), "--yes", "--out", str(tmp_path / "r.yaml")).exit_code == 0
    recipe: Any = load_recipe(tmp_path / "r.yaml")
    assert recipe.method == "evo_quality" and not isinstance(recipe.data, Data)
    assert recipe.pairs.count <= 36 * 35 // 2 and recipe.pairs.held_out >= 1


def test_stic_needs_questions(photos: Path, tmp_path: Path) -> None:
    out = ["--yes", "--out", str(tmp_path / "r.yaml"), "--method", "stic"]
    refused = new(str(photos), *out)
    assert refused.exit_code == 1 and "--questions" in refused.output
    (tmp_path / "q.jsonl").write_text('{"image": "1.png", "question": "?", "answer": "!", "split": "test"}\n')
    assert new(str(photos), *out, "--questions", str(tmp_path / "q.jsonl")).exit_code == 0
    assert load_recipe(tmp_path / "r.yaml").method == "stic"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [], "score": []}, "no rows are below the header (image, score)"),
        ({"image": [f"gone-{name}" for name in NAMES], "score": SCORES}, "none of these files is in"),
        ({"a": SCORES, "b": SCORES}, "no column has names of images"),
        ({"image": [f"C:\\Users\\me\\{name}" for name in NAMES], "score": SCORES}, "Remove 'C:/Users/me/'"),
        ({"image": [f"/srv/photos/{name}" for name in NAMES], "score": SCORES}, "Remove '/srv/photos/'"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(folder: Path, columns: dict[str, Sequence[Any]], said: str) -> None:
    with pytest.raises(DataError) as caught:
        look_at_table(write(folder, **columns))
    assert said in str(caught.value)


def test_missing_images_are_counted(folder: Path) -> None:
    found = look_at_table(write(folder, image=["", "gone.png", *NAMES[2:]], score=SCORES))
    assert "58 of 60 rows name a file" in found.image.columns[0].why
    assert any("1 image(s) are missing, e.g. gone.png and 1 row(s) have no image name" in note for note in found.notes)


def test_scores_in_words_are_not_dropped_silently(folder: Path) -> None:
    table = write(folder, image=NAMES, score=["good", "bad"] * 30)
    refused = new(table, "--yes")
    assert refused.exit_code == 1 and "'good', 'bad'" in refused.output and "--method" in refused.output
    assert new(table, "--yes", "--method", "evo_quality").exit_code == 0
    only = new(table, "--yes", "--method", "self_improve", "--replace")
    assert only.exit_code == 1 and "--score-column" in only.output


def test_columns_that_are_no_scores(folder: Path) -> None:
    """Numbers of rows, constants, sizes, yes and no; raters' votes and single ratings are named."""
    raters = {f"rater_{n}": SCORES for n in (1, 2, 3)}
    votes = {f"votes_{n}": range(60) for n in range(1, 4)}
    columns = {"row": range(5, 65), "width": SCORES, "same": [3] * 60, "sharp": [True, False] * 30, "mos": SCORES}
    found = look_at_table(write(folder, image=NAMES, **columns, **raters, **votes))
    assert [column.name for column in found.score.columns] == ["mos"]
    notes = "\n".join(found.notes)
    for part in ("votes_1 to votes_3", "rater_1, rater_2, rater_3", "column same is 3 everywhere"):
        assert part in notes


def test_splits_and_groups_that_a_run_would_refuse_are_not_used(folder: Path) -> None:
    no_val = look_at_table(write(folder, image=NAMES, score=SCORES, split=["train"] * 40 + ["test"] * 20))
    assert no_val.split.choice is None and "0 val" in "\n".join(no_val.notes)
    splits = (["train"] * 30 + ["val"] * 15 + ["test"] * 15, ["a", "b", "c"] * 20)
    across = look_at_table(write(folder, image=NAMES, score=SCORES, split=splits[0], scene=splits[1]))
    assert across.split.choice == "split" and across.group.choice is None and "scene" in "\n".join(across.notes)


def test_few_images_still_fill_each_split(folder: Path) -> None:
    table = write(folder, image=NAMES[:40], score=SCORES[:40])
    assert new(table, "--yes").exit_code == 0
    assert survey_data(written(table), 0).problems == []


def test_nothing_is_replaced_unasked(folder: Path) -> None:
    table = write(folder, image=NAMES, score=SCORES)
    (folder / "t.yaml").write_text("mine")
    refused = new(table, "--yes")
    assert refused.exit_code == 1 and "--replace" in refused.output
    assert (folder / "t.yaml").read_text() == "mine" and sorted(os.listdir(folder)) == ["photos", "t.csv", "t.yaml"]
    assert new(table, "--yes", "--replace").exit_code == 0


def test_two_image_columns_in_two_folders(folder: Path) -> None:
    (folder / "small").mkdir()
    for name in NAMES:
        (folder / "small" / f"s{name}").write_bytes((folder / "photos" / name).read_bytes())
    table = write(folder, large=NAMES, small=[f"s{name}" for name in NAMES], score=SCORES)
    assert "--image-column" in new(table, "--yes").output
    assert new(table, "--yes", "--image-column", "small").exit_code == 0
    assert written(table).images == str(folder / "small") and survey_data(written(table), 0).problems == []


def test_a_hub_id_needs_its_commit(folder: Path) -> None:
    table = write(folder, image=NAMES, score=SCORES)
    refused = new(table, "--yes", "--model", "owner/name")
    assert refused.exit_code == 1 and "--revision" in refused.output
    assert new(table, "--yes", "--model", "owner/name", "--revision", "a" * 40).exit_code == 0
    recipe: Any = load_recipe(folder / "t.yaml")
    assert (recipe.model.id, recipe.model.revision, recipe.prompt) == ("owner/name", "a" * 40, "aesthetics")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_one_line_of_yaml(text: str) -> None:
    line = yaml_text(text)
    assert "\n" not in line and yaml.safe_load(f"a: {line}  # b") == {"a": text}


@pytest.mark.parametrize("name", ['it\'s "x" #1: y.csv', "~odd.csv", "- a.csv", "null.csv", "äö 犬.csv", "{{ a }}.csv"])
def test_any_name_of_a_table_or_column(folder: Path, name: str) -> None:
    column = name.removesuffix(".csv")
    table = write(folder, name, image=NAMES, **{column: SCORES})
    found = look_at_table(table)
    answers = Answers("self_improve", suggested_name(table), "image", column, None, None)
    recipe, problems = write_recipe(found, answers, folder / "r.yaml")
    assert problems == [] and isinstance(recipe.data, Data)
    assert (recipe.data.table, recipe.data.score_column) == (table, column)


def test_no_text_of_a_table_leaves_its_comment(folder: Path) -> None:
    column = "score\nseed: 99\r\x85name: other"
    table = write(folder, image=NAMES, **{column: SCORES})
    found = look_at_table(table)
    answers = Answers("self_improve", "mine", "image", found.score.choice, None, None)
    recipe, _ = write_recipe(found, answers, folder / "r.yaml")
    assert (recipe.seed, recipe.name) == (0, "mine")
