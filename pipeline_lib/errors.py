"""Errors that a person can act on: what was expected, what was found, what to do next."""


class WhyScoreError(Exception):
    """Base of every error that is the input's or the environment's fault rather than a bug.

    The message is complete by itself; the command line prints it without a traceback.
    """


class RecipeError(WhyScoreError):
    """A recipe with a wrong field or combination of fields."""


class DataError(WhyScoreError):
    """An image table or its images are not usable; the message lists every problem found, not only the first."""


class ModelError(WhyScoreError):
    """A model directory, processor, tokenizer or adapter that the pipeline cannot use correctly."""


class StoreError(WhyScoreError):
    """The artifact store cannot be read or written, or holds damaged files."""


class LostArtifactError(StoreError):
    """An artifact is not in the store, or was damaged there and was removed; a run computes it again."""

    def __init__(self, address: str, why: str):
        super().__init__(address, why)
        self.address, self.why = address, why

    def __str__(self) -> str:
        return self.why


class S3Error(StoreError):
    """An S3 server refused a request, or did not answer in time; `code` is the server's or the client's name for it."""

    def __init__(self, action: str, path: str, code: str, why: str):
        super().__init__(action, path, code, why)
        self.action, self.path, self.code, self.why = action, path, code, why

    def __str__(self) -> str:
        return f"S3, {self.action} {self.path}: {self.code}: {self.why}"


class JudgeError(WhyScoreError):
    """The judge model's server failed for good or the budget is spent; the verdicts so far are in the store."""


class EngineError(WhyScoreError):
    """The generation server failed for good, or did not pass a check; finished shards are in the store."""


class Interrupted(WhyScoreError):
    """Training was asked to stop; a checkpoint is in the store and the next run resumes from it."""
