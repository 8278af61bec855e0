"""`whyscore push`: the real client of the hub against a server on loopback that speaks the hub's protocol."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from huggingface_hub import ModelCard, constants
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import ModelError, RecipeError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.runs import read_run
from pipeline_lib.testing.hub_server import READ_TOKEN, TOKEN, HubServer, hub_server
from pipeline_lib.use import push as pushing
from whyscore import Scorer
from whyscore.cli import app

Push = Callable[..., Result]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The client reads these settings when it is imported, so they are set in its module; Xet is not spoken here."""
    with hub_server() as server:
        for name, setting in (
            ("ENDPOINT", server.url),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_TOKEN_PATH", str(tmp_path / "token")),
        ):
            monkeypatch.setattr(constants, name, setting)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.fixture
def push(small_run: Path) -> Push:
    def run(*options: str, to: str = "owner/small") -> Result:
        done = CliRunner().invoke(app, ["push", str(small_run / "small.yaml"), to, *options])
        assert TOKEN not in done.output
        assert READ_TOKEN not in done.output
        return done

    return run


def test_without_yes_nothing_is_asked_and_everything_is_shown(hub: HubServer, push: Push) -> None:
    done = push()
    assert done.exit_code == 0, done.output
    assert hub.asked == []
    for said in ("model-index", "model.safetensors", "bytes in all", "(private)", "Nothing was uploaded", "## Limits"):
        assert said in done.output


def test_it_uploads_a_private_model_with_its_card(hub: HubServer, push: Push, small_run: Path, tmp_path: Path) -> None:
    done = push("--yes", "--dataset", "owner/photographs")
    assert done.exit_code == 0, done.output
    assert f"{hub.url}/owner/small/commit/" in done.output
    found = hub.repositories["owner/small"]
    assert found.visibility == "private"
    assert len(found.commits) == 1
    assert {"README.md", "model.safetensors", "config.json", "whyscore.json", "whyscore_model.py"} < set(found.files)
    assert "model-index" in hub.checked[0]  # the hub's own check of the front matter

    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in found.files.items():
        (folder / name).write_bytes(content)
    recipe, picture = load_recipe(small_run / "small.yaml"), Image.new("RGB", (96, 96), "teal")
    there, here = (scorer.score(picture) for scorer in (Scorer.load(folder), Scorer.of_run(recipe)))  # type: ignore[arg-type]
    assert there.predicted == pytest.approx(here.predicted, abs=1e-4)
    assert there.text == here.text

    text = found.files["README.md"].decode()
    card = ModelCard(text).data
    assert (card.license, card.datasets, card.library_name) == ("apache-2.0", ["owner/photographs"], "transformers")
    assert card.eval_results is not None
    results = {result.metric_name: result for result in card.eval_results}
    own = (small_run / "store/runs/small/report/model_card.md").read_text()
    stated = re.search(r"\| SRCC, stated \|.* (\S+) \[(\S+) (\S+)\] \|\n", own)
    assert stated
    assert results["SRCC stated"].metric_type == "spearmanr"
    assert results["SRCC stated"].metric_value == pytest.approx(float(stated[1]), abs=5e-4)
    assert results["SRCC stated"].metric_args is not None
    assert results["SRCC stated"].metric_args["low"] == pytest.approx(float(stated[2]), abs=5e-3)
    assert results["SRCC stated"].metric_args["images"] == 16
    assert str(Path.home()) not in text
    assert str(small_run) not in text


def test_no_image_and_no_path_is_named(hub: HubServer, push: Push, small_run: Path) -> None:
    assert push("--yes").exit_code == 0
    run = read_run(ArtifactStore(str(small_run / "store")), "small")
    assert run is not None
    names = run.store.read_table(run.images.address, "images")["image"].to_pylist()
    for name, content in hub.repositories["owner/small"].files.items():
        assert not any(image.encode() in content for image in names), name
        assert str(small_run).encode() not in content, name


def test_an_image_name_in_a_text_stops_the_push(
    hub: HubServer, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(small_run / "small.yaml")
    store = ArtifactStore(recipe.runtime.store)
    run = read_run(store, "small")
    assert run is not None
    name = run.store.read_table(run.images.address, "images")["image"][0].as_py()
    real = pushing.model_page
    monkeypatch.setattr(pushing, "model_page", lambda *all_, **named: real(*all_, **named) + f"see {name}")
    with pytest.raises(ModelError, match=r"README\.md has the name of an image"):
        pushing.prepare(store, recipe, "owner/small", tmp_path / "model")
    assert hub.asked == []


def test_a_repository_that_holds_a_model_is_replaced_only_when_asked(hub: HubServer, push: Push) -> None:
    assert push("--yes").exit_code == 0
    refused = push("--yes")
    assert refused.exit_code == 1
    assert "owner/small exists" in refused.output
    assert "--overwrite" in refused.output
    found = hub.repositories["owner/small"]
    assert len(found.commits) == 1
    replaced = push("--yes", "--overwrite", "--adapter-only")
    assert replaced.exit_code == 0, replaced.output
    assert "adapter_model.safetensors" in found.files
    assert "model.safetensors" not in found.files  # nothing of the model before stays beside the adapter
    assert len(found.commits) == 2


@pytest.mark.parametrize(
    ("token", "to", "said"),
    [
        ("", "owner/small", "there is no token"),
        ("hf_wrong", "owner/small", "does not know the token"),
        (READ_TOKEN, "owner/small", "does not let the token"),
        (TOKEN, "others/small", "is others yours?"),
    ],
)
def test_a_token_that_will_not_do_ends_in_a_sentence(
    hub: HubServer, push: Push, monkeypatch: pytest.MonkeyPatch, token: str, to: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    done = push("--yes", to=to)
    assert done.exit_code == 1
    assert said in done.output
    assert "hf auth login" in done.output
    assert "hf_wrong" not in done.output
    assert hub.repositories == {}


@pytest.mark.parametrize("cut", ["put", "commit"])
def test_a_cut_upload_ends_in_a_sentence_and_the_next_push_completes_it(
    hub: HubServer, push: Push, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again after 1, 2, 4, .. seconds
    hub.cut = cut
    done = push("--yes")
    assert done.exit_code == 1
    assert "run the command again" in done.output
    assert "Traceback" not in done.output
    found = hub.repositories["owner/small"]
    assert set(found.files) == {".gitattributes"}
    hub.cut, hub.asked[:] = None, []
    again = push("--yes")
    assert again.exit_code == 0, again.output
    assert "model.safetensors" in found.files
    sent = sum(line.startswith("PUT") for line in hub.asked)
    assert (sent == 0) == (cut == "commit")  # what has arrived is not sent again


def test_without_a_server_it_ends_in_a_sentence(hub: HubServer, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = push("--yes")
    assert done.exit_code == 1
    assert "could not log in" in done.output
    assert "ConnectError" in done.output


def test_names_and_licences_are_checked(hub: HubServer, push: Push, small_run: Path, tmp_path: Path) -> None:
    for name in ("small", "a/b/c", "owner/two words"):
        done = push("--yes", to=name)
        assert done.exit_code == 1
        assert "owner/name" in done.output
    recipe = load_recipe(small_run / "small.yaml")
    upload = pushing.prepare(ArtifactStore(recipe.runtime.store), recipe, "owner/small", tmp_path / "model")
    assert yaml.safe_load(upload.card.split("---")[1])["license"] == "apache-2.0"
    with pytest.raises(RecipeError, match="--license"):
        pushing.push(upload._replace(licence=None), tmp_path / "model", private=True, overwrite=False)
    assert hub.asked == []
