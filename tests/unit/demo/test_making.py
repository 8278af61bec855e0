"""The making of the base VLM: a killed one goes on with the same result, and its lessons are right about the image."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pipeline_lib.demo import lessons
from pipeline_lib.demo.assemble import IMAGE, build_model, train_tokenizer
from pipeline_lib.demo.corpus import description, full_statements, inject_errors, naive_opinion, short_statements
from pipeline_lib.demo.distortions import FAULTLESS, Severity
from pipeline_lib.demo.instruct import ROW_TOKENS, RowWriter, Stage, render, train_language
from pipeline_lib.demo.make_model import JUDGE, make_model
from pipeline_lib.demo.progress_file import ProgressFile
from pipeline_lib.demo.scenes import Subject
from pipeline_lib.demo.skills import is_true, statements_of
from pipeline_lib.demo.vision import Practice, draw_practice, train_vision, vision_config
from pipeline_lib.errors import ModelError

BLURRED = Severity(0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0)
HOUSE = Subject("house", "red", "left")
OF = lessons.Known(HOUSE, BLURRED, 2.0, 4.0, 6.0)


Train = Callable[[Path | None], dict[str, torch.Tensor]]


class Killed(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture(scope="module")
def practice() -> Practice:
    return draw_practice(5, 48)


def _killing(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    keep = ProgressFile.keep

    def keep_and_die(self, at, last, parts, notes) -> None:  # type: ignore[no-untyped-def]
        keep(self, at, last, parts, notes)
        if at == step:
            raise Killed

    monkeypatch.setattr(ProgressFile, "keep", keep_and_die)


def _assert_same_after_a_kill(train: Train, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole = train(None)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        _killing(patched, step)
        train(folder)
    resumed = train(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_killed_training_of_the_tower_goes_on_with_the_same_weights(
    practice: Practice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import SiglipVisionModel

    def train(folder: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        tower = SiglipVisionModel(vision_config())
        progress = ProgressFile(folder, "vision")
        train_vision(tower, practice, passes=2, seed=1, batch=16, progress=progress, say=lambda line: None)
        return tower.state_dict()

    _assert_same_after_a_kill(train, tmp_path, monkeypatch, 1)


def test_a_killed_training_of_the_language_goes_on_with_the_same_weights(
    practice: Practice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, rng = lessons.known(practice, np.random.default_rng(0)), np.random.default_rng(1)
    drawn = [render(lessons.draw_lesson(rows, index % 48, JUDGE, rng)) for index in range(300)]
    tokenizer = train_tokenizer([text for _, prompt, answer in drawn for text in (prompt.replace(IMAGE, ""), answer)])

    def train(folder: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = build_model(tokenizer)
        stages, progress = [Stage("one", 8, {"score": 1.0}), Stage("two", 8, JUDGE)], ProgressFile(folder, "language")
        train_language(model, tokenizer, practice, stages, seed=1, batch=4, progress=progress, say=lambda line: None)
        return model.state_dict()

    _assert_same_after_a_kill(train, tmp_path, monkeypatch, 3)


def test_a_row_hides_its_lessons_from_each_other_and_learns_answers_alone(practice: Practice) -> None:
    rows, rng = lessons.known(practice, np.random.default_rng(0)), np.random.default_rng(1)
    drawn = [render(lessons.draw_lesson(rows, index % 48, JUDGE, rng)) for index in range(300)]
    tokenizer = train_tokenizer([text for _, prompt, answer in drawn for text in (prompt.replace(IMAGE, ""), answer)])
    writer = RowWriter(tokenizer, digit_weight=3.0)
    for index in range(20):
        row = writer.row(rows, index, JUDGE, np.random.default_rng(index))
        assert len(row.ids) <= ROW_TOKENS and max(row.parts) >= 1
        for part in range(1, max(row.parts) + 1):
            at = [place for place, of in enumerate(row.parts) if of == part]
            assert [row.positions[place] for place in at] == list(
                range(len(writer.prefix), len(writer.prefix) + len(at))
            )
            text = tokenizer.decode([row.ids[place] for place in at])
            learnt = tokenizer.decode([row.ids[place] for place in at if row.labels[place] >= 0])
            prompt, answer = text.split(" ASSISTANT:")
            assert learnt and answer.endswith(learnt[-12:]) and prompt not in learnt


def test_a_given_score_is_hidden_from_the_loss_and_an_opinion_is_not(practice: Practice) -> None:
    given = lessons.score(OF, np.random.default_rng(0), given=True)
    assert given.masked and given.answer.startswith(f"#Score: {given.masked}\n")
    assert lessons.score(OF, np.random.default_rng(0), given=False).masked == ""
    counts = Counter(lessons.score(OF, np.random.default_rng(k), given=True).masked for k in range(300))
    assert set(counts) == set("0123456789")


def test_the_naive_opinion_knows_blur_and_no_other_fault() -> None:
    rng = np.random.default_rng(0)
    severity = rng.uniform(0, 1, (4000, 7)).astype(np.float32)
    opinion = naive_opinion([HOUSE] * 4000, severity, rng)
    known = [float(spearmanr(opinion, severity[:, fault])[0]) for fault in range(7)]
    assert known[4] < -0.4 and max(abs(value) for index, value in enumerate(known) if index != 4) < 0.06


@pytest.mark.parametrize("subject", [HOUSE, None])
def test_descriptions_are_true_and_injected_errors_are_not(subject: Subject | None) -> None:
    of = OF._replace(subject=subject)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for write in (short_statements, full_statements):
            statements = write(subject, BLURRED, rng)
            wrong = inject_errors(statements, subject, BLURRED, rng, errors=1)
            said, said_wrong = statements_of(description(statements)), statements_of(description(wrong))
            assert len(said) == len(statements) and all(is_true(*each, of) for each in said)
            changed = [b for a, b in zip(said, said_wrong, strict=True) if a != b]
            assert len(changed) == 1 and not is_true(*changed[0], of)


def test_a_verdict_follows_from_its_reason_and_is_right_unless_careless() -> None:
    right = 0
    for seed in range(60):
        lesson = lessons.judge(OF, np.random.default_rng(seed), careless=0.0)
        match = re.fullmatch(r"Reason: A says (.+), B says (.+), the image shows (.+)\. Verdict: ([AB])", lesson.answer)
        assert match and match[3] == match[1 if match[4] == "A" else 2] and match[1] != match[2]
        right += match[4] == "A"
    assert 15 < right < 45  # neither place is right more often


def test_better_images_win_most_comparisons() -> None:
    good, bad = OF._replace(points=8.0), OF._replace(points=5.0)
    first = [lessons.compare(good, bad, 1, np.random.default_rng(k)).answer == "\\boxed{0}" for k in range(200)]
    assert 0.95 < np.mean(first) <= 1.0
    even = [lessons.compare(good, good, 1, np.random.default_rng(k)).answer == "\\boxed{0}" for k in range(400)]
    assert 0.4 < np.mean(even) < 0.6


def test_progress_of_other_settings_and_a_folder_that_is_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text('{"seed": 1}')
    asked = {"seed": 0, "images": 8, "passes": 1, "rows": (1, 1, 1), "test": 1}
    with pytest.raises(ModelError, match="progress"):
        make_model(tmp_path / "out", tmp_path / "work", **asked)  # type: ignore[arg-type]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ModelError, match="no model"):
        make_model(tmp_path / "mine", tmp_path / "work", **asked)  # type: ignore[arg-type]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_faultless_image_has_no_fault() -> None:
    asked = [lessons.question(OF._replace(severity=FAULTLESS), np.random.default_rng(k)) for k in range(200)]
    assert {right for text, right, _ in asked if text.startswith("Which flaw")} == {"none"}
    assert {right for text, right, _ in asked if text.startswith("How strong")} == {"none"}
