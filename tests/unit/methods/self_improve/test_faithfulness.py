"""The probe on a tiny model: one that does not see the image is found out, one that does is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.faithfulness import (
    Replies,
    draw_probes,
    explain_other_images,
    faithfulness_metrics,
    faithfulness_table,
    rescore,
    text_change,
)
from pipeline_lib.methods.self_improve.named_faults import fault_metrics
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.round_trip import RoundTripJudge, fit_judge, load_judge
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.tables import FAITHFULNESS, OTHER_EXPLANATIONS, PREDICTIONS
from pipeline_lib.methods.self_improve.text_alone import score_texts
from pipeline_lib.progress import Progress
from pipeline_lib.tables.metrics import METRICS
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import PROMPT, model_ref, open_picture, picture
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.generate.inputs import answer_tokens
from pipeline_lib.vlm.load import Vlm, load_base
from tests.asking import generate_greedy

CONFIG = Evaluation(bootstrap_samples=100)
WORDS = ["awful", "bad", "poor", "weak", "plain", "fair", "decent", "good", "great", "superb"]


def predictions(explanations: list[str | None], scores: list[int], **columns: list[object]) -> pa.Table:
    """Test answers in `PREDICTIONS`, behind one of validation; None: it did not parse."""
    explanations, scores = [explanations[0], *explanations], [scores[0], *scores]
    count = len(scores)
    said = list(zip(explanations, scores, strict=True))
    rows = {
        "image": [f"{n}.png" for n in range(count)],
        "image_sha256": [f"{n:064d}" for n in range(count)],
        "split": ["val"] + ["test"] * (count - 1),
        "score": [5.0] * count,
        "bin": [5] * count,
        "score_distribution": [[0.1] * 10] * count,
        "digit_mass": [1.0] * count,
        "predicted_unfitted": [5.0] * count,
        "predicted_fitted": [5.0] * count,
        "predicted_monotone": [5.0] * count,
        "interval_low": [4.0] * count,
        "interval_high": [6.0] * count,
        "group": [f"{n}" for n in range(count)],
        "text": ["?" if text is None else f" {answer_prefix(score)} {text}" for text, score in said],
        "text_tokens": [9] * count,
        "parsed": [text is not None for text in explanations],
        "stated_score": [None if text is None else score for text, score in said],
        "explanation": explanations,
    }
    return conform(pa.table(rows | columns), PREDICTIONS.schema)


def plain(count: int) -> pa.Table:
    return predictions([f"A {WORDS[n % 10]} picture." for n in range(count)], [n % 10 for n in range(count)])


@pytest.fixture(scope="module")
def judge() -> RoundTripJudge:
    """Fitted on texts whose one telling word is decided by the score."""
    texts = [f"#Score: {n}\n\n#Explain: A {WORDS[n]} picture." for n in range(10)]
    rows = {
        "image": [f"train-{at}.png" for at in range(200)],
        "true_score": [at % 10 for at in range(200)],
        "wrong_score": [(at + 5) % 10 for at in range(200)],
        "chosen": [texts[at % 10] for at in range(200)],
        "rejected": [texts[(at + 5) % 10] for at in range(200)],
    }
    return load_judge(fit_judge(pa.table(rows), 0.2, 0).terms)


@pytest.fixture(scope="module")
def vlm(tiny_model: Path) -> Vlm:
    return load_base(model_ref(tiny_model), torch.device("cpu"))


@pytest.fixture(scope="module")
def chat(vlm: Vlm) -> Chat:
    return render_chat(vlm.processor, PROMPT)


def answered(vlm: Vlm, chat: Chat, count: int, max_new_tokens: int) -> pa.Table:
    """What the model says of its images when the score is injected and all of the answer may take so many tokens."""
    scores, pictures = [n * 3 % 10 for n in range(count)], [picture(f"{n + 1}.png") for n in range(count)]
    beginnings = [" " + answer_prefix(score) for score in scores]
    room = max_new_tokens - answer_tokens(vlm, beginnings[0])
    said = [result.text for result in generate_greedy(vlm, chat, pictures, beginnings, room)]
    texts = [beginnings[0] + said[0], *(begun + text for begun, text in zip(beginnings, said, strict=True))]
    return predictions([text.strip() for text in said], scores, text=texts)


def probe(vlm: Vlm, chat: Chat, probes: pa.Table, max_new_tokens: int, batch_size: int = 4) -> pa.Table:
    counter = Progress("test", probes.num_rows)
    return explain_other_images(
        vlm, chat, probes, open_picture, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=counter
    )


def table_of(judge: RoundTripJudge, probes: pa.Table, others: pa.Table) -> pa.Table:
    """With texts for another score that are the model's own, and scores of the texts alone that say nothing."""
    alone = pa.table({"image": probes["image"], "text_distribution": [[0.1] * 10] * probes.num_rows})
    return faithfulness_table(judge, probes, Replies(others, unchanged(probes), alone))


def figures(table: pa.Table, answers: pa.Table) -> dict[str, float]:
    metrics = conform(faithfulness_metrics(table, answers, CONFIG, 0), METRICS.schema).to_pylist()
    assert {row["split"] for row in metrics} == {"test"}
    return {row["metric"]: row["value"] for row in metrics}


def test_every_image_has_a_partner_of_its_own_and_the_same_for_every_model() -> None:
    full = draw_probes(plain(40), 25, seed=3)
    assert full.num_rows == 25 and set(full["split"].to_pylist()) == {"test"}
    images, others = full["image"].to_pylist(), full["other_image"].to_pylist()
    assert sorted(images) == sorted(others) and all(a != b for a, b in zip(images, others, strict=True))
    assert images != draw_probes(plain(40), 25, seed=4)["image"].to_pylist()
    half: list[str | None] = [None if n % 2 else "Fine." for n in range(40)]
    part = draw_probes(predictions(half, [5] * 40), 25, seed=3).to_pylist()
    partners = dict(zip(images, others, strict=True))
    assert 0 < len(part) < 25 and all(partners[row["image"]] == row["other_image"] for row in part)
    backwards = draw_probes(plain(40).take(list(range(40, -1, -1))), 25, seed=3).to_pylist()
    assert {row["image"]: row["other_image"] for row in backwards} == partners


def test_a_copy_of_an_image_is_never_its_partner() -> None:
    copies = plain(9).set_column(1, "image_sha256", pa.array(["b"] + ["a"] * 7 + ["b"] * 2))
    for row in draw_probes(copies, 200, seed=0).to_pylist():
        assert row["image_sha256"] != row["other_image_sha256"]
    with pytest.raises(DataError, match="one and the same content"):
        draw_probes(plain(9).set_column(1, "image_sha256", pa.array(["a"] * 10)), 200, seed=0)


def test_text_change_is_one_less_the_overlap_of_counted_words() -> None:
    assert text_change("A dark, dull sky.", "a dull dark sky") == 0.0
    assert text_change("a b", "c d") == 1.0
    assert text_change("a a a b", "a b b b") == pytest.approx(0.5)
    assert text_change("bright", "") == 1.0


def test_the_image_itself_gives_the_stored_explanation_again(vlm: Vlm, chat: Chat) -> None:
    """Also where the answer ended at the length limit: the injected beginning takes its share of it."""
    answers = answered(vlm, chat, 6, max_new_tokens=40)
    probes = draw_probes(answers, 6, 0)
    itself = probes.drop_columns(["other_image", "other_image_sha256"])
    itself = itself.append_column("other_image", probes["image"])
    itself = itself.append_column("other_image_sha256", probes["image_sha256"])
    assert probe(vlm, chat, itself, 40)["other_explanation"].to_pylist() == probes["explanation"].to_pylist()


def test_a_model_that_ignores_the_image_is_found_out(vlm: Vlm, chat: Chat, judge: RoundTripJudge) -> None:
    seeing = answered(vlm, chat, 8, max_new_tokens=40)
    probes = draw_probes(seeing, 8, 0)
    found = table_of(judge, probes, probe(vlm, chat, probes, 40))
    measured = figures(conform(found, FAITHFULNESS.schema), seeing)
    assert measured["text_change"] > 0.3 and measured["same_text_rate"] == 0
    projector = vlm.model.model.multi_modal_projector
    kept = {name: weight.clone() for name, weight in projector.state_dict().items()}
    try:
        with torch.no_grad():
            for weight in projector.parameters():
                weight.zero_()
        blind = answered(vlm, chat, 8, max_new_tokens=40)
        probes = draw_probes(blind, 8, 0)
        found = table_of(judge, probes, probe(vlm, chat, probes, 40))
    finally:
        projector.load_state_dict(kept)
    measured = figures(found, blind)
    assert measured["text_change"] == 0 and measured["same_text_rate"] == 1
    assert measured["text_change_baseline"] > 0  # its scores differ, and so do its texts


def test_batches_and_shards_change_nothing(vlm: Vlm, chat: Chat) -> None:
    probes = draw_probes(answered(vlm, chat, 7, max_new_tokens=40), 7, 0)
    whole = {row["image"]: row for row in probe(vlm, chat, probes, 40, batch_size=7).to_pylist()}
    parts = [probe(vlm, chat, probes.slice(start, 3), 40, batch_size=2) for start in (0, 3, 6)]
    assert {row["image"]: row for row in pa.concat_tables(parts).to_pylist()} == whole
    assert parts[0].schema == OTHER_EXPLANATIONS.schema


def test_scores_are_read_from_the_text_alone(judge: RoundTripJudge) -> None:
    """Texts that tell their score, texts that tell the opposite one, and the number itself is of no help."""
    scores = [n % 10 for n in range(30)]
    for sign, told in ((1, scores), (-1, [9 - score for score in scores])):
        answers = predictions([f"A {WORDS[t]} picture, score {s}." for t, s in zip(told, scores, strict=True)], scores)
        probes = draw_probes(answers, 30, 0)
        measured = figures(table_of(judge, probes, unchanged(probes)), answers)
        assert measured["recovered_spearman"] == pytest.approx(sign, abs=0.03)
        assert (measured["recovered_mae"] < 1) == (sign == 1)
        assert measured["mentions_own_score"] == 1 and measured["mentions_other_score"] == 0


def unchanged(probes: pa.Table) -> pa.Table:
    return pa.table({"image": probes["image"], "other_explanation": probes["explanation"]})


def test_the_baseline_is_the_change_between_own_answers(judge: RoundTripJudge) -> None:
    """Every text differs from every other in one word of three; where the partner did not parse there is none."""
    texts: list[str | None] = [None if n == 4 else f"A {WORDS[n]} picture." for n in range(10)]
    answers = predictions(texts, list(range(10)))
    probes = draw_probes(answers, 10, 0)
    metrics = faithfulness_metrics(table_of(judge, probes, unchanged(probes)), answers, CONFIG, 0)
    rows = {row["metric"]: row for row in metrics.to_pylist()}
    assert rows["text_change_baseline"]["value"] == pytest.approx(1 / 3)
    assert rows["text_change_baseline"]["rows"] == 8 and rows["text_change"]["rows"] == 9
    assert rows["text_change"]["value"] == 0 and rows["same_text_rate"]["value"] == 1


def test_a_model_without_explanations_has_no_figures(judge: RoundTripJudge) -> None:
    answers = predictions([None] * 5, [1] * 5)
    probes = draw_probes(answers, 5, 0)
    table = conform(table_of(judge, probes, OTHER_EXPLANATIONS.schema.empty_table()), FAITHFULNESS.schema)
    assert table.num_rows == 0 and np.isnan(list(figures(table, answers).values())).all()


def test_the_stated_score_and_another_are_told_apart(judge: RoundTripJudge) -> None:
    answers = predictions(["A score of 2.", "A score of 2, no 7 rating.", "Two boats.", "It scores a 7."], [2] * 4)
    probes = draw_probes(answers, 4, 0)
    rows = {row["explanation"]: row for row in table_of(judge, probes, unchanged(probes)).to_pylist()}
    assert [row["mentions_own_score"] for _, row in sorted(rows.items())] == [True, True, False, False]
    assert [row["mentions_other_score"] for _, row in sorted(rows.items())] == [True, False, True, False]


def test_another_score_is_explained_for_the_same_image(vlm: Vlm, chat: Chat) -> None:
    answers = answered(vlm, chat, 6, max_new_tokens=40)
    probes = draw_probes(answers, 6, 0)
    asked = rescore(probes)
    assert asked["other_image"].to_pylist() == probes["image"].to_pylist()
    for row, before in zip(asked.to_pylist(), probes.to_pylist(), strict=True):
        score = (before["stated_score"] + 5) % 10
        assert row["text"].startswith(f" {answer_prefix(score)}")
        picture_of = open_picture(row["other_image"], row["other_image_sha256"])
        room = 40 - answer_tokens(vlm, f" {answer_prefix(score)}")
        expected = generate_greedy(vlm, chat, [picture_of], [f" {answer_prefix(score)}"], room)[0].text.strip()
        said = {r["image"]: r["other_explanation"] for r in probe(vlm, chat, asked, 40).to_pylist()}
        assert said[row["image"]] == expected


def test_texts_alone_are_scored_without_an_image(vlm: Vlm, chat: Chat) -> None:
    """The distribution is that of a plain pass over the text; one of other words is another."""
    answers = predictions([f"A {WORDS[n]} picture." for n in range(5)], list(range(5)))
    probes = draw_probes(answers, 5, 0)
    scores = resolve_score_tokens(vlm.processor.tokenizer, chat)
    found = score_texts(vlm, PROMPT, scores, probes, batch_size=2, progress=Progress("t", 5)).to_pylist()
    for row, said in zip(found, probes["explanation"].to_pylist(), strict=True):
        asked = render_chat(vlm.processor, f"{said}\n\n{PROMPT}", images=0)
        ids = vlm.processor.tokenizer(asked.prompt + scores.context, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            logits = vlm.model(**ids).logits[0, -1, list(scores.ids)].double()
        np.testing.assert_allclose(row["text_distribution"], logits.softmax(0).numpy(), atol=1e-5)
    assert found[0]["text_distribution"] != found[1]["text_distribution"]


def test_the_gap_is_that_of_the_rank_correlations(judge: RoundTripJudge) -> None:
    scores = [n % 10 for n in range(30)]
    eye = np.eye(10)
    columns = {"score": [float(s) for s in (0, *scores)], "score_distribution": [eye[s].tolist() for s in (0, *scores)]}
    answers = predictions([f"A {WORDS[s]} picture." for s in scores], scores, **columns)
    probes = draw_probes(answers, 30, 0)
    told = pa.table(
        {
            "image": probes["image"],
            "text_distribution": [eye[9 - s].tolist() for s in probes["stated_score"].to_pylist()],
        }
    )
    measured = figures(faithfulness_table(judge, probes, Replies(unchanged(probes), unchanged(probes), told)), answers)
    assert measured["srcc_from_image"] == pytest.approx(1) and measured["srcc_from_text"] == pytest.approx(-1)
    assert measured["image_text_gap"] == pytest.approx(2) and measured["score_change"] == 0


def test_faults_that_are_named() -> None:
    """A third of the images is blurred, the others noisy; half of the texts name the right fault."""
    faults = {"blur": ("soft",), "noise": ("grain",)}
    severities = {"blur": [0.9, 0.1, 0.1] * 10, "noise": [0.0, 0.8, 0.7] * 10}
    right = ["soft" if n % 3 == 0 else "grain" for n in range(30)]
    wrong = ["grain" if n % 3 == 0 else "soft" for n in range(30)]
    texts = [f"A {(right if n < 15 else wrong)[n]} picture." for n in range(30)]
    answers = predictions(texts, [5] * 30)
    images = pa.table({"image": [f"{n + 1}.png" for n in range(30)], "split": ["test"] * 30, **severities})
    metrics = fault_metrics(answers, images, faults, CONFIG, 0).to_pylist()
    found = {row["metric"]: row["value"] for row in metrics}
    assert found["names_fault"] == 0.5
    said_soft = sum("soft" in text for text in texts) / 30
    assert found["names_fault_chance"] == pytest.approx(said_soft / 3 + (1 - said_soft) * 2 / 3)
    coded = pa.table(
        {"image": images["image"], "split": images["split"], "distortion": [1 if n % 3 == 0 else 2 for n in range(30)]}
    )
    by_code = {"distortion=1": ("soft",), "distortion=2": ("grain",)}
    assert fault_metrics(answers, coded, by_code, CONFIG, 0).to_pylist() == metrics
    clear = {"blur>0.2": ("soft",), "noise>0.75": ("grain",)}  # every third image has no fault any more
    rates = {row["metric"]: row["rows"] for row in fault_metrics(answers, images, clear, CONFIG, 0).to_pylist()}
    assert rates["names_fault"] == 20
    with pytest.raises(DataError, match="no column blur"):
        fault_metrics(answers, coded, faults, CONFIG, 0)
