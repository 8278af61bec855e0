"""The plan of a run as text: each stage with its key, and why it differs from the key of the last run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.runs import last_pointers

_SHOWN = 3
_ABSENT = object()


class Planned(NamedTuple):
    """A call of a stage: its artifact, its arguments, and why the store lacks the artifact (None: it has it)."""

    label: str
    ref: ArtifactRef
    arguments: dict[str, Any]
    missing: str | None
    run: str | None = None  # whose folder points to it
    role: str | None = None  # in that folder


def plan_text(store: ArtifactStore, stages: Sequence[Planned], notes: Sequence[str] = ()) -> str:
    """The plan as a table for a terminal, with a line below each stage whose key its run's last pointers do not have.

    Such a line names the arguments that differ, the old value and the new one. `notes` are further lines at the end.
    """
    before = {run: last_pointers(store, run) for run in {stage.run for stage in stages if stage.run}}
    width = max((len(stage.label) for stage in stages), default=0)
    lines = []
    for stage in stages:
        state = "cached" if stage.missing is None else f"to compute: {stage.missing}"
        lines.append(f"{stage.label:<{width}}  {stage.ref.key[:8]}  {state}")
        old = before[stage.run].get(stage.role or "") if stage.run else None
        if old is not None and old != stage.ref:
            lines.append(f"{'':<{width}}  was {old.key[:8]}: {_why(store, old, stage)}")
    missing = sum(stage.missing is not None for stage in stages)
    counts = f"{len(stages)} stages, {len(stages) - missing} cached, {missing} to compute"
    return "\n".join([*lines, "", counts, *notes])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of the arguments that differ, each with both values; an artifact counts as one value."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name} {_shown(before.get(name, _ABSENT))} -> {_shown(after.get(name, _ABSENT))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


def _why(store: ArtifactStore, old: ArtifactRef, stage: Planned) -> str:
    if old.stage != stage.ref.stage:
        return f"made by stage {old.stage}"
    manifest = store.lookup(old.address)
    if not isinstance(manifest, Manifest):
        return "it is not in the store any more, so the reason is not known"
    found = differences(manifest.arguments, stage.arguments)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more if found else "the stage has another version"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value.keys() != {"stage", "key"}:
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from _leaves(item, f"{name}[{at}]")
    else:
        yield name, value


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    if isinstance(value, dict):
        return f"{value['stage']} {value['key'][:8]}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}.."
