"""Votes over pairs: K answers a pair, each to a random order of the two images, counted for the images themselves."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.evo_quality.answers import read_index
from pipeline_lib.methods.evo_quality.recipe import Votes
from pipeline_lib.methods.evo_quality.tables import VOTES
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw
from pipeline_lib.vlm.chat import tokens

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.chat import Chat
    from pipeline_lib.vlm.generate import NextTokens, Readout
    from pipeline_lib.vlm.load import Vlm

Label = Literal["majority", "share"]


class Vote(NamedTuple):
    """An answer: whether the second image of the pair was shown first, and the text."""

    swapped: bool
    text: str


def vote(
    vlm: "Vlm",
    chat: "Chat",
    pairs: pa.Table,
    open_image: Callable[[str, str], Image],
    config: Votes,
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> pa.Table:
    """Ask about every pair in both orders and count, as `VOTES`; one prefill an order (arXiv 2509.25787).

    Raises `ModelError` for exact votes when the tokenizer does not write 0 and 1 in the box as one token each.
    """
    from pipeline_lib.vlm.batches import ask_in_batches
    from pipeline_lib.vlm.generate import Question, Sampled, generate_answers

    sampled = Sampled(max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=seed)

    def ask_sampled(batch: list["Record"], pictures: list[list[Image]]) -> list[list[Vote]]:
        orders, questions = [], []
        for at, (record, images) in enumerate(zip(batch, pictures, strict=True)):
            swapped = [draw(f"{seed}:order:{answer}", record["pair"]) < 0.5 for answer in range(config.answers)]
            for order, shown in ((False, images), (True, images[::-1])):
                if count := swapped.count(order):
                    orders.append((at, order))
                    questions.append(Question(chat, shown, [""] * count, key=f"{record['pair']} {order}"))
        votes: list[list[Vote]] = [[] for _ in batch]
        answered = generate_answers(vlm, questions, sampled).answers
        for (at, order), answers in zip(orders, answered, strict=True):
            votes[at] += [Vote(order, answer.text.strip()) for answer in answers]
        return votes

    def ask_exact(batch: list["Record"], pictures: list[list[Image]]) -> list[tuple["Readout", "Readout"]]:
        shown = [order for images in pictures for order in (images, images[::-1])]
        questions = [Question(chat, images, []) for images in shown]
        read = generate_answers(vlm, questions, sampled, index_tokens(vlm.processor.tokenizer, chat)).readouts
        return list(zip(read[::2], read[1::2], strict=True))

    records = pairs.to_pylist()
    if config.method == "exact":
        read = ask_in_batches(vlm.model, records, open_image, batch_size, ask_exact, progress)
        rows = [exact_row(pair, *of_pair, config.label) for pair, of_pair in zip(records, read, strict=True)]
    else:
        found = ask_in_batches(vlm.model, records, open_image, batch_size, ask_sampled, progress)
        rows = [counted_row(pair, of_pair, config.label) for pair, of_pair in zip(records, found, strict=True)]
    return pa.Table.from_pylist(rows, schema=VOTES.schema)


def counted_row(pair: dict[str, Any], votes: Sequence[Vote], label: Label) -> dict[str, Any]:
    """A row of `VOTES` from the answers to a pair."""
    for_first = for_second = said_first = unparsed = 0
    for one in votes:
        index = read_index(one.text)
        if index is None:
            unparsed += 1
            continue
        said_first += index == 0
        if (index == 0) != one.swapped:
            for_first += 1
        else:
            for_second += 1
    return {
        **pair,
        "first_votes": for_first,
        "second_votes": for_second,
        "unparsed": unparsed,
        "shown_swapped": sum(one.swapped for one in votes),
        "said_first": said_first,
        "preference": preference(for_first, for_second, label),
        "answers": [one._asdict() for one in votes],
    }


def exact_row(pair: dict[str, Any], straight: "Readout", swapped: "Readout", label: Label) -> dict[str, Any]:
    """A row of `VOTES` from the probabilities of 0 and 1 in both orders; each order counts as one vote."""
    says_first = [straight.distribution[0], swapped.distribution[0]]
    first = says_first[0] + 1 - says_first[1]
    return {
        **pair,
        "first_votes": first,
        "second_votes": 2 - first,
        "unparsed": 0,
        "shown_swapped": 1,
        "said_first": sum(says_first),
        "preference": preference(first, 2 - first, label),
        "answers": [],
    }


def preference(first: float, second: float, label: Label) -> float | None:
    """The label for the first image: by majority 1, 0, or .5 for a tie, or its share of votes; None without votes."""
    if not first + second:
        return None
    if label == "share":
        return first / (first + second)
    return 0.5 if first == second else float(first > second)


def index_tokens(tokenizer: Any, chat: "Chat") -> "NextTokens":
    """Where 0 and 1 stand in a box that an answer begins with, and their ids.

    Raises `ModelError` if they are no single tokens.
    """
    from pipeline_lib.vlm.generate import NextTokens

    context = chat.separator + "\\boxed{"
    before = tokens(tokenizer, chat.prompt + context)
    behind = [tokens(tokenizer, f"{chat.prompt}{context}{index}}}")[: len(before) + 1] for index in (0, 1)]
    ids = tuple(row[-1] for row in behind)
    if any(row[:-1] != before for row in behind) or ids[0] == ids[1]:
        raise ModelError(
            "the tokenizer does not write 0 and 1 behind '\\boxed{' as one token each; set votes.method: sampled"
        )
    return NextTokens(context, ids)


def shuffle_votes(votes: pa.Table, seed: int) -> pa.Table:
    """The control: the labels are shuffled among the pairs that have one, and say nothing about them any more."""
    labels = votes["preference"].to_pylist()
    places = [at for at, label in enumerate(labels) if label is not None]
    shuffled = list(labels)
    for place, source in zip(places, np.random.default_rng([seed, 7]).permutation(places), strict=True):
        shuffled[place] = labels[source]
    return _labelled(votes, shuffled)


def flip_votes(votes: pa.Table) -> pa.Table:
    """The other control: every label says the opposite."""
    return _labelled(votes, [None if label is None else 1 - label for label in votes["preference"].to_pylist()])


def _labelled(votes: pa.Table, labels: list[float | None]) -> pa.Table:
    at = votes.column_names.index("preference")
    return votes.set_column(at, VOTES.schema.field("preference"), pa.array(labels, pa.float64()))
