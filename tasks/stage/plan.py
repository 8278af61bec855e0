"""The stages of a run, found by running its flow without computing anything."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pipeline_lib.checks.plan import Planned
from pipeline_lib.store import ArtifactRef, Manifest, Miss


class PlanEnds(Exception):
    """Raised where a flow needs a missing result to decide what follows."""


_planned: ContextVar[list[Planned] | None] = ContextVar("planned", default=None)


def plan(flow: Callable[..., object], *arguments: Any) -> list[Planned]:
    """The stages that a flow asks for, in order, up to the first missing result that decides what follows.

    `flow` is the function of a flow, called outside of Prefect. Nothing is computed, and nothing is written.
    """
    return plan_so_far(flow, *arguments)[0]


def plan_so_far(flow: Callable[..., object], *arguments: Any) -> tuple[list[Planned], bool]:
    """The same, and whether the plan is whole: false when a missing result decides what follows."""
    with _planning() as planned:
        try:
            flow(*arguments)
        except PlanEnds:
            return planned, False
        return planned, True


def is_planning() -> bool:
    """Whether stages are planned instead of computed."""
    return _planned.get() is not None


def note(label: str, ref: ArtifactRef, arguments: dict[str, Any], found: Manifest | Miss) -> None:
    """Add the call of a stage to the plan."""
    _plan().append(Planned(label, ref, arguments, found.reason if isinstance(found, Miss) else None))


def note_role(run: str, role: str, ref: ArtifactRef) -> None:
    """Note in the plan which role an artifact has in a run; the first one counts."""
    planned = _plan()
    planned[:] = [
        stage._replace(run=run, role=role) if stage.ref == ref and stage.role is None else stage for stage in planned
    ]


def _plan() -> list[Planned]:
    planned = _planned.get()
    assert planned is not None
    return planned


@contextmanager
def _planning() -> Iterator[list[Planned]]:
    planned: list[Planned] = []
    token = _planned.set(planned)
    try:
        yield planned
    finally:
        _planned.reset(token)
