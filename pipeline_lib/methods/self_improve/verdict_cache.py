"""All verdicts of judge models, one small file each in the store, so that none is paid for twice.

The state after a hard crash: the verdicts that had arrived. A file is created with all its content at once and only if
there is none, so two processes may fill the cache together; the first one's file counts for both. A file that is
damaged is ignored. A malformed answer is kept to be looked at, and asked for again by the next process: the server may
have been mended meanwhile.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline_lib.methods.self_improve.prompt import Criterion
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.methods.self_improve.rubric import Rubric
from pipeline_lib.methods.self_improve.verdict import RESPONSE_FORMAT, Verdict, malformed
from pipeline_lib.store import ArtifactStore, canonical_json
from pipeline_lib.store.key import key_fields

READERS = 16
"""Files read at a time: a bucket answers in tens of milliseconds each."""


class ScoredText(NamedTuple):
    """What is judged."""

    score: int
    text: str


class VerdictCache(NamedTuple):
    """The verdicts of one judge. Another judge is another cache, see `cache_of`."""

    store: ArtifactStore
    judge: dict[str, Any]

    def find(self, questions: Iterable[ScoredText]) -> dict[ScoredText, Verdict]:
        """The questions that have verdicts in the cache, with these verdicts; malformed ones too."""
        asked = list(questions)
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._stored, asked)
            return {question: verdict for question, verdict in zip(asked, found, strict=True) if verdict}

    def read(self, question: ScoredText) -> Verdict | None:
        """A stored verdict; None when there is no usable one, or a malformed one."""
        found = self._stored(question)
        return None if found and malformed(found) else found

    def _stored(self, question: ScoredText) -> Verdict | None:
        entry = self.store.read_pointer(self._path(question))
        if entry is None or entry != self._sealed(entry) or entry.get("score") != question.score:
            return None
        if entry.get("text") != question.text or entry.get("judge") != self.judge:
            return None
        try:
            return Verdict.model_validate({name: entry.get(name) for name in Verdict.model_fields})
        except ValidationError:
            return None

    def write(self, question: ScoredText, verdict: Verdict, answer: str | None) -> Verdict:
        """Keep a verdict and the judge's own words; returns the first process's, which counts for all."""
        entry = self._sealed(
            {
                "judge": self.judge,
                **question._asdict(),
                **verdict.model_dump(),
                "answer": answer,
            }
        )
        path = self._path(question)
        if self.store.create_pointer(path, entry):
            return verdict
        first = self.read(question)
        if first is None:
            self.store.write_pointer(path, entry)
        return first or verdict

    def _path(self, question: ScoredText) -> str:
        return f"judge_cache/{_digest(self.judge)}/{_digest(list(question))}.json"

    def _sealed(self, entry: dict[str, Any]) -> dict[str, Any]:
        content = {name: value for name, value in entry.items() if name != "sha256"}
        return {**content, "sha256": _digest(content)}


def cache_of(store: ArtifactStore, config: OpenAIJudge, rubric: Rubric, criterion: Criterion) -> VerdictCache:
    """The verdicts of a judge: all settings that are in the keys of its stages, the rubric and the form of its answers.

    The settings are taken as the keys take them, so a new setting is in both.
    """
    settings = key_fields(config)
    rubric_digest, response_format = rubric.digest(criterion), _digest(RESPONSE_FORMAT)
    return VerdictCache(store, {**settings, "rubric_digest": rubric_digest, "response_format": response_format})


def _digest(value: Any) -> str:
    return sha256(canonical_json(value).encode()).hexdigest()
