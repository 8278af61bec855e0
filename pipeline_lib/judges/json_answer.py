"""Find the JSON object in the answer of a model that was asked for one."""

import json
import re
from collections.abc import Collection
from typing import Any

_END_OF_THOUGHT = "</think>"
_FENCE = re.compile(r"```[A-Za-z]*\s*\n(.*?)```", re.DOTALL)
_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")


class NoAnswerError(ValueError):
    """An answer without the object; the message is the reason."""


def find_object(answer: str, names: Collection[str]) -> dict[str, Any]:
    """The one object with all these names: the whole answer, or in a code fence, or after or within other text.

    Text before the end of a thought (`</think>`) does not count. Raises `NoAnswerError` when there is no such object,
    or when several give these names different values: nothing is guessed.
    """
    text = answer.rpartition(_END_OF_THOUGHT)[2]
    found = _parsed([text]) or _parsed(_FENCE.findall(text)) or _parsed(_FLAT_OBJECT.findall(text))
    whole = [value for value in found if isinstance(value, dict) and all(name in value for name in names)]
    if not whole:
        raise NoAnswerError("an aspect is missing" if found else "no JSON")
    first = whole[0]
    if any(value[name] != first[name] for value in whole for name in names):
        raise NoAnswerError("several different answers")
    return first


def _parsed(texts: list[str]) -> list[Any]:
    values = []
    for text in texts:
        try:
            values.append(json.loads(text))
        except (ValueError, RecursionError):  # e.g. 200,000 brackets
            continue
    return values
