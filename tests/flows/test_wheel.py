"""The wheel: it has every file of the packages, and works in an empty folder, away from the checkout.

The whole demo from the wheel is part of `make test-wheel`.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.once import made_once

ROOT = Path(__file__).parents[2]
PACKAGES = ("whyscore", "pipeline_lib", "tasks", "flows", "deployments", "recipes")

WATCH = '''
"""Imported when Python starts, in every process: writes what is opened or imported of the checkout."""

import atexit
import sys

CHECKOUT, PACKAGES, LOG = {checkout!r}, {packages!r}, {log!r}


def note(text):
    with open(LOG, "a") as file:
        file.write(text + "\\n")


def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        name = arguments[0]
        if name.startswith(tuple(CHECKOUT + package + "/" for package in PACKAGES)):
            note("opened " + name)


def modules():
    for name, module in list(sys.modules.items()):
        found = getattr(module, "__file__", None)
        if name.split(".")[0] in PACKAGES and found and not found.startswith({site!r}):
            note(f"imported {{name}} from {{found}}")


sys.addaudithook(watch)
atexit.register(modules)
'''

COMMANDS = """
import sys
from pathlib import Path

from pipeline_lib.demo.recipes import demo_recipe, methods_with_demo
from whyscore.cli import app

table = demo_recipe("self_improve", Path("whyscore-data"), 0, {}).data.table
for command in (
    ["plan", "recipes/self_improve/demo.yaml", "--set", "name=demo-seed-0"],
    ["new", table, "--yes", "--model", "bundled", "--score-column", "score", "--out", "own.yaml"],
    ["plan", "own.yaml"],
):
    app(command, standalone_mode=False)
print("demos of", *methods_with_demo())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution; both by the build backend that pyproject.toml names."""

    def make(folder: Path) -> None:
        source = folder / "source"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        build = "from setuptools import build_meta; build_meta.build_sdist('..')"
        run(source, sys.executable, "-c", build)
        (distribution,) = folder.glob("*.tar.gz")
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(folder, *pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", str(distribution))

    (found,) = made_once(tmp_path_factory, "wheel", make).glob("*.whl")
    return found


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A folder with the installed wheel in `site`, and an empty folder `empty`."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(tmp_path, *pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", "site", str(wheel))
    (tmp_path / "empty").mkdir()
    (tmp_path / "watch").mkdir()
    watch = WATCH.format(checkout=f"{ROOT}/", packages=PACKAGES, site=f"{tmp_path}/site/", log=str(tmp_path / "log"))
    (tmp_path / "watch" / "sitecustomize.py").write_text(watch)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """What the command prints; the test fails with it when the command fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    environment |= {"PREFECT_HOME": str(folder.parent / "prefect")}
    if (folder.parent / "site").exists():
        environment["PYTHONPATH"] = os.pathsep.join(str(folder.parent / name) for name in ("watch", "site"))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_every_file_of_the_packages(wheel: Path) -> None:
    in_checkout = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == in_checkout


def test_commands_work_in_an_empty_folder(installed: Path) -> None:
    empty = installed / "empty"
    assert "demo" in run(empty, str(installed / "site" / "bin" / "whyscore"), "--help")
    said = run(empty, sys.executable, "-P", "-c", COMMANDS)
    assert "train_score" in said
    assert "demos of self_improve evo_quality self_judge stic" in said
    assert not (installed / "log").exists(), (installed / "log").read_text()


@pytest.mark.only_with("--demo-size")
@pytest.mark.timeout(3600)
def test_the_demo_runs_in_an_empty_folder(installed: Path) -> None:
    empty, whyscore = installed / "empty", str(installed / "site" / "bin" / "whyscore")
    said = run(empty, whyscore, "demo")
    assert "Report: " in said
    assert (empty / "whyscore-data/store/runs/demo-seed-0/report/report.html").is_file()
    shown = ("recipes/self_improve/demo.yaml", "--set", "name=demo-seed-0")
    image = next((empty / "whyscore-data/demo/scores/seed-0").rglob("*.png"))
    assert "predicted" in run(empty, whyscore, "predict", *shown, str(image), "--export", "model")
    assert (empty / "model" / "whyscore_base.py").is_file()
    assert not (installed / "log").exists(), (installed / "log").read_text()
