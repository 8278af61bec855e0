"""Types say what a stage takes, and mypy reads them: a wrong call of a stage is found before anything runs.

One run of mypy with the project's own configuration, over the whole project too, so that `make test` runs mypy once and
beside the other tests: about 10 s where its cache is warm, a minute where it is not.
"""

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tasks
from tasks.stage import Stage

ROOT = Path(__file__).parents[2]
FLOW = (ROOT / "flows" / "self_improve.py").read_text(encoding="utf-8")
CALL = "score = train_score(at, dpo_job(recipe.training, inputs, seed, iteration), score_pairs, reference)"

CALLS = """
from pipeline_lib.config.base import ImageData
from tasks.common.list_images import list_images
from tasks.stage import At


def call(at: At, data: ImageData) -> None:
    list_images(at, data, 0, "digest")
    list_images(at, data, "0", "digest")  # arg-type
    list_images(at, data, 0)  # call-arg
    list_images(at, data, 0, "digest", 5)  # call-arg
    list_images(at, data, 0, fingerprnt="digest")  # call-arg
    list_images(data, data, 0, "digest")  # arg-type
"""


def stages() -> list[str]:
    """`tasks.<package>.<module>` of every stage, which its module is named by."""
    found = []
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        name = module.name.rpartition(".")[2]
        if isinstance(getattr(importlib.import_module(module.name), name, None), Stage):
            found.append(module.name)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each file, and under `project` of those that the configuration names."""
    folder = tmp_path_factory.mktemp("types")
    assert FLOW.count(CALL) == 1
    imports = "\n".join(f"import {name}" for name in stages())
    shown = "\n".join(f"reveal_type({name}.{name.rpartition('.')[2]})" for name in stages())
    files = {
        "calls.py": CALLS,
        "flow.py": FLOW,
        "broken_flow.py": FLOW.replace(CALL, CALL.replace("score_pairs, reference", "recipe, reference")),
        "shown.py": f"{imports}\n{shown}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    command += [*project, *(str(folder / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    found = {name: [line.partition(f"{name}:")[2] for line in lines if f"/{name}:" in line] for name in files}
    return found | {"project": [line for line in lines if not any(f"/{name}:" in line for name in files)]}


def test_the_project_has_no_type_error(said: dict[str, list[str]]) -> None:
    assert said["project"] == []


def test_a_wrong_a_missing_and_a_surplus_argument_of_a_stage_are_found(said: dict[str, list[str]]) -> None:
    expected = {
        number: line.partition("# ")[2] for number, line in enumerate(CALLS.splitlines(), start=1) if "# " in line
    }
    found = [(int(line.partition(":")[0]), line) for line in said["calls.py"] if ": error: " in line]
    assert {number for number, _ in found} == set(expected)
    assert all(f"[{expected[number]}]" in line for number, line in found)


def test_the_calls_of_a_flow_are_checked(said: dict[str, list[str]]) -> None:
    assert said["flow.py"] == []
    (line,) = said["broken_flow.py"]
    assert "[arg-type]" in line and "ArtifactRef" in line


def test_every_stage_has_typed_arguments(said: dict[str, list[str]]) -> None:
    types = [match[1] for line in said["shown.py"] if (match := re.search(r'Revealed type is "(.*)"', line))]
    assert len(types) == len(stages()) > 15
    assert [shown for shown in types if not re.fullmatch(r"tasks\.stage\.decorator\.Stage\[\[.*\]\]", shown)] == []
    assert [shown for shown in types if re.search(r"\bAny\b", shown)] == []
