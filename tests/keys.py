"""Which recipe field changes the key of which stage, for the tables of fields that the tests of the methods hold."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline_lib.config.base import BaseRecipe
from tasks.stage.plan import Planned, plan


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def planned(flows: Sequence[Any], kind: type[BaseRecipe], fields: dict[str, Any]) -> dict[str, Planned]:
    """All stages that the flows of a recipe ask for, by flow and label; nothing is computed.

    Reports and comparisons are left out, because they show the whole recipe.
    """
    recipe = kind.model_validate(fields)
    return {
        f"{flow.name} {stage.label}": stage
        for flow in flows
        for stage in plan(flow.fn, recipe)
        if stage.ref.stage not in ("report", "compare")
    }


def changed(kind: type[BaseRecipe], fields: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """All fields of a recipe, with another value of one, named with dots."""
    fields = kind.model_validate(fields).model_dump()
    *parents, leaf = field.split(".")
    section = fields
    for parent in parents:
        section = section[parent]
    assert value is None or section[leaf] != value, f"{field}: give a value that differs from the default"
    section[leaf] = value
    return fields


def changed_stages(before: dict[str, Planned], after: dict[str, Planned]) -> set[str]:
    """The stages that have other arguments of their own, keys of earlier artifacts aside.

    Also asserts that what a key holds is all that decides it.
    """
    both = before.keys() & after.keys()
    assert all((before[at].ref == after[at].ref) == (before[at].arguments == after[at].arguments) for at in both)
    return {before[at].ref.stage for at in both if own(before[at].arguments) != own(after[at].arguments)}


def own(value: Any) -> Any:
    """A stage's arguments without the keys of earlier artifacts, so that each field shows where it is read."""
    if isinstance(value, dict):
        return {name: "" if name == "key" and "stage" in value else own(item) for name, item in value.items()}
    return [own(item) for item in value] if isinstance(value, list) else value
