"""An engine for tests: an HTTP server with a tiny real checkpoint, which answers like vLLM or SGLang.

It renders chats, refuses names and loads adapters as the one or the other does (`kind`), generates with transformers,
and makes errors when told to: `server.faults |= {"falls back"}`, `server.fail = [503]`, `server.hangs = True`.
"""

import asyncio
import base64
import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from peft import PeftModel
from PIL import Image
from transformers import GenerationConfig

from pipeline_lib.testing.tiny import model_ref
from pipeline_lib.vlm.load import load_base

Fault = Literal[
    "falls back",  # unknown names are answered by the base
    "adapter ignored",  # adapters are listed, none of their layers is used
    "new turn",  # continue_final_message is not known
    "repeats",  # the beginning that was given stands in the answer
    "other template",
    "cuts",  # its context is short
    "another answers",  # a proxy that says which model it went to
    "no list",
    "tells no tokens",
    "other pixels",  # it resizes otherwise
    "tells no log-probabilities",
    "drops the last character",  # in its text, not in its tokens
]


class EngineServer:
    """One base model, adapters by name; counts requests, and how many there are at a time."""

    def __init__(self, folder: Path, kind: Literal["vllm", "sglang"] = "vllm", chat_template: str | None = None):
        self.vlm = load_base(model_ref(folder), torch.device("cpu"))
        self.kind, self.name = kind, "tiny"
        if chat_template:
            self.vlm.processor.chat_template = chat_template
        self.faults: set[Fault] = set()
        self.fail: list[int] = []
        self.hangs, self.delay_s = False, 0.0
        self.can_load = True
        self.version = "0.32.0"
        self.adapters: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self.images: list[Image.Image] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.model: Any = self.vlm.model
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def load(self, name: str, path: str) -> None:
        with self.lock:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(path, adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.vlm.model, path, adapter_name=name).eval()
            self.adapters[name] = path

    def render(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> tuple[str, bool]:
        """The prompt as text, and whether a begin token is put before it."""
        processor, template = self.vlm.processor, self.vlm.processor.apply_chat_template
        if self.kind == "sglang":
            assert body["continue_final_message"] and messages[-1]["role"] == "assistant"
            return template(messages[:-1], add_generation_prompt=True) + messages[-1]["content"], True
        last = messages[-1] | {"content": [{"type": "text", "text": messages[-1]["content"]}]}
        how = {name: body[name] for name in ("continue_final_message", "add_generation_prompt")}
        if "new turn" in self.faults:
            how = {"add_generation_prompt": True}
        text = processor.apply_chat_template([*messages[:-1], last], **how)
        return text, body.get("add_special_tokens", False)

    def generate(self, body: dict[str, Any], adapter: str | None) -> dict[str, Any]:
        user, last = body["messages"]
        url = user["content"][0]["image_url"]["url"]
        image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))).convert("RGB")
        if "other pixels" in self.faults:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turn = user | {"content": [{"type": "image"}, user["content"][1]]}
        text, special = self.render([turn, last], body)
        if "other template" in self.faults:
            text = text.replace("\n", "\n\n", 1)
        tokenizer = self.vlm.processor.tokenizer
        inputs = self.vlm.processor(
            images=[[image]], text=[text], add_special_tokens=special, return_tensors="pt"
        )  # fmt: skip
        prompt = inputs["input_ids"][0].tolist()
        most = min(body["max_tokens"], 3) if "cuts" in self.faults else body["max_tokens"]
        ends = [*body.get("stop_token_ids", []), tokenizer.eos_token_id]
        config = GenerationConfig(
            do_sample=body.get("temperature", 1.0) > 0,
            repetition_penalty=body.get("repetition_penalty", 1.7),  # what a model's own settings may ask for
            max_new_tokens=most,
            eos_token_id=ends,
            pad_token_id=ends[0],
            suppress_tokens=[int(token) for token, bias in body.get("logit_bias", {}).items() if bias <= -100] or None,
        )
        with self.lock, torch.inference_mode(), contextlib.ExitStack() as stack:
            self.images.append(image)
            if adapter and "adapter ignored" not in self.faults:
                self.model.set_adapter(adapter)
            elif isinstance(self.model, PeftModel):
                stack.enter_context(self.model.disable_adapter())
            new = self.model.generate(**inputs, generation_config=config)[0, len(prompt) :].tolist()
            if body.get("logprobs"):
                ids = torch.tensor([new])
                longer = {"input_ids": ids, "attention_mask": ids * 0 + 1, "mm_token_type_ids": ids * 0}
                for name in longer.keys() & inputs.keys():
                    inputs[name] = torch.cat([inputs[name], longer[name]], dim=1)
                logits = self.model(**inputs, logits_to_keep=len(new) + 1).logits[0, :-1]
                logps = logits.log_softmax(-1).gather(1, ids[0, :, None])[:, 0].tolist()
        stopped = new[-1] in ends
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        said = tokenizer.decode(prompt + new[: len(new) - stopped], **plain)[len(tokenizer.decode(prompt, **plain)) :]
        if "drops the last character" in self.faults:
            said = said[:-1]
        if "repeats" in self.faults:
            said = last["content"] + said
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "stop" if stopped else "length",
        }
        completion: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": self.name if "another answers" in self.faults else body["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(new),
                "total_tokens": len(prompt) + len(new),
            },
        }
        if "tells no tokens" in self.faults:
            return completion
        if self.kind == "vllm" and body.get("return_token_ids"):
            completion["prompt_token_ids"] = prompt
            choice["token_ids"] = new
        if body.get("logprobs") and "tells no log-probabilities" not in self.faults:
            choice["logprobs"] = {"content": [{"token": "", "logprob": logp} for logp in logps]}
        if self.kind == "sglang" and body.get("return_prompt_token_ids"):  # its caches know images by such numbers
            image = self.vlm.processor.image_token_id
            choice["prompt_token_ids"] = [10**6 + 7 if token == image else token for token in prompt]
        return completion


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def build_app(server: EngineServer) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Any:
        if "no list" in server.faults:
            return JSONResponse(["not", "this"])
        cards = [{"id": server.name, "object": "model", "root": server.name, "parent": None}]
        cards += [
            {"id": name, "object": "model", "root": path, "parent": server.name}
            for name, path in server.adapters.items()
        ]
        return {"object": "list", "data": cards}

    @app.get("/version")
    async def version() -> Any:
        return {"version": server.version} if server.kind == "vllm" else _error(404, "Not Found")

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        server.requests.append(body)
        server.keys.add(request.headers.get("Authorization"))
        server.at_once += 1
        server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            await asyncio.sleep(server.delay_s)
            while server.hangs:
                await asyncio.sleep(0.01)
            if server.fail and (status := server.fail.pop(0)) != 200:
                return _error(status, f"not now (you sent {request.headers.get('Authorization')})")
            asked = body["model"] if server.kind == "vllm" else body.get("lora_path")
            known = asked in server.adapters
            if not known and "falls back" not in server.faults:
                if server.kind == "vllm" and asked != server.name:
                    return _error(404, f"The model `{asked}` does not exist.")
                if server.kind == "sglang" and asked is not None:
                    return _error(400, f"The following requested LoRA adapters are not loaded: {asked}")
            return await asyncio.to_thread(server.generate, body, asked if known else None)
        finally:
            server.at_once -= 1

    @app.post("/v1/load_lora_adapter" if server.kind == "vllm" else "/load_lora_adapter")
    async def load(request: Request) -> Any:
        body = await request.json()
        if not server.can_load:
            return JSONResponse({"detail": "Not Found"}, 404)
        name, path = body["lora_name"], body["lora_path"]
        if not (Path(path) / "adapter_config.json").exists():
            return _error(404, f"The lora adapter '{name}' at {path} cannot be found.")
        await asyncio.to_thread(server.load, name, path)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    return app


@contextlib.contextmanager
def running(server: EngineServer) -> Iterator[EngineServer]:
    """Serve on a free port, in a thread of this process."""
    config = uvicorn.Config(build_app(server), port=0, log_config=None, log_level="error", timeout_graceful_shutdown=1)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        threading.Event().wait(0.01)
    server.port = web.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.hangs, web.should_exit = False, True
        thread.join()
