"""A step is the mean over its pairs, or over its target tokens, whatever the micro-batches it is computed in.

Seven rows in batches of four: the last step has three, so that micro-batches of two are a whole and a short one. What a
training should do is computed beside it, one plain row at a time and with torch's own optimiser.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import picture, preference_pairs, publish_folder, reference_of, training
from pipeline_lib.train import dpo, sft
from pipeline_lib.train.job import SFT
from pipeline_lib.train.lora import save_adapter
from pipeline_lib.train.pairs import render_answer
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.generate import attention
from pipeline_lib.vlm.load import Vlm
from pipeline_lib.vlm.model_ref import ModelRef
from tests.parity.pairs import SHAPES, Tiny, adapted, bare, three_families

ROWS, BATCH, MICRO = 7, 4, (1, 2, 4)
RATE, BETA = 1e-3, 0.5
TEXTS = ["sharp.", "calm, the light is good and the colours are bright.", "bright, the light is good."]
CPU = torch.device("cpu")
NOWHERE = ModelRef(
    name="tiny", location="none", revision=None, fingerprint="none", dtype="float32", resize_px=16
)  # the model is in memory

Row = dict[str, Any]
Figures = dict[str, float]


class Trained(NamedTuple):
    log: list[Figures]  # a step
    weights: dict[str, Tensor]


def open_image(image: str, sha256: str = "") -> Image.Image:
    width, height = SHAPES[int(image.removeprefix("train-").removesuffix(".png")) % len(SHAPES)]
    return picture(image, 96).crop((0, 0, width, height))


def uneven_pairs(chat: Chat) -> pa.Table:
    """Answers of 10 to 40 tokens, in an order of their own on either side."""
    chosen = [f"#Score: {at}\n\n#Explain: {TEXTS[at % 3]}" for at in range(ROWS)]
    rejected = [f"#Score: 5\n\n#Explain: The picture is dull, {TEXTS[at * at % 3]}" for at in range(ROWS)]
    return preference_pairs(ROWS, chat.prompt, chosen=chosen, rejected=rejected)


class Bench:
    """One family's model with an adapter to start from, trained by us and by hand."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.name, self.folder = name, folder
        save_adapter(adapted(name).model, folder / "start", "default", "tiny")
        chat = bare(name).chat
        self.pairs = uneven_pairs(chat)
        self.history: list[Row] = []
        self.opened: list[str] = []
        for method in (sft, dpo):
            monkeypatch.setattr(method, "train_adapter", self._keeping_the_history(method.train_adapter))

    def _keeping_the_history(self, train_adapter: Callable[..., Any]) -> Callable[..., Any]:
        def keeping(*given: Any, **named: Any) -> Any:
            self.history = train_adapter(*given, **named)
            return self.history

        return keeping

    def _open(self, image: str, sha256: str) -> Image.Image:
        self.opened.append(image)
        return open_image(image)

    def train(self, method: Callable[..., Any], micro: int, likelihood: float = 0.0, **options: Any) -> Trained:
        tiny, self.opened = bare(self.name), []
        config = Training(
            learning_rate=RATE, lora_rank=4, batch_size=BATCH, micro_batch_size=micro, max_length=800, beta=BETA,
            sft_weight=likelihood, max_grad_norm=1e9,
        )  # fmt: skip
        store = ArtifactStore(str(self.folder / f"store-{micro}"))
        start = publish_folder(store, ArtifactRef(stage="train", key="start"), self.folder / "start")
        given = training(
            NOWHERE, store, "steps/train/k", self.folder / f"adapter-{micro}", config,
            start=start, checkpoint_every=100, **({"loss": SFT()} if method is sft.train_sft else {}),
        )  # fmt: skip
        method(Vlm(tiny.model, tiny.processor, CPU), tiny.chat, self.pairs, self._open, **options, **given)
        return Trained(self.history, load_file(self.folder / f"adapter-{micro}" / "adapter_model.safetensors"))

    def by_hand(self, step: Callable[[Tiny, list[Row]], tuple[Tensor, Figures]]) -> Trained:
        """The same two steps, of the rows that the training before took, in its order."""
        tiny = bare(self.name)
        start = PeftModel.from_pretrained(tiny.model, str(self.folder / "start"), is_trainable=True).eval()
        tiny = tiny._replace(model=start)
        weights = {name: weight for name, weight in start.named_parameters() if weight.requires_grad}
        adam, log = torch.optim.Adam(weights.values()), []
        rows = {row["image"]: row for row in self.pairs.to_pylist()}
        order = self.opened[-ROWS:]  # TRL looks at the first row before
        for rate, images in ((RATE, order[:BATCH]), (RATE / 2, order[BATCH:])):
            loss, figures = step(tiny, [rows[image] for image in images])
            loss.backward()
            norm = torch.stack([weight.grad.norm() for weight in weights.values() if weight.grad is not None]).norm()
            log.append({"loss": float(loss), "grad_norm": float(norm), **figures})
            adam.param_groups[0]["lr"] = rate
            adam.step()
            adam.zero_grad()
        return Trained(log, {name.replace(".default", ""): weight.detach() for name, weight in weights.items()})

    def moved(self, trained: Trained) -> Tensor:
        """How far the training took the weights, as one vector."""
        start = load_file(self.folder / "start" / "adapter_model.safetensors")
        return torch.cat([(trained.weights[name] - start[name]).flatten() for name in sorted(start)])

    def same(self, ours: Trained, expected: Trained) -> None:
        assert len(ours.log) == len(expected.log) == 2
        for mine, wanted in zip(ours.log, expected.log, strict=True):
            for figure, value in wanted.items():
                assert mine[figure] == pytest.approx(value, rel=2e-4, abs=2e-5), figure
        way = self.moved(expected)
        assert float((self.moved(ours) - way).norm() / way.norm()) < 1e-4


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(request.param, tmp_path, monkeypatch)


def answer_logits(tiny: Tiny, row: Row, side: str) -> tuple[Tensor, Tensor]:
    """Of an answer's A tokens: the logits (A, V) that predict them, and their ids (A)."""
    text = render_answer(tiny.chat, row, side)
    ids = tokens(tiny.processor.tokenizer, text)
    given = tiny.processor(
        images=[open_image(row["image"])], text=[row["prompt"] + text], add_special_tokens=False, return_tensors="pt"
    )
    return tiny.model(**given).logits[0, -len(ids) - 1 : -1], torch.tensor(ids)


class Answers(NamedTuple):
    logps: Tensor  # of all tokens of all answers, one behind the other
    sums: Tensor  # an answer
    right: Tensor
    entropy: Tensor
    logits: Tensor  # mean over the vocabulary


def answers(tiny: Tiny, rows: list[Row], side: str) -> Answers:
    given = [answer_logits(tiny, row, side) for row in rows]
    logps = [logits.log_softmax(-1).gather(1, ids[:, None])[:, 0] for logits, ids in given]
    every, ids = torch.cat([logits for logits, _ in given]), torch.cat([ids for _, ids in given])
    every_logp = every.detach().log_softmax(-1)
    return Answers(
        torch.cat(logps),
        torch.stack([logp.sum() for logp in logps]),
        (every.argmax(-1) == ids).float(),
        -(every_logp.exp() * every_logp).sum(-1),
        every.detach().mean(-1),
    )


def supervised_step(tiny: Tiny, rows: list[Row]) -> tuple[Tensor, Figures]:
    chosen = answers(tiny, rows, "chosen")
    figures = {"mean_token_accuracy": float(chosen.right.mean()), "entropy": float(chosen.entropy.mean())}
    return -chosen.logps.mean(), figures


@pytest.mark.parametrize("bench", three_families(), indirect=True)
def test_supervised_training_is_the_mean_over_tokens(bench: Bench) -> None:
    trained = {micro: bench.train(sft.train_sft, micro) for micro in MICRO}
    expected = bench.by_hand(supervised_step)
    for ours in trained.values():
        bench.same(ours, expected)


@pytest.mark.parametrize(
    ("bench", "shared", "likelihood"),
    [
        ("llava-next-vicuna", True, 0.7),
        ("llava-next-vicuna", False, 0.0),
        ("qwen3-vl", True, 0.0),
        ("qwen3-vl", False, 0.7),
    ],
    indirect=["bench"],
)
def test_dpo_is_the_mean_over_pairs_and_its_likelihood_term_over_tokens(
    bench: Bench, shared: bool, likelihood: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a model that is trained by TRL's own trainer, because it is not known to share the prefix."""
    tiny = bare(bench.name)
    base = Vlm(tiny.model, tiny.processor, CPU)
    reference = reference_of(base, tiny.chat, bench.pairs, open_image)
    stored = {(row["image"], row["answer"]): row["logp"] for row in reference.to_pylist()}

    def step(tiny: Tiny, rows: list[Row]) -> tuple[Tensor, Figures]:
        sides = {side: answers(tiny, rows, side) for side in ("chosen", "rejected")}
        rewards = {
            side: BETA * (found.sums - torch.tensor([stored[row["image"], side] for row in rows]))
            for side, found in sides.items()
        }
        margins = rewards["chosen"] - rewards["rejected"]
        loss = -torch.nn.functional.logsigmoid(margins).mean() - likelihood * sides["chosen"].logps.mean()
        figures = {
            "rewards/margins": float(margins.mean()),
            "rewards/accuracies": float((margins > 0).float().mean()),
            "mean_token_accuracy": float(sides["chosen"].right.mean()),
            "entropy": float(torch.cat([found.entropy for found in sides.values()]).mean()),
        }
        for side, found in sides.items():
            figures |= {f"rewards/{side}": float(rewards[side].mean()), f"logps/{side}": float(found.sums.mean())}
            figures |= {f"logits/{side}": float(found.logits.mean())}
        return loss, figures

    if not shared:
        monkeypatch.setattr(attention, "SHARED", frozenset())
    trained = {micro: bench.train(dpo.train_dpo, micro, likelihood, reference=reference) for micro in MICRO}
    expected = bench.by_hand(step)
    for ours in trained.values():
        bench.same(ours, expected)
