import json
from typing import Any

import pytest

from pipeline_lib.judges.chat_request import Reply
from pipeline_lib.methods.self_improve.verdict import CUT, RESPONSE_FORMAT, read_verdict

GOOD = {"consistency": "excellent", "usefulness": "bad", "general": "fair"}


def read(content: Any, refusal: str | None = None, finish: str = "stop") -> tuple[str, str | None]:
    text = content if isinstance(content, str | None) else json.dumps(content)
    verdict = read_verdict(Reply(text, refusal, finish, 1, 1))
    if verdict.status != "scored":
        assert (verdict.consistency, verdict.usefulness, verdict.general) == (None, None, None)
    return verdict.status, verdict.reason


def test_labels_become_the_papers_grades() -> None:
    verdict = read_verdict(Reply(json.dumps(GOOD | {"comment": "x"}), None, "stop", 1, 1))
    assert (verdict.status, verdict.consistency, verdict.usefulness, verdict.general) == ("scored", 4, 0, 2)
    schema = RESPONSE_FORMAT["json_schema"]["schema"]
    assert schema["properties"]["general"]["enum"] == ["excellent", "good", "fair", "poor", "bad"]
    assert schema["required"] == list(GOOD) == list(schema["properties"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no JSON"),
        ("", "no JSON"),
        ("```json\n{}\n```", "an aspect is missing"),
        ("[" * 200_000, "no JSON"),
        ('{"a":' * 200_000, "no JSON"),
        ("{" * 200_000, "no JSON"),
        ("9" * 5_000, "no JSON"),
        (f"{json.dumps(GOOD)}\nor {json.dumps(GOOD | {'general': 'good'})}", "several different answers"),
        (f"<think>{json.dumps(GOOD)}</think>", "no JSON"),
        (json.dumps(GOOD)[:-5], "no JSON"),
        ([GOOD], "an aspect is missing"),
        ({"consistency": "good", "usefulness": "good"}, "an aspect is missing"),
        (GOOD | {"general": "great"}, "a label that is not on the scale"),
        (GOOD | {"general": "Good"}, "a label that is not on the scale"),
        (GOOD | {"general": 4}, "a label that is not on the scale"),
        (GOOD | {"general": ["good"]}, "a label that is not on the scale"),
        (GOOD | {"general": None}, "a label that is not on the scale"),
    ],
)
def test_what_is_no_verdict_is_malformed_and_never_guessed(content: Any, reason: str) -> None:
    assert read(content) == ("malformed", reason)


def test_refusals_and_answers_that_were_cut_are_no_verdicts_whatever_they_hold() -> None:
    assert read(GOOD, refusal="I cannot") == ("refused", "refused")
    assert read(GOOD, finish="content_filter") == ("refused", "refused")
    assert read(GOOD, finish="length") == ("malformed", CUT)


PRETTY = json.dumps(GOOD, indent=2)


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{PRETTY}\n```",
        f"```\n{PRETTY}\n```\n",
        f"Here is my verdict:\n\n```JSON\n{json.dumps(GOOD | {'why': {'general': 'fair'}})}\n```\nI hope it helps.",
        f"<think>Perhaps {json.dumps(GOOD | {'general': 'poor'})}? No.</think>\n\n{PRETTY}",
        f"The text fits {{very}} well.</think>{PRETTY}",  # chat templates may write the first tag into the prompt
        f"The explanation is terse. {PRETTY}",
        f"{PRETTY}\nTo repeat it: {json.dumps(GOOD)}",
    ],
)
def test_one_answer_is_read_in_a_fence_after_a_thought_and_within_text(content: str) -> None:
    verdict = read_verdict(Reply(content, None, "stop", 1, 1))
    assert (verdict.status, verdict.consistency, verdict.usefulness, verdict.general) == ("scored", 4, 0, 2)
