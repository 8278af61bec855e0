"""The data of the methods without scores: the same bytes each time, and what the tables say is true of the images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline_lib.demo.corpus import description, full_statements, inject_errors, invention, known_statements
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.demo.distortions import ATTRIBUTES, Severity
from pipeline_lib.demo.method_data import write_answer_pairs, write_questions, write_unlabelled
from pipeline_lib.demo.scenes import COLOURS, KINDS, PLACES, Subject
from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic.statements import find_statements


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float32)


@pytest.mark.parametrize("write", [write_unlabelled, write_questions, write_answer_pairs])
def test_same_arguments_give_the_same_bytes_and_other_ones_are_refused(write: Any, tmp_path: Path) -> None:
    sizes = {write_unlabelled: (4, 2), write_questions: (3, 2, 2), write_answer_pairs: (4,)}[write]
    first, second = write(tmp_path / "a", 7, *sizes), write(tmp_path / "b", 7, *sizes)
    names = sorted(str(path.relative_to(first.parent)) for path in first.parent.rglob("*") if path.is_file())
    assert all((first.parent / name).read_bytes() == (second.parent / name).read_bytes() for name in names)
    assert write(tmp_path / "a", 7, *sizes) == first
    with pytest.raises(DataError, match="other than"):
        write(tmp_path / "a", 8, *sizes)


def test_variants_show_their_source_with_one_fault_and_no_score_is_there(tmp_path: Path) -> None:
    table = pd.read_csv(write_unlabelled(tmp_path / "data", 3, images=6, variants=4), dtype={"source": str})
    assert "score" not in table.columns and set(table.split) == {"train"}
    variants = table[table.fault.notna()]
    assert variants.groupby("source").size().tolist() == [4] * 6 and set(variants.fault) <= set(ATTRIBUTES)
    assert table.groupby("source")["group"].nunique().max() == 1
    blurred = variants[variants.fault == "blur"]
    assert len(blurred) > 0
    for image, source in zip(blurred.image, blurred.source, strict=True):
        others = variants[(variants.source == source) & ~variants.fault.isin(["blur"])].image
        sharpness = {
            name: np.abs(np.diff(_pixels(tmp_path / "data" / name), axis=0)).mean() for name in [image, *others]
        }
        assert len(sharpness) == 1 or sharpness[image] < max(sharpness.values())


def test_a_questions_answer_is_one_of_its_choices_and_what_is_shown_is_the_answer(tmp_path: Path) -> None:
    lines = _lines(write_questions(tmp_path / "data", 3, train=30, val=5, test=5))
    assert {split: sum(line["split"] == split for line in lines) for split in ("train", "val", "test")} == {
        "train": 60, "val": 10, "test": 10,
    }  # fmt: skip
    assert all(line["answer"] in line["choices"] for line in lines)
    asked = [line for line in lines if line["question"] == "What is the main subject?"]
    assert asked and all(line["answer"] == (line["shows"] or ["photograph"])[0] for line in asked)
    groups = {split: {line["group"] for line in lines if line["split"] == split} for split in ("train", "val", "test")}
    assert not groups["train"] & groups["test"]


def test_pairs_are_of_the_test_split_and_neither_place_is_better_more_often(tmp_path: Path) -> None:
    lines = _lines(write_answer_pairs(tmp_path / "data", 3, count=60))
    assert {line["split"] for line in lines} == {"test"}
    assert all(line["answer_a"] != line["answer_b"] for line in lines)
    assert 15 < sum(line["better"] == "A" for line in lines) < 45
    assert {line["dimension"] for line in lines} == {"description", "short answer"}


def test_no_image_of_the_methods_data_is_one_of_the_data_set(tmp_path: Path) -> None:
    scores = write_dataset(tmp_path / "scores", 3, train=8, val=2, test=2)
    unlabelled = write_unlabelled(tmp_path / "unlabelled", 3, images=8, variants=1)
    seen = {path.read_bytes() for path in (scores.parent / "images").iterdir()}
    assert not seen & {path.read_bytes() for path in (unlabelled.parent / "images").iterdir()}


def test_what_is_right_and_wrong_to_say_agrees_with_the_pixels_truth(tmp_path: Path) -> None:
    """Full descriptions that are taught are right; those with injected errors are wrong where they were changed."""
    rng = np.random.default_rng(0)
    taught = wrong = 0
    for _ in range(300):
        subject = (
            None if rng.random() < 0.3 else Subject(*(str(rng.choice(words)) for words in (KINDS, COLOURS, PLACES)))
        )
        severity = Severity(*(rng.uniform(-1, 1) if name == "exposure" else rng.random() for name in ATTRIBUTES))
        topics = [topic._asdict() for topic in known_statements(subject, severity)]
        assert [topic["topic"] for topic in topics] == ["subject", "colour", "place", *ATTRIBUTES, "thing"]
        assert all(not set(topic["right"]) & set(topic["wrong"]) for topic in topics)
        statements = full_statements(subject, severity, rng)
        found = find_statements(description(statements), topics)
        assert len(found) >= len(statements) and all(stated.right for stated in found)
        taught += len(found)
        changed = find_statements(description(inject_errors(statements, subject, severity, rng, 1)), topics)
        wrong += any(not stated.right for stated in changed)
        invented = find_statements(invention(rng), topics)
        assert [stated.right for stated in invented] == [False]
    assert taught > 2000 and wrong == 300


def test_only_the_images_that_are_measured_on_have_statements(tmp_path: Path) -> None:
    lines = _lines(write_questions(tmp_path / "data", 3, train=2, val=2, test=2))
    assert all(("statements" in line) == (line["split"] != "train") for line in lines)
