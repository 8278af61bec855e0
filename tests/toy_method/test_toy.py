"""A fifth method, added as files of its own to a copy of the repository: it runs, resumes, is deployed and collected.

The files beside this one are laid over the copy; nothing else differs from the repository.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.config.load import method_names
from pipeline_lib.store import ArtifactStore
from tests.crash.conftest import digests
from tests.forked import ForkServer
from whyscore.cli import app

ROOT, TOY = Path(__file__).parents[2], Path(__file__).parent
pytestmark = pytest.mark.timeout(1800)  # all that the tests share is run before the first

STAGES = ["list_images", "sample_answers", "keep_answers", "train_kept", "report"]


class Copy(NamedTuple):
    """The repository with the toy in it, and what was run there."""

    root: Path
    folder: Path  # photographs, recipes, stores
    statuses: list[int]
    logs: list[str]  # of each command
    journals: list[list[str]]  # addresses that each of the runs to be killed began to publish


RUN, DEPLOYED, FORMS, SAMPLING, TRAINING, RESUMED, STATUS, CONTROL, DOCTOR, CHECK_DATA, EXPORT = range(11)
"""The commands, in order."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, libraries: ForkServer) -> Copy:
    folder = tmp_path_factory.mktemp("toy")
    root = folder / "whyscore"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():  # one that was removed is still listed until the next commit
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    for part in ("pipeline_lib", "tasks", "flows", "recipes"):
        shutil.copytree(TOY / part, root / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    (folder / "photos").mkdir()
    for at in range(8):
        noise = np.random.default_rng(at).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"{at}.png")
    (folder / "photos" / "notes.txt").write_text("no photograph")
    recipes = [_write_recipe(root, folder, name) for name in ("run", "killed", "control")]
    journals = [folder / f"journal-{at}.txt" for at in range(3)]
    moments = ("after /shards/", "step 3", "never")
    commands = [
        ["whyscore", "run", str(recipes[0])],
        ["deployed", "toy", {"recipe": "demo", "overrides": {"name": "toy-demo", **_fields(folder, "run")}}],
        ["forms", "toy", "self_improve", "toy_control", "evo_quality_predict"],
        *(["die", str(recipes[1]), moment, str(at)] for moment, at in zip(moments, journals, strict=True)),
        ["whyscore", "status", str(recipes[1])],
        ["whyscore", "control", str(recipes[2])],
        ["whyscore", "doctor", str(recipes[0])],
        ["whyscore", "check-data", str(recipes[0])],
        ["whyscore", "predict", str(recipes[0]), "--export", str(folder / "exported")],
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    (folder / "logs").mkdir()
    done = libraries.start(
        "tests.toy_method.in_turn", folder / "commands.json", folder / "logs",
        folder=root,  # whose packages come before the installed ones
        environment=os.environ | {"PREFECT_API_URL": prefect_server},
        log=folder / "log",
    ).wait()  # fmt: skip
    said = (folder / "log").read_text()
    assert done == 0, said[-3000:]
    statuses = json.loads(said.splitlines()[-1])
    logs = [(folder / "logs" / f"{at}.txt").read_text() for at in range(len(commands))]
    return Copy(root, folder, statuses, logs, [at.read_text().split() for at in journals])


def _fields(folder: Path, name: str) -> dict[str, str]:
    return {"data.table": str(folder / "photos"), "runtime.store": str(folder / f"store-{name}")}


def _write_recipe(root: Path, folder: Path, name: str) -> Path:
    fields: dict[str, Any] = yaml.safe_load((root / "recipes/toy/demo.yaml").read_text())
    for field, value in _fields(folder, name).items():
        section, _, leaf = field.partition(".")
        fields[section][leaf] = value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_a_new_method_runs_and_its_results_are_printed(copy: Copy) -> None:
    assert copy.statuses[RUN] == 0, copy.logs[RUN][-3000:]
    assert [_computed(copy.logs[RUN], stage) for stage in STAGES] == [True] * len(STAGES)
    assert "8 of 24 answers were kept." in copy.logs[RUN]
    page = copy.folder / "store-run/runs/toy-demo/report/report.html"
    assert f"Report: {page}" in copy.logs[RUN]
    html = page.read_text()
    assert html.count("<section>") == 3 and html.count("data:image/jpeg") == 4 and "<svg" in html
    store = ArtifactStore(str(copy.folder / "store-run"))
    (log,) = store.children("steps/train_kept")
    assert store.read_table(f"steps/train_kept/{log}", "training_log")["step"].to_pylist() == [1, 2, 3, 4]
    (images,) = store.children("steps/list_images")
    listed = store.read_table(f"steps/list_images/{images}", "images")
    assert listed["image"].to_pylist() == [f"{at}.png" for at in range(8)] and "score" not in listed.column_names


def test_its_deployed_flow_takes_all_from_the_store_and_shows_its_stages(copy: Copy, prefect_server: str) -> None:
    assert copy.statuses[DEPLOYED] == 0, copy.logs[DEPLOYED][-3000:]
    assert [_computed(copy.logs[DEPLOYED], stage) for stage in STAGES] == [False] * len(STAGES)
    named = {"name": {"any_": ["toy-demo"]}}
    runs = _ask(prefect_server, "flow_runs", sort="START_TIME_ASC", flow_runs=named)
    cards = [
        {item["key"]: item["data"] for item in _ask(prefect_server, "artifacts", artifacts=of_run)}
        for of_run in ({"flow_run_id": {"any_": [run["id"]]}} for run in runs[:2])
    ]
    for found, state in zip(cards, ("computed", "cached"), strict=True):
        stages = {f"toy-demo-{stage.replace('_', '-')}" for stage in STAGES if stage != "report"}
        assert stages <= set(found)
        assert all(f"**{state}**" in found[key] for key in stages)
    assert "| toy_answers | 24 |" in cards[0]["toy-demo-sample-answers"]
    assert "question:" in cards[0]["toy-demo-recipe"]


def test_its_deployment_and_its_form_are_generated(copy: Copy) -> None:
    assert copy.statuses[FORMS] == 0, copy.logs[FORMS][-3000:]
    said = json.loads(copy.logs[FORMS].splitlines()[-1])
    found = {item["name"]: item for item in said["deployments"]}
    others = {"ablation", "seeds", "predict", "gpu_stage", "watch_base_model"}
    methods = ["toy", *method_names()]
    controls = {f"{method}_control" for method in methods}
    assert set(found) == {*methods, *controls, "evo_quality_predict", *others}
    assert found["evo_quality_predict"]["entrypoint"] == "deployments/deployed.py:evo_quality_predict"
    of_predictions = said["forms"]["evo_quality_predict"]
    assert {"recipe", "images", "out", "iteration", "store"} <= set(of_predictions["properties"])
    assert "EvoQualityRecipe" in of_predictions["definitions"] and of_predictions["required"] == ["recipe", "images"]
    assert found["toy_control"]["entrypoint"] == "deployments/deployed.py:toy_control"
    assert found["toy"]["entrypoint"] == "deployments/deployed.py:toy"
    assert {**found["toy"], "name": "", "entrypoint": ""} == {**found["self_improve"], "name": "", "entrypoint": ""}
    assert said["forms"]["toy_control"]["definitions"].keys() == said["forms"]["toy"]["definitions"].keys()
    form, of_paper = (said["forms"][method]["definitions"] for method in ("toy", "self_improve"))
    assert form["ShippedRecipe"].get("enum", [form["ShippedRecipe"].get("const")]) == ["demo"]
    assert {"question", "answers", "training"} <= set(form["ToyRecipe"]["properties"])
    assert form["Answers"]["properties"]["count"]["minimum"] == 1
    assert "score_column" not in form["ImageData"]["properties"] and "SelfImproveRecipe" not in form
    assert "paper/ava_llava-1.5-7b" in of_paper["ShippedRecipe"]["enum"] and "ToyRecipe" not in of_paper
    assert "score_column" in of_paper["Data"]["properties"]


def test_killed_in_sampling_and_in_training_it_ends_with_the_same_digests(copy: Copy) -> None:
    assert copy.statuses[SAMPLING:STATUS] == [-signal.SIGKILL, -signal.SIGKILL, 0], copy.logs[RESUMED][-3000:]
    assert digests(copy.folder / "store-killed") == digests(copy.folder / "store-run")
    sampled, trained, resumed = copy.journals
    first = [address for address in sampled if "/shards/" in address]
    rest = [address for address in trained if "/shards/" in address]
    assert (len(first), len(rest)) == (1, 1) and first != rest
    assert "going on from step 2" in copy.logs[RESUMED]
    assert {address.split("/")[1] for address in resumed} == {"train_kept", "report"}


def test_its_control_is_discovered_and_learns_from_other_data(copy: Copy) -> None:
    assert copy.statuses[CONTROL] == 0, copy.logs[CONTROL][-3000:]
    assert [_computed(copy.logs[CONTROL], stage) for stage in STAGES] == [True] * len(STAGES)
    own = {stage: _computed(copy.logs[CONTROL], f"control {stage}") for stage in STAGES if stage != "list_images"}
    assert own == {"sample_answers": False, "keep_answers": True, "train_kept": True, "report": True}
    store = ArtifactStore(str(copy.folder / "store-control"))
    kept = [
        [store.read_table(f"steps/keep_answers/{key}", "toy_kept")["chosen_tokens"].to_pylist()]
        for key in store.children("steps/keep_answers")
    ]
    assert len(kept) == 2 and kept[0] != kept[1]
    assert store.children("runs") == ["toy-demo", "toy-demo-control"]


def test_it_has_the_common_checks_and_no_export(copy: Copy) -> None:
    assert copy.statuses[DOCTOR] == 0, copy.logs[DOCTOR][-3000:]
    checked = [line.split()[:2] for line in copy.logs[DOCTOR].splitlines() if line.startswith("ok ")]
    assert checked == [["ok", what] for what in ("recipe", "store", "table", "images", "model", "memory")]
    assert copy.statuses[CHECK_DATA] == 0 and "rows    8: " in copy.logs[CHECK_DATA]
    assert copy.statuses[EXPORT] == 1 and "this is for recipes of self_improve" in copy.logs[EXPORT]


def test_status_tells_of_it_and_gc_removes_it_when_forgotten(copy: Copy, tmp_path: Path) -> None:
    assert "toy-demo: finished\n" in copy.logs[STATUS]
    shutil.copytree(copy.folder / "store-killed", tmp_path / "store")
    store = ArtifactStore(str(tmp_path / "store"))

    def parts() -> list[Path]:
        return [path for kind in ("shards", "checkpoints") for path in tmp_path.glob(f"store/steps/*/*/{kind}")]

    def gc(*arguments: str) -> None:
        answer = CliRunner().invoke(app, ["gc", "--days", "0", "--apply", "--store", store.root, *arguments])
        assert answer.exit_code == 0, answer.output

    assert [path.name for path in parts()] == ["shards", "checkpoints"]
    gc()
    assert parts() == [] and sorted(store.children("steps")) == sorted(STAGES)
    gc("--forget", "toy-demo")
    left = [path.relative_to(tmp_path / "store") for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} <= {"image_digests"}  # they spare the next run the reading of every image


def _computed(log: str, stage: str) -> bool:
    (line,) = [line for line in log.splitlines() if re.search(rf"  {stage}: (computing|cached) \[", line)]
    return "computing" in line


def _ask(api: str, what: str, **body: object) -> list[dict[str, Any]]:

    request = urllib.request.Request(
        f"{api}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found
