"""The doctor says what is missing, once each, what to do about it, and nothing else."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib import device
from pipeline_lib.checks.doctor import Finding, examine
from pipeline_lib.config.base import Runtime
from pipeline_lib.config.load import parse_recipe
from pipeline_lib.errors import ModelError
from whyscore.cli import app

KEY = "sk-secret-of-this-test"
BUNDLED = {"id": "bundled", "dtype": "float32", "resize_px": 96, "max_new_tokens": 48}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe on 140 photographs with nothing wrong and nothing to remark."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rng = np.random.default_rng(1)
    lines = ["image,score,split"]
    for i in range(140):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i / 10},{'train' if i % 7 < 1 else 'val' if i % 7 < 6 else 'test'}")
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    return {
        "name": "r",
        "data": {"table": str(tmp_path / "scores.csv")},
        "model": BUNDLED,
        "runtime": {"store": str(tmp_path / "store"), "device": "cpu"},
    }


def findings(fields: dict[str, Any], **changes: dict[str, Any]) -> list[Finding]:
    for section, values in changes.items():
        fields = fields | {section: fields.get(section, {}) | values}
    return list(examine(parse_recipe(fields)))


def of(found: list[Finding], state: str) -> list[tuple[str, str]]:
    return [(finding.what, finding.message) for finding in found if finding.state == state]


def test_nothing_is_said_against_a_good_recipe(recipe: dict[str, Any]) -> None:
    found = findings(recipe)
    assert [(finding.what, finding.state) for finding in found] == [
        (what, "ok")
        for what in ("recipe", "store", "table", "images", "prompt", "model", "memory", "judge", "size", "hours")
    ]
    messages = ("GB free", "140 images", "140 readable, 0 left out")
    assert all(message in finding.message for message, finding in zip(messages, found[1:4], strict=True))


def test_a_paper_recipe_without_anything_misses_each_thing_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = Path(__file__).parents[3] / "recipes" / "self_improve" / "paper" / "ava_llava-1.5-7b.yaml"
    settings = [
        "model.id=whyscore-tests/is-in-no-cache",
        f"data.table={tmp_path}/AVA.txt",
        f"data.images={tmp_path}/images",
        f"data.split_lists.test={tmp_path}/list",
        f"runtime.store={tmp_path}/store",
        "runtime.device=cpu",
        "runtime.min_memory_gb=1000000",
    ]
    answer = CliRunner().invoke(app, ["doctor", str(path), *(word for s in settings for word in ("--set", s))])
    assert answer.exit_code == 1
    lines = answer.output.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line[6:12].strip() for line in failed] == ["table", "table", "images", "model", "memory", "judge"]
    table, lists, images, model, memory, judge = failed
    assert f"{tmp_path}/AVA.txt does not exist" in table and "data.table" in table
    assert f"{tmp_path}/list does not exist" in lists and "data.split_lists.test" in lists
    assert f"{tmp_path}/images does not exist" in images
    assert "hf download whyscore-tests/is-in-no-cache --revision b234b804" in model
    assert "1e+06 GB" in memory or "1000000 GB" in memory
    assert "OPENAI_API_KEY" in judge
    assert lines[-1] == "6 problem(s) to solve first."


def test_images_are_not_opened_without_their_table(recipe: dict[str, Any]) -> None:
    found = findings(recipe, data={"table": "absent.csv"})
    ((what, why),) = of(found, "FAIL")
    assert what == "table" and "absent.csv" in why
    assert [what for what, _ in of(found, "skip")] == ["images", "size"]


def test_every_problem_of_a_table_is_a_line_of_its_own(recipe: dict[str, Any]) -> None:
    table = Path(recipe["data"]["table"])
    table.write_text(table.read_text().replace("5.png,0.5", "5.png,good").replace("9.png,0.9,val", "9.png,0.9,vale"))
    failed = of(findings(recipe), "FAIL")
    assert [what for what, _ in failed] == ["table", "table"]
    assert "5.png" in failed[0][1] and "vale" in failed[1][1]


def test_what_deserves_a_look_is_a_note_and_no_failure(recipe: dict[str, Any]) -> None:
    table = Path(recipe["data"]["table"])
    table.write_text("\n".join(table.read_text().splitlines()[:90]).replace("3.5,", "9,"))
    found = findings(recipe, data={"split_column": None, "val_fraction": 0.2})
    assert not of(found, "FAIL")
    notes = " ".join(message for _, message in of(found, "note"))
    assert "validation images: the ten reference values" in notes
    assert "column split" in notes and "data.split_column: split" in notes


def test_a_missing_prompt_keeps_only_the_model_from_being_asked(recipe: dict[str, Any]) -> None:
    found = findings(recipe | {"prompt": "beauty"})
    assert [what for what, _ in of(found, "FAIL")] == ["prompt"]
    assert [what for what, _ in of(found, "skip")] == ["model", "size"]


def test_too_little_memory_is_refused_with_what_is_there(recipe: dict[str, Any]) -> None:
    (problem,) = of(findings(recipe, runtime={"min_memory_gb": 1e6}), "FAIL")
    assert problem[0] == "memory" and "cpu has " in problem[1] and "runtime.min_memory_gb" in problem[1]
    device.check_memory(Runtime(min_memory_gb=0.1, device="cpu"))
    with pytest.raises(ModelError, match=r"cpu.* 1e\+06 GB"):
        device.check_memory(Runtime(min_memory_gb=1e6, device="cpu"))
    with pytest.raises(ModelError, match=r"runtime\.device cuda:99: .* no such device"):
        device.check_memory(Runtime(min_memory_gb=1, device="cuda:99"))
    with pytest.raises(ModelError, match=r"runtime\.device tpu-v9"):
        device.check_memory(Runtime(min_memory_gb=1, device="tpu-v9"))


def test_weights_larger_than_the_memory_are_refused(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_machine_bytes", lambda: 5_000_000)
    (problem,) = of(findings(recipe), "FAIL")
    assert problem[0] == "memory" and "weights" in problem[1]


def test_a_container_has_the_memory_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, limited in (("3000000000\n", True), ("max\n", False)):
        (tmp_path / "memory.max").write_text(content)
        monkeypatch.setattr(device, "_CGROUP_LIMITS", (str(tmp_path / "memory.max"), "/absent"))
        assert (device.device_memory("cpu").gb == 3.0) == limited


@pytest.fixture
def judge_server() -> Iterator[tuple[str, dict[str, Any]]]:
    """An OpenAI-compatible server on loopback; what it answers can be set."""
    answer: dict[str, Any] = {"status": 200, "body": {"object": "list", "data": [{"id": "m1"}]}, "seen": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["seen"].append((self.path, self.headers["Authorization"]))
            body = json.dumps(answer["body"]).encode()
            self.send_response(answer["status"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if to := answer.get("to"):
                self.send_header("Location", to)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", answer
    server.shutdown()
    server.server_close()


def test_the_judges_server_is_asked_once_and_told_no_more_than_the_key(
    recipe: dict[str, Any], judge_server: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answer = judge_server
    runtime = {"openai": {"base_url": url}}
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def ask(model: str) -> Finding:
        found = findings(recipe, judge={"openai": {"model": model}}, runtime=runtime)
        return next(finding for finding in found if finding.what == "judge")

    good = ask("m1")
    assert (good.what, good.state) == ("judge", "ok") and "m1 at 127.0.0.1" in good.message
    assert answer["seen"] == [("/v1/models", f"Bearer {KEY}")]
    other = ask("m2")
    assert other.state == "FAIL" and "m2" in other.message and "(m1)" in other.message
    answer |= {"status": 401, "body": {"error": {"message": f"Incorrect API key provided: {KEY}"}}}
    refused = ask("m1")
    assert refused.state == "FAIL" and "refuses the key (status 401)" in refused.message
    assert KEY not in refused.message
    answer |= {"status": 404}
    assert "ends in /v1" in ask("m1").message
    answer |= {"status": 307, "to": f"{url}/elsewhere", "seen": []}
    assert "status 307" in ask("m1").message and answer["seen"] == [("/v1/models", f"Bearer {KEY}")]
    answer |= {"status": 200, "body": ["not", "this"]}
    assert "OpenAI-compatible" in ask("m1").message
    assert "judge.openai.model: null" in ask("m1").message


def test_a_judge_that_cannot_be_reached_or_paid_is_named(recipe: dict[str, Any]) -> None:
    judge = {"openai": {"model": "m1"}}
    (problem,) = of(findings(recipe, judge=judge), "FAIL")
    assert problem[0] == "judge" and "usd_per_million_input_tokens" in problem[1]
    paid = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 1, "budget_usd": 1}
    (problem,) = of(findings(recipe, judge=judge, runtime={"openai": paid}), "FAIL")
    assert "OPENAI_API_KEY" in problem[1]
    unused = "http://127.0.0.1:9/v1"
    (problem,) = of(findings(recipe, judge=judge, runtime={"openai": {"base_url": unused}}), "FAIL")
    assert "127.0.0.1:9 cannot be reached" in problem[1]


def test_copies_between_splits_beyond_a_limit_are_refused(recipe: dict[str, Any]) -> None:
    folder = Path(recipe["data"]["table"]).parent
    for number in (6, 13):  # of 20 test images
        (folder / f"{number}.png").write_bytes((folder / f"{number - 6}.png").read_bytes())
    (problem,) = of(findings(recipe), "FAIL")
    assert problem[0] == "images" and "2 of 120" in problem[1] and "6.png (test) = 0.png (train)" in problem[1]
    assert not of(findings(recipe, data={"max_near_duplicate_fraction": 0.02}), "FAIL")


def test_other_data_sets_are_looked_for_too(recipe: dict[str, Any]) -> None:
    also = [{"name": "other", "table": "absent.csv"}]
    (problem,) = of(findings(recipe, evaluation={"also": also}), "FAIL")
    assert problem[0] == "table" and "absent.csv" in problem[1]


def test_a_shape_that_the_models_family_refuses_is_named(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib.vlm import families

    monkeypatch.setitem(families.FAMILIES, "llava", families.Family(max_aspect_ratio=50))
    folder = Path(recipe["data"]["table"]).parent
    Image.new("RGB", (2000, 8)).save(folder / "3.png")
    (problem,) = of(findings(recipe), "FAIL")
    assert problem[0] == "model" and "1 of 140" in problem[1] and "3.png (96x1 px" in problem[1]


def test_a_nearly_full_disk_is_refused(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.store.store.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**8})())
    (problem,) = of(findings(recipe), "FAIL")
    assert problem[0] == "store" and "0.1 GB free" in problem[1]
