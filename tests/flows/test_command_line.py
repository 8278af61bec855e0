"""The command line as a user meets it."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from tests.small_run import write_small_recipe
from whyscore.cli import app


@pytest.fixture
def recipe(tmp_path):
    return write_small_recipe(tmp_path, tmp_path / "store")


def doctor(recipe, *overrides):
    arguments = ["doctor", str(recipe)]
    for override in overrides:
        arguments += ["--set", override]
    return CliRunner().invoke(app, arguments)


HELP = """
import sys

from whyscore.cli import app

try:
    app(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def test_help_is_quick_and_light():
    code = (
        "import sys, whyscore.cli, pipeline_lib, pipeline_lib.config.load, pipeline_lib.demo;"
        "heavy = {'torch', 'prefect', 'transformers', 'pandas', 'sklearn'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    answer = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "doctor" in answer.stdout
    modules = answer.stderr.split()
    assert "numpy" not in modules and "pydantic" not in modules
    assert len(modules) < 400  # a third of a second; 330 as this is written, 1,200 with what a recipe needs


def test_the_version_is_that_of_the_package():
    answer = CliRunner().invoke(app, ["--version"])
    assert (answer.exit_code, answer.output) == (0, f"whyscore {version('whyscore')}\n")


def test_doctor_is_content_with_a_good_recipe(recipe):
    answer = doctor(recipe)
    assert answer.exit_code == 0, answer.output
    assert "Ready" in answer.output


def test_doctor_finds_everything_at_once(recipe, tmp_path):
    images = tmp_path / "data" / "images"
    (images / "train-00000.jpg").unlink()
    (images / "val-00001.jpg").write_text("no picture")
    blocked = tmp_path / "file"
    blocked.write_text("a file where the store should be")
    answer = doctor(recipe, f"runtime.store={blocked}/store", f"model.id={tmp_path}")
    assert answer.exit_code == 1
    assert "train-00000.jpg: No such file" in answer.output
    assert "val-00001.jpg: not an image file" in answer.output
    assert "max_unreadable_fraction" in answer.output
    assert "cannot be written" in answer.output
    assert "no config.json" in answer.output
    assert "4 problem(s)" not in answer.output.splitlines()[0]
    assert "3 problem(s)" in answer.output


def test_an_unknown_field_is_named_with_those_that_exist(recipe):
    answer = doctor(recipe, "training.learning_rat=1")
    assert answer.exit_code == 1
    assert "training.learning_rat: unknown field" in answer.output
    assert "learning_rate" in answer.output


def test_unreadable_images_under_the_limit_are_left_out_and_counted(recipe, tmp_path):
    (tmp_path / "data" / "images" / "train-00000.jpg").unlink()
    answer = doctor(recipe, "data.max_unreadable_fraction=0.05")
    assert answer.exit_code == 0, answer.output
    assert "79 readable, 1 left out" in answer.output


def test_a_run_on_bad_input_ends_with_a_sentence_and_no_traceback(recipe, tmp_path, prefect_server, forks):
    table = tmp_path / "data" / "scores.csv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[1], "nan?", 1)
    table.write_text("\n".join(lines))
    log, environment = tmp_path / "log", os.environ | {"PREFECT_API_URL": prefect_server}
    assert forks.start("tests.command_line", "run", recipe, environment=environment, log=log).wait() == 1
    said = log.read_text()
    assert "1 score(s)" in said and "train-00002.jpg" in said
    assert "Traceback" not in said


def test_verify_tells_of_a_changed_byte(finished, tmp_path):
    import shutil

    shutil.copytree(finished[0] / "store", tmp_path / "copy")
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "copy")]).exit_code == 0
    file = next((tmp_path / "copy" / "steps" / "ties_merge").rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    answer = CliRunner().invoke(app, ["verify", str(tmp_path / "copy")])
    assert answer.exit_code == 1
    assert "adapter_model.safetensors has sha256" in answer.output
