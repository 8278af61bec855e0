"""Read a judge model's answer: grades, or the reason why there are none. Nothing is guessed."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.judges.chat_request import Reply
from pipeline_lib.judges.json_answer import NoAnswerError, find_object

GRADES = {4: "excellent", 3: "good", 2: "fair", 1: "poor", 0: "bad"}
"""The paper's five-point scale as integers (section 4.3)."""

ASPECTS = ("consistency", "usefulness", "general")
"""The graded aspects, by the paper's names (appendix A.2)."""

CUT = "cut at max_tokens"

_LABELS = {label: grade for grade, label in GRADES.items()}

RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {aspect: {"type": "string", "enum": list(_LABELS)} for aspect in ASPECTS},
            "required": list(ASPECTS),
            "additionalProperties": False,
        },
    },
}
"""Structured output: the server lets the model give only one of the five labels for each aspect."""


class Verdict(BaseModel):
    """Grades 0 bad .. 4 excellent, or the reason that there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["scored", "refused", "malformed"]
    reason: str | None = None
    consistency: int | None = None
    usefulness: int | None = None
    general: int | None = None


def read_verdict(reply: Reply) -> Verdict:
    """The verdict in a reply: `refused`, `malformed` with its reason, or `scored` with all three grades."""
    if reply.refusal or reply.finish_reason == "content_filter":
        return Verdict(status="refused", reason="refused")
    if reply.finish_reason == "length":
        return Verdict(status="malformed", reason=CUT)
    try:
        said = find_object(reply.content or "", ASPECTS)
    except NoAnswerError as error:
        return Verdict(status="malformed", reason=str(error))
    labels = {aspect: said[aspect] for aspect in ASPECTS}
    if any(not isinstance(label, str) or label not in _LABELS for label in labels.values()):
        return Verdict(status="malformed", reason="a label that is not on the scale")
    return Verdict(status="scored", **{aspect: _LABELS[label] for aspect, label in labels.items()})


def malformed(verdict: Verdict) -> str | None:
    """Why an answer is malformed; None if it is not."""
    return verdict.reason if verdict.status == "malformed" else None
