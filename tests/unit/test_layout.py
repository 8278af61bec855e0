"""The rooms of the house: imports point down only, and no room knows a method that it should not know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ORDER = (
    *(
        "errors",
        "addresses",
        "progress",
        "sampling",
        "tables",
        "store",
        "config",
        "device",
        "openai_server",
        "trackers",
        "data",
    ),
    *("vlm", "train", "metrics", "judges", "report", "methods", "use", "demo", "checks", "testing"),
)
"""The rooms of pipeline_lib, each of which may import those before it."""

FLOORS = ("pipeline_lib", "tasks", "flows", "deployments", "whyscore")
"""Deployments and the command line are on top; the latter offers the former."""


def modules(floor: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / floor).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(module: ast.Module) -> Iterator[str]:
    """Full names of what is imported anywhere in a module, inside functions too."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_every_room_has_its_place() -> None:
    rooms = {room(name) for name, _ in modules("pipeline_lib")} - {""}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    wrong = []
    for name, module in modules(floor):
        for other in imported(module):
            first = other.split(".")[0]
            if first in (*above, "tests", "bench") or (floor == "pipeline_lib" and first == "prefect"):
                wrong.append(f"{name} -> {other}")
            inside = floor == first == "pipeline_lib" and room(name) and other != "pipeline_lib.methods"
            if inside and ORDER.index(room(name)) < ORDER.index(room(other)):
                wrong.append(f"{name} -> {other}")
    assert wrong == []


def test_a_method_imports_no_other_and_a_shared_room_imports_none() -> None:
    wrong = []
    for floor, shared in (("pipeline_lib", None), ("tasks", ("stage", "common"))):
        for name, module in modules(floor):
            own = name.split(".")[2] if name.startswith("pipeline_lib.methods.") else name.split(".")[1:2]
            for other in imported(module):
                parts = other.split(".")
                if floor == "tasks":
                    if own and own[0] in shared and other.startswith("pipeline_lib.methods."):
                        wrong.append(f"{name} -> {other}")
                    method = parts[1] if parts[0] == "tasks" and len(parts) > 1 and parts[1] not in shared else None
                    if method and [method] != own:
                        wrong.append(f"{name} -> {other}")
                elif {name[:21], other[:21]} == {"pipeline_lib.methods."} and parts[2] != own:
                    wrong.append(f"{name} -> {other}")
    assert wrong == []


def test_the_ground_does_not_know_the_form_of_an_answer() -> None:
    """`#Score` and `#Explain` are self_improve's."""
    generic = ("store", "tables", "config", "data", "vlm", "train", "metrics", "judges", "report")
    found = [
        path.relative_to(ROOT).as_posix()
        for part in generic
        for path in (ROOT / "pipeline_lib" / part).rglob("*.py")
        if any(tag in path.read_text(encoding="utf-8") for tag in ("#Score", "#Explain"))
    ]
    assert found == []


def test_a_stage_has_a_module_of_its_name() -> None:
    """The GPU pool finds a stage by its module: a second one there would be computed as the first, or not at all."""
    wrong, count = [], 0
    for name, module in modules("tasks"):
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and any("stage(" in ast.unparse(part) for part in node.decorator_list):
                count += 1
                wrong += [f"{name}.{node.name}"] if name.rpartition(".")[2] != node.name else []
    assert wrong == [] and count > 30
