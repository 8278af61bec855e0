"""Generation by an engine behind an OpenAI-compatible server, instead of transformers.

Only the processor is loaded here. Scores and log-probabilities are never read from an engine: two engines differ by
more than a training step changes.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from PIL.Image import Image
from transformers import GenerationConfig

from pipeline_lib.config.base import GenerationServer
from pipeline_lib.errors import EngineError
from pipeline_lib.openai_server import check_address
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.vlm.batches import Record, proportions
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.engine.adapter import adapter_name, can_load, check_base, serve_adapter
from pipeline_lib.vlm.engine.checks import Probe, prove
from pipeline_lib.vlm.engine.request import KEY_VARIABLE, Limits, Served, Wording, all_of, connect, data_url
from pipeline_lib.vlm.families import check_image
from pipeline_lib.vlm.generate.inputs import Generated, end_ids, image_ids
from pipeline_lib.vlm.load import load_config, load_processor
from pipeline_lib.vlm.model_ref import ModelRef

PROBED_IMAGES = 8
ADDRESS_FIELD = "runtime.generation_server.base_url"


class Engine:
    """A model behind a generation server; the server is checked when it is first asked for answers."""

    def __init__(
        self, model: ModelRef, prompt: str, max_new_tokens: int, store: ArtifactStore, server: GenerationServer
    ):
        if model.folded:
            raise EngineError(
                f"{model.name}: a generation server has the base without the adapters of an earlier run; use"
                " generation.engine: transformers, or export that run's model and give its directory as model.id"
            )
        check_address(server.base_url, ADDRESS_FIELD, KEY_VARIABLE)
        self.ref, self.prompt, self.store, self.server = model, prompt, store, server
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
            served = Served(client, self.server, base, adapter, self.prompt, self.limits)
            if self.wording is None:
                probes = []
                for at in _spread(records):
                    image = open_checked(records[at])
                    url = data_url(image)
                    probes += [Probe(url, text, self._tokens(image, text)) for text in beginnings[at]]
                await check_base(client, self.server, base)
                if self.ref.adapter:
                    await serve_adapter(client, self.server, self.ref.adapter, self.store)
                self.wording = await prove(served, self.chat.separator, probes)
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


def look_at(server: GenerationServer, base: str) -> bool:
    """Whether a server loads adapters at run time; raises `RecipeError` or `EngineError` when it cannot be used."""

    async def look() -> bool:
        async with connect(server) as client:
            await check_base(client, server, base)
            return await can_load(client, server)

    check_address(server.base_url, ADDRESS_FIELD, KEY_VARIABLE)
    return asyncio.run(look())


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
