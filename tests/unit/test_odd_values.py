"""No value of a recipe field or of an option ends in a traceback, tells a secret, or does something by accident."""

import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe, method_names, parse_recipe, read_yaml, recipe_class
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.errors import RecipeError, WhyScoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactStore
from tests.small_run import write_small_recipe
from whyscore.cli import app
from whyscore.commands import models, runs

ROOT = Path(__file__).parents[2]
SECRET = "s3://KEY:hidden-5@bucket/x"
VALUES: list[Any] = [
    None, True, -1, 0, 1e999, float("nan"), 10**400, "", " ", "\0", "\udcff", "x" * 5000, "/", "..", "~nobody/x", "s3://",
    SECRET, "http://host/x?key=hidden-5", "http://[x", [], [None], {}, {"a": 1}, {1: {}}, [{}], {"a": {"a": {}}},
]  # fmt: skip
NOT_YAML = ["@x", "{", "[[[", "'", "%", "*a", "!!int x", "!!float x", "!!timestamp x", "!!binary x", "<<: x",
            "{[a]: b}", "!!python/object:os.system x", "\0", "\udcff", "9" * 5000]  # fmt: skip
OPTIONS = ["", " ", "@x", "absent", "\udcff", "x" * 5000, "/", "~nobody/x", SECRET, "http://host/x", "/dev/null",
           "small.yaml/x", "-1", "1e999", "x=y", "{"]  # fmt: skip
BASE = {"predict": ["small.yaml", "data/images"], "seeds": ["small.yaml", "--seeds", "1,2"], "verify": ["absent"]}
NONE_GIVEN = ("status", "demo", "deploy", "gc")


def fields_of(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from (f"{name}.{inner}" for inner in fields_of(kind))


NO_FIELDS = ("", ".", "data..table", "data.table.deeper", "model.from_run.deeper", "other")
FIELDS = [(name, field) for name in method_names() for field in (*fields_of(recipe_class(name)), *NO_FIELDS)]


@pytest.mark.parametrize(("method", "field"), FIELDS)
def test_a_recipe_field_takes_any_value_or_says_what_is_wrong(method: str, field: str) -> None:
    fields = read_yaml((ROOT / "recipes" / method / "demo.yaml").read_text(), "demo.yaml")
    for value in VALUES:
        try:
            parse_recipe(fields, {field: value})
        except RecipeError as error:
            assert len(str(error)) < 5000 and "hidden-5" not in str(error)
        else:
            assert "hidden-5" not in str(value)


@pytest.mark.parametrize("text", NOT_YAML)
def test_what_is_no_yaml_is_said_in_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--set data\.images is not valid YAML.*in quotes"):
        read_yaml(text, "--set data.images")
    (tmp_path / "r.yaml").write_bytes(f"name: {text}".encode(errors="surrogateescape"))
    with pytest.raises(RecipeError, match=r"r\.yaml is not valid YAML"):
        load_recipe(tmp_path / "r.yaml")


def test_a_secret_in_an_address_is_refused_and_not_shown(tmp_path: Path) -> None:
    for address in (SECRET, "s3://KEY@bucket", "s3://bucket/x?aws_secret=hidden-5", "s3://KEY:hidden-5"):
        with pytest.raises(WhyScoreError, match="AWS_SECRET_ACCESS_KEY") as caught:
            ArtifactStore(address)
        assert address.removeprefix("s3://") not in str(caught.value)
        with pytest.raises(ValidationError) as invalid:  # what Prefect shows of a parameter
            SelfImproveRecipe.model_validate({"name": "r", "data": {"table": address}, "model": {"id": "bundled"}})
        assert address not in str(invalid.value)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ("data.table", "data.images", "data.split_lists.test", "model.id", "prompt", "runtime.store",
             "runtime.pixel_cache", "runtime.generation_server.adapters")  # fmt: skip
    (tmp_path / "r.yaml").write_text("name: r\ndata: {table: ~/t.csv}\nmodel: {id: ~/m}\n")
    recipe: Any = load_recipe(tmp_path / "r.yaml", {path: f"~/{path}.txt" for path in paths})
    for path in paths:
        assert functools.reduce(getattr, path.split("."), recipe) == str(tmp_path / f"{path}.txt")
    assert load_recipe(tmp_path / "r.yaml").data.table == str(tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    write_small_recipe(tmp_path, Path("~/store"))
    answer = CliRunner().invoke(app, ["status", "--store", "~/store"])
    assert f"Store {tmp_path}/store" in answer.output
    assert not (tmp_path / "~").exists()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe and its data; commands stop before they start Prefect."""

    def stop() -> None:
        raise typer.Exit(0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "prepare_prefect", stop)
    monkeypatch.setattr(models, "prepare_prefect", stop)
    small = functools.partial(write_dataset, train=12, val=12, test=4)
    monkeypatch.setattr("pipeline_lib.demo.dataset.write_dataset", small)
    for name, value in {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    small(tmp_path / "data", 5)
    writers = {"scores": small, "unlabelled": lambda folder, seed: folder.parent == Path("/") or small(folder, seed)}
    monkeypatch.setattr("pipeline_lib.demo.recipes.WRITERS", writers)  # thousands of images otherwise
    return tmp_path


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield from ((name, parameter) for parameter in command.params if not getattr(parameter, "is_flag", False))


@pytest.mark.parametrize(
    ("command", "parameter"), [pytest.param(*found, id=f"{found[0]}-{found[1].name}") for found in parameters()]
)
def test_an_option_takes_any_value_or_says_what_is_wrong(
    command: str, parameter: click.Parameter, workplace: Path
) -> None:
    base = [] if command in NONE_GIVEN else BASE.get(command, ["small.yaml"])
    for value in OPTIONS:
        write_small_recipe(workplace, workplace / "store", workplace / "data" / "scores.csv")
        if parameter.param_type_name == "argument":
            arguments = ["--", value, *base[1:]]
        else:
            arguments = [*base, parameter.opts[0], value]
        logging.getLogger("whyscore").handlers.clear()
        answer = CliRunner().invoke(app, [command, *arguments])
        assert answer.exception is None or isinstance(answer.exception, SystemExit), (arguments, answer.exc_info)
        assert answer.exit_code in (0, 1, 2) and "Traceback" not in answer.output
        assert not re.search("hidden-5", answer.output)
    made = {path.name for path in workplace.iterdir()}
    assert not made & {"~nobody", "s3:", "http:"}
