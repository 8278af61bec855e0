"""The checks that a generation server must pass before its explanations are kept.

Servers answer with the base when they do not know an adapter, load adapters none of whose layers they find, render the
chat in another way than the model was trained on, or begin a new turn instead of continuing one, all without an error.
The checks find each of these with a few images of the stage.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import PIL

from pipeline_lib.errors import EngineError
from pipeline_lib.openai_server import Failure, Refusal, failure_of, send, server_name
from pipeline_lib.vlm.engine.request import KEY_VARIABLE, Reply, Served, Wording, all_of, continue_turn, persist

log = logging.getLogger("whyscore.model")

UNKNOWN = "whyscore-no-such-adapter"


class Probe(NamedTuple):
    """An image, the beginning of an answer about it, and the tokens of both."""

    image: str
    beginning: str
    prompt_ids: list[int]


class OwnLogps(NamedTuple):
    """The log-probabilities of tokens behind each probe by the model on this machine, and how far the server's may be
    from them, in nats."""

    of: Callable[[Sequence[Sequence[int]]], list[list[float]]]
    tolerance: float


async def prove(served: Served, separator: str, probes: Sequence[Probe], own: OwnLogps | None = None) -> Wording:
    """Find the request form of this server, and check that the right model answers, with `own` about the right pixels.

    Raises `EngineError`.
    """
    if served.adapter:
        await _refuses_unknown_adapters(served, probes[0])
    wording = await _find_wording(served, separator, probes[0])
    replies = await _answer(served, probes, wording, logps=own is not None)
    for probe, reply in zip(probes, replies, strict=True):
        if not _same_tokens(served, probe, reply):
            raise _other_tokens(served, probe, [reply])
    texts, said = [reply.generated.text for reply in replies], [reply.said for reply in replies]
    if all(text.lstrip().startswith(probe.beginning) for probe, text in zip(probes, said, strict=True)):
        raise _refuse(
            served,
            f"it does not continue the assistant's turn but begins it again: to {probes[0].beginning!r} it answers"
            f" {said[0][:60]!r}; a server or proxy that repeats what it is given (echo) cannot be used",
        )
    if served.adapter:
        base = await _answer(served._replace(adapter=None), probes, wording)
        same = sum(text == other.generated.text for text, other in zip(texts, base, strict=True))
        if 2 * same > len(texts):
            raise _refuse(
                served,
                f"{same} of {len(texts)} answers of {served.adapter} equal those of {served.model} without"
                " adapter: the adapter is not applied. Look for layers that 'will be ignored' in its log when the"
                " adapter is loaded; if its layers are not supported there, set generation.engine: transformers",
            )
    if own:
        _same_pixels(served, replies, own)
    return wording


def _same_pixels(served: Served, replies: Sequence[Reply], own: OwnLogps) -> None:
    """The log-probabilities of the server's answers show what its model sees, which tokens do not."""
    if any(not reply.logps or len(reply.logps) != len(reply.generated.ids) for reply in replies):
        raise _refuse(
            served,
            "it does not tell tokens and log-probabilities of its answers (return_token_ids, logprobs), so that nothing"
            " shows which pixels its model sees; take vLLM, or set runtime.generation_server.compare_pixels to false",
        )
    expected = own.of([reply.generated.ids for reply in replies])
    worst = max(
        abs(theirs - ours)
        for reply, logps in zip(replies, expected, strict=True)
        for theirs, ours in zip(reply.logps or [], logps, strict=True)
    )
    if worst > own.tolerance:
        raise _refuse(
            served,
            f"its model sees other pixels, or has other weights: the log-probability of a token differs by {worst:.2g}"
            f" nats from this machine's, {own.tolerance:g} are allowed ({len(replies)} texts). Start vLLM with"
            ' --mm-processor-kwargs \'{"backend": "pil"}\', the same limit of tiles, and Pillow'
            f" {PIL.__version__}, and see that it has the recipe's weights and dtype (docs/engines.md)",
        )
    log.info("generation server: log-probabilities of %s texts agree within %.1g nats", len(replies), worst)


async def _refuses_unknown_adapters(served: Served, probe: Probe) -> None:
    nobody = served._replace(adapter=UNKNOWN, limits=served.limits._replace(max_new_tokens=1))
    body = continue_turn(nobody, probe.image, probe.beginning, Wording("", add_special_tokens=False))

    async def attempt() -> bool | Failure:
        found = await send(served.client, "/chat/completions", body, served.server.timeout_s, KEY_VARIABLE)
        if isinstance(found, Refusal) and found.status in (400, 404, 422):
            return True
        if isinstance(found, Refusal):
            return failure_of(found, UNKNOWN, KEY_VARIABLE)
        return found if isinstance(found, Failure) else False

    if not await persist(served.server, attempt):
        raise _refuse(
            served,
            f"it answers for an adapter that does not exist ({UNKNOWN}), so it would do so for {served.adapter} too,"
            " with the base; use a server that refuses unknown names, and no proxy that falls back",
        )


async def _find_wording(served: Served, separator: str, probe: Probe) -> Wording:
    short = served._replace(limits=served.limits._replace(max_new_tokens=1))
    replies = []
    for before, special in product(dict.fromkeys(["", separator]), (False, True)):
        wording = Wording(before, special)
        reply = await short.go_on(probe.image, probe.beginning, wording)
        if _same_tokens(served, probe, reply):
            return wording
        replies.append(reply)
    raise _other_tokens(served, probe, replies)


async def _answer(served: Served, probes: Sequence[Probe], wording: Wording, *, logps: bool = False) -> list[Reply]:
    jobs = [partial(served.go_on, probe.image, probe.beginning, wording, logps=logps) for probe in probes]
    return await all_of(jobs, served.server.concurrency)


def _same_tokens(served: Served, probe: Probe, reply: Reply) -> bool:
    """Whether the server read the prompt of training; what it writes in the places of image tokens is its own."""
    if not len(probe.prompt_ids) == len(reply.prompt_ids) == reply.generated.prompt_tokens:
        return False
    both = zip(probe.prompt_ids, reply.prompt_ids, strict=True)
    return all(ours == theirs or ours in served.limits.never_ids for ours, theirs in both)


def _other_tokens(served: Served, probe: Probe, replies: Sequence[Reply]) -> EngineError:
    counts = " or ".join(dict.fromkeys(str(len(reply.prompt_ids)) for reply in replies))
    return _refuse(
        served,
        f"it reads other tokens than the model is trained on: {counts} of them, image tokens included, where there are"
        f" {len(probe.prompt_ids)} (if as many: others). Does it serve the recipe's model and revision, with a chat"
        " template that writes what docs/engines.md says, cut images as model.max_tiles says, and know"
        " continue_final_message?",
    )


def _refuse(served: Served, why: str) -> EngineError:
    return EngineError(f"generation server {server_name(served.server.base_url)}: {why}")
