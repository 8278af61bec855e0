"""Generation by an engine behind an OpenAI-compatible server, instead of transformers.

Only the processor stays loaded here; the model is loaded once to check what the server's model sees. Scores and
log-probabilities of a run are never read from an engine: two engines differ by more than a training step changes.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from PIL.Image import Image
from transformers import GenerationConfig

from pipeline_lib.config.base import GenerationServer
from pipeline_lib.device import pick_device
from pipeline_lib.errors import EngineError
from pipeline_lib.openai_server import check_address
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.batches import Record, proportions
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.engine.adapter import adapter_name, can_load, check_base, serve_adapter, vllm_version
from pipeline_lib.vlm.engine.checks import OwnLogps, Probe, prove
from pipeline_lib.vlm.engine.pixels import TOLERANCE, Continued, continuation_logps
from pipeline_lib.vlm.engine.request import KEY_VARIABLE, Limits, Served, Wording, all_of, connect, data_url
from pipeline_lib.vlm.families import check_image, family_of
from pipeline_lib.vlm.generate.inputs import Generated, continuation, end_ids, image_ids
from pipeline_lib.vlm.load import load_config, load_processor
from pipeline_lib.vlm.model_ref import ModelRef

PROBED_IMAGES = 8
ADDRESS_FIELD = "runtime.generation_server.base_url"


class Engine:
    """A model behind a generation server; the server is checked when it is first asked for answers."""

    def __init__(
        self,
        model: ModelRef,
        prompt: str,
        max_new_tokens: int,
        store: ArtifactStore,
        server: GenerationServer,
        device: str = "auto",
    ):
        """`device` is the one on which the server's log-probabilities are computed too, when it is checked."""
        if model.folded:
            raise EngineError(
                f"{model.name}: a generation server has the base without the adapters of an earlier run; use"
                " generation.engine: transformers, or export that run's model and give its directory as model.id"
            )
        check_address(server.base_url, ADDRESS_FIELD, KEY_VARIABLE)
        self.ref, self.prompt, self.store, self.server, self.device = model, prompt, store, server, device
        self.model_type = load_config(model).model_type
        self.processor = load_processor(model)
        self.chat = render_chat(self.processor, prompt)
        ends = end_ids(own_generation_config(model), self.processor.tokenizer, self.chat)
        self.limits = Limits(max_new_tokens, ends, image_ids(self.processor) or [])
        self.wording: Wording | None = None

    def answers(
        self,
        records: Sequence[Record],
        beginnings: Sequence[Sequence[str]],
        open_image: Callable[[str, str], Image],
        progress: Progress,
    ) -> list[list[Generated]]:
        """Continue each record's beginnings (without separator) greedily, in the order of the records.

        Records are those of `ask_in_batches`. Raises `EngineError` when the server fails or does not pass a check.
        """
        return asyncio.run(self._answers(records, beginnings, open_image, progress)) if records else []

    async def _answers(
        self,
        records: Sequence[Record],
        beginnings: Sequence[Sequence[str]],
        open_image: Callable[[str, str], Image],
        progress: Progress,
    ) -> list[list[Generated]]:
        def open_checked(record: Record) -> Image:
            image = open_image(record["image"], record["image_sha256"])
            check_image(self.model_type, image)
            return image

        async with connect(self.server) as client:
            adapter = adapter_name(self.ref.adapter) if self.ref.adapter else None
            base = self.server.model or self.ref.name
            served = Served(client, self.server, base, adapter, self.prompt, self.limits, self._decode)
            if self.wording is None:
                asked = [(open_checked(records[at]), text) for at in _spread(records) for text in beginnings[at]]
                probes = [Probe(data_url(image), text, self._tokens(image, text)) for image, text in asked]
                await check_base(client, self.server, base)
                if self.ref.adapter:
                    await serve_adapter(client, self.server, self.ref.adapter, self.store)
                own = OwnLogps(partial(self._logps, asked), TOLERANCE[self.ref.dtype])
                compared = own if self.server.compare_pixels else None
                self.wording = await prove(served, self.chat.separator, probes, compared)
            wording, self.wording = self.wording, None  # after a failure the server is checked again

            async def answer(at: int) -> list[Generated]:
                url = await asyncio.to_thread(lambda: data_url(open_checked(records[at])))
                replies = await asyncio.gather(*(served.go_on(url, text, wording) for text in beginnings[at]))
                progress.advance()
                return [reply.generated for reply in replies]

            jobs = [partial(answer, at) for at in range(len(records))]
            found = await all_of(jobs, max(1, self.server.concurrency // 2))
            self.wording = wording
            return found

    def _tokens(self, image: Image, beginning: str) -> list[int]:
        text = self.chat.prompt + self.chat.separator + beginning
        inputs = self.processor(images=[[image]], text=[text], add_special_tokens=False)
        return [int(token) for token in inputs["input_ids"][0]]

    def _decode(self, beginning: str, ids: Sequence[int]) -> str:
        # Behind the placeholder of the image, which is no text, whatever it stands for.
        tokenizer = self.processor.tokenizer
        before = tokens(tokenizer, self.chat.prompt + self.chat.separator + beginning)
        return continuation(tokenizer, before, list(ids))

    def _logps(self, asked: Sequence[tuple[Image, str]], ids: Sequence[Sequence[int]]) -> list[list[float]]:
        texts = [Continued(*image, tokens) for image, tokens in zip(asked, ids, strict=True)]
        return continuation_logps(self.ref, self.store, pick_device(self.device), self.chat, texts)


class Looked(NamedTuple):
    """Whether a server loads adapters at run time, and its version if it is a vLLM that tells it."""

    loads: bool
    vllm: str | None


def look_at(server: GenerationServer, base: str) -> Looked:
    """What a server can do; raises `RecipeError` or `EngineError` when it cannot be used."""

    async def look() -> Looked:
        async with connect(server) as client:
            await check_base(client, server, base)
            return Looked(await can_load(client, server), await vllm_version(client, server))

    check_address(server.base_url, ADDRESS_FIELD, KEY_VARIABLE)
    return asyncio.run(look())


def check_vllm(version: str | None, model_type: str) -> None:
    """Raise `EngineError` when vLLM is too old for the adapters of models of this type, or does not know them."""
    least = family_of(model_type).vllm
    if version is None:
        return
    if least is None:
        raise EngineError(
            f"vLLM has no models of type {model_type} (0.32 was tried); set generation.engine: transformers"
        )
    if _numbers(version) < _numbers(least):
        raise EngineError(
            f"the generation server is vLLM {version}; adapters of models of type {model_type} need {least} or later"
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def own_generation_config(ref: ModelRef) -> GenerationConfig:
    """The processor and configuration of the model, without its weights."""
    try:
        return GenerationConfig.from_pretrained(ref.folder(weights=False))
    except OSError:
        return GenerationConfig.from_model_config(load_config(ref))


def _spread(records: Sequence[Record]) -> list[int]:
    """Records of all proportions of images: with few tiles and with many."""
    order = sorted(range(len(records)), key=lambda at: proportions(records[at]))
    count = min(PROBED_IMAGES, len(order))
    return [order[at * (len(order) - 1) // max(1, count - 1)] for at in range(count)]
