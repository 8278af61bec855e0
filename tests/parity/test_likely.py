"""The probabilities of answers are those of the plain model, and an expectation is that of every answer there is."""

import itertools
import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.evo_quality.ratings import expectation
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, picture
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate import Question, Sampled, generate_answers
from pipeline_lib.vlm.generate.inputs import generation_config, model_inputs, read_continuation
from pipeline_lib.vlm.generate.likely import likely_answers
from pipeline_lib.vlm.load import Vlm, load_vlm

DEPTH, LETTERS = 3, 6
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def vlm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    """A tiny model whose head knows few tokens, so that all answers can be listed."""
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    found = load_vlm(model_ref(tiny_model), store, torch.device("cpu"))
    kept = sorted({*found.processor.tokenizer("1 2 3. boxed", add_special_tokens=False)["input_ids"]})[: LETTERS - 1]
    kept.append(found.processor.tokenizer.eos_token_id)
    head = found.model.get_output_embeddings()
    bias = torch.full((head.weight.shape[0],), -1e4)
    bias[kept] = 0
    head.bias = torch.nn.Parameter(bias)
    found.model.kept = kept
    return found


def by_brute_force(vlm: Vlm, question: Question) -> dict[str, float]:
    """Every answer of up to DEPTH tokens and its probability, a plain pass for each."""
    config = generation_config(vlm, question.chat, 1)
    kept, ends, found = vlm.model.kept, config.eos_token_id, defaultdict[str, float](float)
    inputs = model_inputs(vlm, [question.images], [question.chat.prompt])
    prompt = inputs["input_ids"][0].tolist()
    for length in range(1, DEPTH + 1):
        for path in itertools.product(kept, repeat=length):
            if any(token in ends for token in path[:-1]) or (length < DEPTH and path[-1] not in ends):
                continue
            whole = dict(inputs)
            whole["input_ids"] = torch.tensor([prompt + list(path)])
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            with torch.no_grad():
                logits = vlm.model(**whole).logits[0, -length - 1 : -1].double() / TEMPERATURE
            logits[:, config.suppress_tokens or []] = -torch.inf
            p = logits.log_softmax(-1)[range(length), list(path)].sum().exp()
            found[read_continuation(vlm, config, prompt, list(path)).text] += float(p)
    return found


@pytest.fixture(scope="module")
def question(vlm: Vlm) -> Question:
    return Question(render_chat(vlm.processor, PROMPT), [picture("one", 64)])


@pytest.fixture(scope="module")
def every(vlm: Vlm, question: Question) -> dict[str, float]:
    return by_brute_force(vlm, question)


def test_all_answers_have_the_probabilities_of_the_plain_model(
    vlm: Vlm, question: Question, every: dict[str, float]
) -> None:
    assert len(every) > 50 and math.fsum(every.values()) == pytest.approx(1, abs=1e-5)
    (found,) = likely_answers(vlm, [question], decoding(), least=1e-12)
    summed: dict[str, float] = defaultdict(float)
    for text, p in found.texts:
        summed[text] += p
    assert summed.keys() == every.keys() and found.rest < 1e-5
    for text, p in every.items():
        assert summed[text] == pytest.approx(p, rel=1e-3, abs=1e-7), text


def test_improbable_answers_are_in_the_rest(vlm: Vlm, question: Question, every: dict[str, float]) -> None:
    least = sorted(every.values())[len(every) // 2]
    (found,) = likely_answers(vlm, [question], decoding(), least=least)
    assert 0 < len(found.texts) < len(every) and all(p >= least for _, p in found.texts)
    assert found.rest == pytest.approx(1 - math.fsum(p for _, p in found.texts)) and found.rest > 0


def test_sampled_answers_come_as_often_as_they_are_probable(
    vlm: Vlm, question: Question, every: dict[str, float]
) -> None:
    asked = question._replace(beginnings=[""] * 400, key="a")
    (drawn,) = generate_answers(vlm, [asked], decoding()).answers
    texts = [one.text for one in drawn]
    for text, p in sorted(every.items(), key=lambda item: -item[1])[:5]:
        assert abs(texts.count(text) / 400 - p) < 4 * math.sqrt(p * (1 - p) / 400) + 1e-3


def test_a_cut_distribution_is_refused(vlm: Vlm, question: Question) -> None:
    with pytest.raises(ModelError, match="top_p"):
        likely_answers(vlm, [question], decoding().model_copy(update={"top_p": 0.9}), least=0.1)


def decoding() -> Sampled:
    return Sampled(max_new_tokens=DEPTH, temperature=TEMPERATURE, seed=0)


RECORD = {"image": "a.jpg", "image_sha256": "0" * 64, "width_px": 8, "height_px": 8}
ANSWERS = [("\\boxed{4.2}", 0.5), ("\\boxed{3.75}", 0.25), ("\\boxed{7}", 0.1), (" \\boxed{2} ", 0.05), ("good", 0.05)]


def test_the_expectation_is_over_what_can_be_read() -> None:
    row = expectation(RECORD, ANSWERS, 0.9)
    assert row["covered"] == pytest.approx(0.95) and row["readable"] == pytest.approx(0.8 / 0.95)
    mean = (4.2 * 0.5 + 3.75 * 0.25 + 2 * 0.05) / 0.8
    assert row["mean"] == pytest.approx(mean)
    assert row["spread"] == pytest.approx(
        math.sqrt((0.5 * (4.2 - mean) ** 2 + 0.25 * (3.75 - mean) ** 2 + 0.05 * (2 - mean) ** 2) / 0.8)
    )
    assert row["answers"] == row["ratings"] == []


def test_too_little_probability_gives_no_rating_and_says_so() -> None:
    row = expectation(RECORD, ANSWERS, 0.96)
    assert row["mean"] is None and row["spread"] is None and row["covered"] == pytest.approx(0.95)
    assert expectation(RECORD, [("good", 1.0)], 0.9)["mean"] is None
    assert expectation(RECORD, [], 0.9)["readable"] == 0.0
