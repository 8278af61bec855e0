"""check-data: everything that a table holds, and everything that is wrong with it, at once."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.checks.methods.self_improve import bin_lines, scored_survey
from pipeline_lib.checks.survey import Bar, crosses_splits, duplicates, histogram
from pipeline_lib.checks.survey_text import render_survey
from pipeline_lib.config.base import Data
from pipeline_lib.data.table import read_image_list
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.discretize import discretize_scores
from whyscore.cli import app

SPLIT = ["train"] * 12 + ["val"] * 10 + ["test"] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-five photographs of different size and their table."""
    for n in range(25):
        Image.new("RGB", (10 + n, 30), (n, n, n)).save(tmp_path / f"{n}.{'png' if n else 'jpg'}")
    write(tmp_path)
    return tmp_path


def write(folder: Path, **columns: Any) -> None:
    names = [f"{n}.{'png' if n else 'jpg'}" for n in range(25)]
    rows = {"image": names, "score": np.arange(25) / 4, "split": SPLIT, "mood": "calm"}
    pd.DataFrame(rows | columns).to_csv(folder / "t.csv", index=False)


def data(folder: Path, **fields: Any) -> Data:
    return Data.model_validate({"table": str(folder / "t.csv"), **fields})


def test_a_good_table(folder: Path) -> None:
    survey = scored_survey(data(folder), 0)
    text = render_survey(survey)
    assert survey.problems == []
    for part in (
        "rows    25: 12 train, 10 val, 3 test",
        "groups  25 (each image its own)",
        "further columns  mood",
        "scores  mean 3, sd 1.803, min 0, median 3, max 6; 25 distinct value(s)",
        "longest side: min 30, median 30, max 34 px",
        "shortest side: min 10, median 22, max 30 px",
        "formats: 24 PNG, 1 JPEG",
        "duplicates  none",
        "No problem found.",
    ):
        assert part in text
    found = discretize_scores(read_image_list(data(folder), 0), 0.0, 1.0)
    means = [f"{mean:.5g}" for mean in found.bins["mean_score"].to_pylist()]
    (lines,) = survey.more
    assert lines == bin_lines(np.arange(12) / 4) and [line[31:41].strip() for line in lines[2:]] == means


def test_the_histogram_has_round_bars_over_all_scores() -> None:
    assert histogram(np.array([0.1, 0.3, 0.3, 0.35, 0.4]), 4) == [
        Bar(0.1, 0.2, 1),
        Bar(0.2, pytest.approx(0.3), 0),
        Bar(pytest.approx(0.3), 0.4, 4),
    ]
    assert histogram(np.array([3.0, 3.0, np.nan])) == [Bar(3.0, 3.0, 2)] and histogram(np.array([np.nan])) == []
    rng = np.random.default_rng(0)
    for scale in (1e-4, 0.7, 13, 1e6):
        scores = rng.normal(5, 1, 1000) * scale
        bars = histogram(scores)
        assert 6 <= len(bars) <= 16 and sum(bar.images for bar in bars) == 1000
        for bar in bars[:-1]:
            edge = bar.high * (1 - 1e-12)
            assert bar.images == ((scores >= bar.low) & (scores < edge)).sum()


def test_what_can_be_shown_of_a_bad_table_is_shown_and_all_problems(folder: Path) -> None:
    scores = [str(n / 4) for n in range(25)]
    scores[3] = "high"
    names = [f"{n}.{'png' if n else 'jpg'}" for n in range(25)]
    names[5], names[6], names[7] = "../5.png", "gone.png", "0.jpg"
    (folder / "8.png").write_text("no image")
    write(folder, image=names, score=scores, split=["train"] * 12 + ["val"] * 9 + ["holdout", *["test"] * 3])
    survey = scored_survey(data(folder), 0)
    text = render_survey(survey)
    for part in (
        "12 train, 9 val, 3 test, 1 in no split",
        r"1 image path\(s\).*image folder",
        r"1 image\(s\).*: 0\.jpg",
        r"1 score\(s\).*: 3\.png: 'high'",
        r"1 split\(s\).*: holdout",
        r"9 val image\(s\), at least 10",
        r"3 of 25 images.*data\.max_unreadable_fraction.* 0",
        r"gone\.png: No such file",
        r"8\.png: not an image file",
        r"3 unreadable images.* 9 train image\(s\)",
        r"max 6; 24 distinct",
    ):
        assert re.search(part, text), part
    assert "7 problem(s)" in text


def test_a_table_without_its_columns_still_shows_what_it_has(folder: Path) -> None:
    text = render_survey(scored_survey(data(folder, split_column="set"), 0))
    assert "no split column 'set'" in text and "25 in no split" in text and "1 problem(s)" in text
    assert "max 6; 25 distinct" in text and "25 readable" in text
    text = render_survey(scored_survey(data(folder, score_column="mos", image_column="file"), 0))
    assert "no image column 'file', no score column 'mos'" in text and "scores  none is usable" in text


def test_problems_are_just_those_of_a_run(folder: Path) -> None:
    """For many tables, the survey finds a problem exactly when discretising refuses the table."""
    (folder / "13.png").unlink()
    refused = []
    for fields in ({}, {"max_unreadable_fraction": 0.1}, {"split_column": None}, {"max_megapixels": 1e-4}):
        for columns in (
            {},
            {"score": 1.0},
            {"score": [*[2.0] * 12, *range(13)]},
            {"split": ["train"] * 11 + ["val"] * 11 + ["test"] * 3},
        ):
            write(folder, **columns)
            config = data(folder, **fields)
            try:
                discretize_scores(read_image_list(config, 0), config.max_unreadable_fraction, config.max_megapixels)
                refused.append(False)
            except DataError:
                refused.append(True)
            assert bool(scored_survey(config, 0).problems) == refused[-1], (fields, columns)
    assert {True, False} == set(refused)


def test_equal_images_in_two_splits_are_a_leak(folder: Path) -> None:
    for name in ("1.png", "2.png", "24.png"):
        (folder / name).write_bytes((folder / "12.png").read_bytes())
    (folder / "4.png").write_bytes((folder / "3.png").read_bytes())
    survey = scored_survey(data(folder), 0)
    first, second = duplicates(survey.rows, survey.facts)
    assert first.images == ("1.png", "2.png", "12.png", "24.png") and crosses_splits(first)
    assert second.images == ("3.png", "4.png") and not crosses_splits(second)
    text = render_survey(survey)
    (problem,) = survey.problems
    assert "2 of 13 validation and test images are copies" in problem and "12.png (val) = 1.png (train)" in problem
    assert run(folder / "t.csv")[0] == 1
    assert "LEAK: 1" in text
    assert (
        "1.png (train, score 0.25) = 2.png (train, score 0.5) = 12.png (val, score 3) = 24.png (test, score 6)" in text
    )


def test_copies_that_a_recipe_allows_are_no_problem_and_still_not_nothing(folder: Path) -> None:
    (folder / "12.png").write_bytes((folder / "1.png").read_bytes())
    allowed = ("--set", "data.max_near_duplicate_fraction=0.1")
    code, text = run(folder / "t.csv", *allowed)
    assert code == 0 and "LEAK: 1" in text and "No problem found" not in text
    assert text.rstrip().splitlines()[-1].startswith("Nothing that stops a run; look at the 1 ")
    (folder / "13.png").write_bytes((folder / "1.png").read_bytes())
    code, text = run(folder / "t.csv", *allowed)
    assert code == 1 and "10 % are allowed" in text


def test_tied_and_empty_bins_are_seen(folder: Path) -> None:
    write(folder, score=[1.0] * 6 + [2, 3, 4, 5, 6, 7] + [1.0] * 13)
    text = render_survey(scored_survey(data(folder), 0))
    assert "EMPTY: tied scores" in text and "tied scores" in text.replace("EMPTY: tied scores", "")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check-data", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_and_its_options(folder: Path) -> None:
    assert run(folder / "t.csv")[0] == 0
    code, text = run(folder / "t.csv", "--split-column", "set")
    assert code == 1 and "no split column 'set'" in text
    (folder / "gone.txt").write_text("0\n1.png\n")
    (folder / "9.png").unlink()
    listing = folder / "unusable.txt"
    code, text = run(
        folder / "t.csv", "--split-list", f"test={folder / 'gone.txt'}", "--list", listing, "--group-column", "image"
    )
    assert code == 1 and " 2 test" in text and "1 of 25 images are missing" in text
    assert listing.read_text() == "9.png\tNo such file or directory\n"
    code, text = run(folder / "t.csv", "--no-split-column", "--set", "data.test_fraction=0.9")
    assert code == 1 and "splits are drawn" in text and "train image(s), at least 10" in text
    code, text = run(folder / "t.csv", "--dataset", "avva")
    assert code == 1 and "data.dataset" in text
    assert run(folder / "none.csv")[0] == 1


def test_the_command_on_a_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("name: r\ndata: {table: t.csv}\nmodel: {id: bundled}\n")
    assert run(folder / "recipe.yaml")[0] == 0
    code, text = run(folder / "recipe.yaml", "--score-column", "mood")
    assert code == 1 and "25 score(s)" in text
