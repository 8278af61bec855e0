"""What GRPO samples: the distribution of the library's `generate`, the same texts in any batch, others in each step."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from transformers import GenerationConfig

from pipeline_lib.config.base import Grpo
from pipeline_lib.train import rollout
from pipeline_lib.train.grpo import unit_rows
from pipeline_lib.train.prefix_rows import collate_prompts
from pipeline_lib.train.rewards import UnitRewards
from pipeline_lib.train.rollout import SampledUnit, sample_units
from pipeline_lib.vlm.generate.features import image_features, join_features
from pipeline_lib.vlm.generate.inputs import end_ids, model_inputs
from pipeline_lib.vlm.load import Vlm
from tests.parity.grpo import shown, units
from tests.parity.pairs import adapted, three_families

SETTINGS = Grpo(answers=5, max_new_tokens=6, temperature=0.9, top_p=0.95)
CPU = torch.device("cpu")


def lengths(unit: dict[str, Any], answers: list[list[str]]) -> UnitRewards:
    values = [[float(len(text)) for text in of_image] for of_image in answers]
    return UnitRewards({"length": values}, [[True] * len(of_image) for of_image in answers])


class Sampler:
    """A family's model with an adapter, as it is while a step begins."""

    def __init__(self, name: str) -> None:
        tiny = adapted(name)
        self.chat = tiny.chat
        self.vlm = Vlm(tiny.model.get_base_model(), tiny.processor, CPU)
        self.rows = list(unit_rows(units(tiny.chat.prompt), lambda image, sha256: shown(image)))

    def sample(self, *rows: int, step: int = 0, seed: int = 0, settings: Grpo = SETTINGS) -> list[SampledUnit]:
        chosen = [self.rows[at] for at in rows or range(len(self.rows))]
        given: dict[str, Any] = {"seed": seed, "step": step, "max_length": 400}
        return sample_units(self.vlm, self.chat, chosen, settings, lengths, **given)


def ids(sampled: list[SampledUnit]) -> list[list[tuple[int, ...]]]:
    return [[one.ids for one in of_image] for unit in sampled for of_image in unit.answers]


@pytest.mark.parametrize("name", three_families())
def test_the_texts_are_the_same_in_any_batch(name: str) -> None:
    sampler = Sampler(name)
    together = ids(sampler.sample())
    assert together == list(chain.from_iterable(ids(sampler.sample(at)) for at in range(len(sampler.rows))))
    assert together == ids(sampler.sample(0, 1)) + ids(sampler.sample(2))
    assert ids(sampler.sample(2, 0)) == together[4:] + together[:2]


@pytest.mark.parametrize("name", ["llava-interleave"])
def test_each_answer_image_step_and_seed_has_noise_of_its_own(name: str) -> None:
    sampler = Sampler(name)
    sampler.rows[2] = sampler.rows[1] | {"at": 2}  # one unit twice in a step
    first = ids(sampler.sample())
    others = [ids(sampler.sample(step=1)), ids(sampler.sample(seed=1))]
    answers = [one for sampled in (first, *others) for of_image in sampled for one in of_image]
    assert len(set(answers)) > 0.95 * len(answers)


@pytest.fixture(scope="module")
def small() -> Sampler:
    """Of 400 tokens only eight can be sampled, so that counts of pairs of tokens say something."""
    sampler = Sampler("llava-interleave")
    head = sampler.vlm.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.full((head.weight.shape[0],), -1e4))
    head.bias.data[10:18] = 0.0
    head.weight.data *= 0.5
    return sampler


def drawn_by_generate(sampler: Sampler, count: int, temperature: float, seed: int) -> np.ndarray:
    """(count, 2) tokens behind the first image, by the library's own sampling."""
    vlm, row = sampler.vlm, sampler.rows[0]
    inputs = model_inputs(vlm, [[row["images"][0]]], [row["prompt"]])
    ends = end_ids(vlm.model.generation_config, vlm.processor.tokenizer, sampler.chat)
    config = GenerationConfig(
        do_sample=True, temperature=temperature, top_p=1.0, top_k=0, num_return_sequences=count, max_new_tokens=2,
        min_new_tokens=2, pad_token_id=0, eos_token_id=ends,
    )  # fmt: skip
    torch.manual_seed(seed)
    found = vlm.model.generate(**inputs, generation_config=config)
    return np.asarray(found[:, -2:])


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The p-value that both are draws from one distribution of pairs of tokens."""
    pairs = [np.bincount((tokens - 10) @ [8, 1], minlength=64) for tokens in (ours, theirs)]
    often = np.add(*pairs) >= 10
    table = np.array([[*counts[often], counts[~often].sum()] for counts in pairs])
    return float(chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def test_the_distribution_is_that_of_generate(small: Sampler) -> None:
    count = 3000
    settings = Grpo(answers=count, max_new_tokens=2, temperature=1.0)
    (unit,) = small.sample(0, settings=settings)
    ours = np.array([one.ids for one in unit.answers[0]])
    assert ours.shape == (count, 2) and len(np.unique(ours)) == 8
    assert agreement(ours, drawn_by_generate(small, count, 1.0, 0)) > 0.01
    assert agreement(ours, drawn_by_generate(small, count, 1.6, 0)) < 1e-6  # another temperature is seen
    assert agreement(ours, np.array([one.ids for one in unit.answers[1]])) < 1e-6  # and another image


@pytest.mark.parametrize("name", [*three_families(), "qwen3-vl"])
def test_the_features_of_an_image_are_kept(name: str) -> None:
    """Encoded with others of its shape, and split and joined again; Qwen3-VL has some for its first layers as well."""
    sampler = Sampler(name)
    inner, rows = sampler.vlm.model.model, [row for unit in sampler.sample(0, 2, 1) for row in unit.rows]
    kept = join_features([image for unit in sampler.sample(0, 2, 1) for image in unit.features])
    assert (kept.deepstack_features is not None) == (name == "qwen3-vl")
    fresh = image_features(inner, collate_prompts(sampler.vlm.processor, rows))
    for ours, theirs in zip(
        [kept.pooler_output, *(kept.deepstack_features or [])],
        [fresh.pooler_output, *(fresh.deepstack_features or [])],
        strict=True,
    ):
        assert torch.allclose(*(torch.cat(list(images)) for images in (ours, theirs)), atol=1e-4, rtol=1e-4)


def test_figures_are_those_of_the_samples() -> None:
    sampler = Sampler("llava-interleave")
    one, two = sampler.sample(0), sampler.sample(1, 2)
    figures = rollout.mean_figures([rollout.figures_of(one), {}, rollout.figures_of(two)])
    answers = [answer for unit in one + two for of_image in unit.answers for answer in of_image]
    assert len(answers) == 30
    assert figures["reward"] == figures["rewards/length"] == pytest.approx(np.mean([len(a.text) for a in answers]))
    assert figures["answer_tokens"] == pytest.approx(np.mean([a.tokens for a in answers]))
    assert figures["longest_answer_tokens"] == max(a.tokens for a in answers)
    assert figures["truncated_share"] == pytest.approx(np.mean([not a.finished for a in answers]))
    assert figures["parse_rate"] == 1.0 and figures["no_variance_share"] == 0.0
