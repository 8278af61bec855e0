"""The models of a generation server, and loading the adapter of an iteration there by name."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.config.base import GenerationServer
from pipeline_lib.errors import EngineError
from pipeline_lib.openai_server import Failure, Refusal, failure_of, send, server_name
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.vlm.engine.request import KEY_VARIABLE, persist

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LOAD = "/load_lora_adapter"


def adapter_name(ref: ArtifactRef) -> str:
    """The name of an adapter on the server, which no other adapter has."""
    return f"whyscore-{ref.key[:12]}"


async def serve_adapter(
    client: "AsyncOpenAI", server: GenerationServer, ref: ArtifactRef, store: ArtifactStore
) -> None:
    """Load the adapter unless the server lists it; raises `EngineError` that says how to load it by hand."""
    name = adapter_name(ref)
    if name in await listed(client, server):
        return
    path = _put(ref, store, Path(server.adapters).absolute() / name)
    body = {"lora_name": name, "lora_path": str(path)}
    said = "it cannot load adapters at run time"
    for address in _load_addresses(server):
        found = await send(client, address, body, server.timeout_s, KEY_VARIABLE)
        if isinstance(found, Refusal) and found.status in (404, 405) and name not in found.said:
            continue  # no such route
        if isinstance(found, Refusal):
            said = f"HTTP {found.status}{found.said}"
        else:
            said = found.reason if isinstance(found, Failure) else found[:300]
        break
    if name not in await listed(client, server):
        of_vllm, of_sglang = _load_addresses(server)
        post = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        raise EngineError(
            f"generation server {server_name(server.base_url)}: it has no adapter {name}, and loading it failed:"
            f" {said}. Load {path} there (that folder must be seen by the same path, see"
            " runtime.generation_server.adapters) and run again; finished shards are kept. vLLM: start it with"
            f" VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and run again, or with --lora-modules {name}={path}, or load it by"
            f" curl {of_vllm} {post}. SGLang: start it with --enable-lora and run again, or with --lora-paths"
            f" {name}={path}, or load it by curl {of_sglang} {post}"
        )


async def listed(client: "AsyncOpenAI", server: GenerationServer) -> list[str]:
    """The names of the server's models and adapters; raises `EngineError` when it does not tell them."""

    async def attempt() -> list[str] | Failure:
        found = await send(client, "/models", None, min(server.timeout_s, 60.0), KEY_VARIABLE)
        if isinstance(found, Refusal):
            return failure_of(found, "to list", KEY_VARIABLE)
        if isinstance(found, Failure):
            return found._replace(reason=f"{found.reason}; is it started, is runtime.generation_server.base_url right?")
        try:
            return [str(entry["id"]) for entry in json.loads(found)["data"]]
        except (ValueError, KeyError, TypeError):
            return Failure(
                "it does not list its models; does runtime.generation_server.base_url end in /v1?", retry=False
            )

    return await persist(server, attempt)


async def check_base(client: "AsyncOpenAI", server: GenerationServer, base: str) -> None:
    """Raise `EngineError` unless the server has the base model under that name."""
    names = await listed(client, server)
    if base not in names:
        raise EngineError(
            f"generation server {server_name(server.base_url)}: it does not serve {base}, it has"
            f" {', '.join(names[:5]) or 'nothing'}; set runtime.generation_server.model to its name for the base model"
        )


async def can_load(client: "AsyncOpenAI", server: GenerationServer) -> bool:
    """Whether the server loads adapters at run time; nothing is loaded."""
    answers = [await send(client, address, {}, server.timeout_s, KEY_VARIABLE) for address in _load_addresses(server)]
    return any(not isinstance(found, Refusal) or found.status not in (404, 405) for found in answers)


async def vllm_version(client: "AsyncOpenAI", server: GenerationServer) -> str | None:
    """The version of a vLLM; None for another server, or one that does not tell."""
    address = server.base_url.rstrip("/").removesuffix("/v1") + "/version"
    found = await send(client, address, None, min(server.timeout_s, 60.0), KEY_VARIABLE)
    try:
        version = json.loads(found)["version"] if isinstance(found, str) else None
    except (ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) and version[:1].isdigit() else None


def _load_addresses(server: GenerationServer) -> tuple[str, str]:
    address = server.base_url.rstrip("/")
    return address + LOAD, address.removesuffix("/v1") + LOAD  # vLLM's, SGLang's


def _put(ref: ArtifactRef, store: ArtifactStore, folder: Path) -> Path:
    """The adapter's files with checked digests in a folder of their own, which is complete or does not exist."""
    if not folder.is_dir():
        from pipeline_lib.vlm.adapter import fetch_adapter

        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            fetch_adapter(store, ref, partial)
            partial.chmod(0o755)  # the server may run as another user
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():  # else another worker was first
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
