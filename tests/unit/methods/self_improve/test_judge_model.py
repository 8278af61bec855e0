"""Against a real server on loopback that misbehaves (pipeline_lib/testing/judge_server.py)."""

import email.utils
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import JudgeError, RecipeError
from pipeline_lib.judges.chat_request import same_model
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.judge_server import (
    Action,
    JudgeServer,
    answer,
    cut,
    drip,
    fail,
    graded,
    grades_of,
    half_json,
    judge_server,
    needs_new_name,
    never,
    page,
    raw,
    say,
    too_many,
)
from tests.forked import Forked, ForkServer
from tests.unit.methods.self_improve.conftest import KEY, Ask

ASPECTS = ("consistency", "usefulness", "general")


def expected(text: str, score: int = 7) -> dict[str, int]:
    return grades_of(load_rubric("paper").message(load_prompt("aesthetics").criterion, score, text))


def grades(row: dict[str, Any]) -> dict[str, int]:
    return {aspect: row[aspect] for aspect in ASPECTS}


def test_each_explanation_is_asked_once_and_the_answer_is_kept(ask: Ask, server: JudgeServer) -> None:
    texts = ["light", None, "dark", "light"]
    rows = ask(texts)
    assert [row["status"] for row in rows] == ["scored", "unparsed", "scored", "scored"]
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert grades(rows[0]) == grades(rows[3]) == expected("light") and grades(rows[2]) == expected("dark")
    assert rows[1]["consistency"] is None and {row["judge"] for row in rows} == {"judge-1"}
    assert len(server.requests) == 2
    sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions" and sent["temperature"] == 0 and sent["max_tokens"] == 64
    assert sent["response_format"]["json_schema"]["strict"] and sent["model"] == "judge-1"
    assert ask(texts) == rows and len(server.requests) == 2
    ask(["light"], score=6)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("actions", "requests"),
    [
        ([fail(500)] * 3, 4),
        ([fail(408), fail(409), fail(503)], 4),
        ([page(502)], 2),
        ([page(200)], 2),
        ([half_json], 2),
        ([cut], 2),
        ([never], 2),
        ([drip], 2),
        ([too_many("0"), too_many("Mon, 01 Jan 2024 00:00:00 GMT"), too_many("soon")], 4),
    ],
    ids=["500", "408-409-503", "html-502", "html-200", "half-json", "cut", "never", "drip", "429"],
)
def test_what_passes_is_tried_again(ask: Ask, server: JudgeServer, actions: list[Action], requests: int) -> None:
    server.plan["odd"] = list(actions)
    rows = ask(["odd", "plain"], timeout_s=0.5)  # a drip or a hang has no end of its own
    assert [grades(row) for row in rows] == [expected("odd"), expected("plain")]
    assert len(server.requests) == requests + 1


@pytest.mark.parametrize("as_date", [False, True])
def test_the_pause_that_the_server_asks_for_is_kept_by_all(ask: Ask, server: JudgeServer, as_date: bool) -> None:
    wanted = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.plan["odd"] = [too_many(wanted)]
    server.delay_s = 0.05
    started = time.monotonic()
    ask(["odd", *(f"text {n}" for n in range(4))], concurrency=2)
    assert time.monotonic() - started > 0.9
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (fail(401), "does not accept the key.*OPENAI_API_KEY"),
        (fail(403), "may not use judge-1"),
        (fail(404), "knows no model judge-1.*/v1"),
        (fail(400, "response_format is not supported"), "refuses structured output"),
        (fail(400, "Unsupported value: temperature"), "refuses the request.*judge.openai.temperature: null"),
        (fail(422, "what?"), "refuses the request.*what"),
        (raw(422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}), "body.seed: Extra inputs"),
        (raw(200, {"error": {"message": "no such model", "code": 404}}), "404.*no such model"),
        (raw(302, {}, {"Location": "https://u:p@elsewhere.example/v1?k=1"}), "redirects.*302.*elsewhere.example;"),
        (too_many("86400"), "to be tried again in 86400 s"),
        (fail(429, "quota", code="insufficient_quota"), "no credit left"),
    ],
)
def test_what_does_not_pass_ends_the_stage_at_once(ask: Ask, server: JudgeServer, action: Action, message: str) -> None:
    server.plan["odd"] = [action] * 9
    server.delay_s = 0.1  # both are under way when one fails
    with pytest.raises(JudgeError, match=message) as caught:
        ask(["plain", "odd"])
    assert "1 of 2 verdicts" in str(caught.value)
    assert KEY not in str(caught.value) and caught.value.__context__ is None
    assert len(server.requests) == 2
    server.plan.clear()
    assert [grades(row) for row in ask(["plain", "odd"])] == [expected("plain"), expected("odd")]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "out of memory", "code": 0}, "error with HTTP 200: out of memory"),
        ({"error": {"message": "slow down", "code": 429}}, "HTTP 429: slow down"),
        ({"error": {"message": "no card", "code": 10**30}}, "error with HTTP 200: no card"),
        ({"detail": "try later"}, "not a complete chat completion: try later"),
        ({"choices": []}, "not a complete chat completion"),
        ([], "not a complete chat completion"),
    ],
)
def test_an_error_with_status_200_is_tried_again_and_its_words_are_told(
    ask: Ask, server: JudgeServer, body: Any, message: str
) -> None:
    server.plan["odd"] = [raw(200, body)] * 2
    with pytest.raises(JudgeError, match=message):
        ask(["odd"], max_retries=1)
    assert ask(["odd"])[0]["status"] == "scored" and len(server.requests) == 3


def test_a_server_that_stays_broken_is_given_up_and_what_it_said_is_kept(ask: Ask, server: JudgeServer) -> None:
    server.plan["odd"] = [fail(500)] * 99
    with pytest.raises(JudgeError, match=r"HTTP 500.*attempt 3 of 3.*of 6 verdicts arrived"):
        ask([*(f"text {n}" for n in range(5)), "odd"], max_retries=2)
    asked = len(server.requests)
    server.plan.clear()
    ask([*(f"text {n}" for n in range(5)), "odd"])
    assert server.paid == 6 and len(server.requests) <= asked + 6


def test_a_server_that_is_not_there_is_named(ask: Ask) -> None:
    with pytest.raises(JudgeError, match=r"judge-1 at 127\.0\.0\.1:9"):
        ask(["text"], base_url="http://127.0.0.1:9/v1", max_retries=1)


def test_answers_without_a_verdict_are_unscored_and_only_malformed_ones_asked_again(
    ask: Ask, server: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.plan = {
        "odd-1": [say("I like it")],
        "odd-2": [answer(general="superb")],
        "odd-3": [say(None, refusal="I cannot")],
        "odd-4": [say('{"consistency": "go', finish="length")],
        "odd-5": [fail(400, "filtered", code="content_filter")],
        "odd-6": [answer(general="superb")] * 2,
    }
    texts = [f"odd-{n}" for n in range(1, 7)] + ["plain"]
    with caplog.at_level(logging.WARNING, "whyscore.judge"):
        rows = ask(texts)
    assert [row["status"] for row in rows] == [
        "malformed", "malformed", "refused", "malformed", "refused", "malformed", "scored"
    ]  # fmt: skip
    assert all(row["consistency"] is None for row in rows[:-1])
    assert "6 of 7 explanations unscored: 2 a label that is not on the scale, 2 refused" in caplog.text
    again = ask(texts)  # the server was mended, but for odd-6
    assert len(server.requests) == 7 + 4
    assert [row["status"] for row in again] == [
        "scored", "scored", "refused", "scored", "refused", "malformed", "scored"
    ]  # fmt: skip
    assert [row["status"] for row in ask(texts)][-2:] == ["scored", "scored"]
    assert ask(texts) == ask(texts) and len(server.requests) == 7 + 4 + 1


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (say("I like it"), "no JSON.*'I like it'"),
        (say(""), "no JSON.*the last is empty"),
        (say("[" * 200_000), "no JSON"),
        (say('{"consistency": "go', finish="length"), "cut at max_tokens"),
        (answer(general="superb"), "a label that is not on the scale.*superb"),
    ],
)
def test_a_server_that_gives_no_usable_answers_is_stopped_and_its_answer_is_shown(
    ask: Ask, server: JudgeServer, garbage: Action, reason: str
) -> None:
    texts = [f"text {n}" for n in range(60)]
    ask(texts[:20])
    server.otherwise = garbage
    with pytest.raises(JudgeError, match=f"10 answers in a row are malformed.*{reason}"):
        ask(texts, concurrency=4)
    assert 10 <= len(server.requests) - 20 < 10 + 4
    server.otherwise = answer()
    assert [grades(row) for row in ask(texts)] == [expected(text) for text in texts]
    assert len(server.requests) < 20 + 14 + 40


def test_a_few_answers_that_are_all_malformed_end_no_stage(ask: Ask, server: JudgeServer) -> None:
    server.otherwise = say("I like it")
    for _ in range(2):
        with pytest.raises(JudgeError, match=r"all 3 answers are malformed \(no JSON\)"):
            ask(["one", "two", "three"])
    server.otherwise = answer()
    assert {row["status"] for row in ask(["one", "two", "three"])} == {"scored"}


def test_answers_that_stay_malformed_never_stop_a_judge_that_is_usable(ask: Ask, server: JudgeServer) -> None:
    """Here so many that they would be too many in a row, since each start asks for them again."""
    server.plan = {"odd": [say("I like it")] * 99}
    plain = [f"plain {n}" for n in range(4)]
    ask([*plain, *(f"odd {n}" for n in range(6))])
    rows = ask([*plain, *(f"odd {n}" for n in range(6, 12))])
    rows = ask([*plain, *(f"odd {n}" for n in range(12))])
    assert [row["status"] for row in rows] == ["scored"] * 4 + ["malformed"] * 12


@pytest.mark.parametrize(
    "form",
    [
        graded(lambda text: f"```json\n{text}\n```"),
        graded(lambda text: [{"type": "text", "text": text}]),
        graded(lambda text: [{"type": "thinking", "thinking": []}, {"type": "text", "text": text[:9]}, text[9:]]),
        graded(str, usage=None),
        graded(str, usage={}),
        graded(str, usage={"prompt_tokens": 500}),
        graded(str, usage={"prompt_tokens": None, "completion_tokens": None}),
        graded(str, usage={"prompt_tokens": -5, "completion_tokens": 10**400}),
        graded(str, usage={"prompt_tokens": "many", "completion_tokens": float("nan")}),
        graded(str, usage="none"),
    ],
)
def test_every_usable_answer_is_used(ask: Ask, server: JudgeServer, form: Action) -> None:
    server.otherwise = form
    assert [grades(row) for row in ask(["one", "two"])] == [expected("one"), expected("two")]
    assert len(server.requests) == 2


def test_an_answer_with_half_a_character_pair_harms_no_other(ask: Ask, server: JudgeServer) -> None:
    server.plan = {"odd": [say("I like it \ud83d")]}
    rows = ask(["odd", "plain"])
    assert rows[1]["status"] == "scored" and len(server.requests) <= 3


def test_a_model_that_refuses_max_tokens_is_asked_by_the_newer_name(ask: Ask, server: JudgeServer) -> None:
    server.otherwise = needs_new_name
    texts = [f"text {n}" for n in range(9)]
    assert [grades(row) for row in ask(texts, concurrency=2)] == [expected(text) for text in texts]
    assert len(server.requests) <= 9 + 2
    assert [request["max_completion_tokens"] for request in server.requests[-7:]] == [64] * 7


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(ask: Ask, server: JudgeServer, status: int) -> None:
    with judge_server() as elsewhere:
        server.otherwise = raw(status, {}, {"Location": f"{elsewhere.url}/chat/completions"})
        with pytest.raises(JudgeError, match=f"redirects.*{status}.*127.0.0.1:{elsewhere.server_port}"):
            ask(["text"])
        assert len(server.requests) == 1 and not elsewhere.requests


def test_a_private_server_is_asked_without_the_proxy_of_the_environment(
    ask: Ask, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(["text"], max_retries=0)[0]["status"] == "scored"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -500, "completion_tokens": -20},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 500, "completion_tokens": 0},
        {"prompt_tokens": 10**400, "completion_tokens": 20},
        {"prompt_tokens": 500},
        None,
    ],
)
def test_impossible_numbers_of_tokens_count_as_the_worst_case(ask: Ask, server: JudgeServer, usage: Any) -> None:
    """A worst case is 2.3 $; by these numbers, the budget would allow any number of requests, or none."""
    server.otherwise = graded(str, usage=usage)
    texts = [f"text {n}" for n in range(5)]
    with pytest.raises(JudgeError, match=r"budget of \$9.00 is spent"):
        ask(texts, **PRICES, budget_usd=9, concurrency=1)
    assert len(server.requests) == 4
    server.otherwise = answer()
    assert len(ask(texts)) == 5 and len(server.requests) == 5


def test_as_many_requests_as_allowed_run_at_a_time_and_no_more(ask: Ask, server: JudgeServer) -> None:
    server.delay_s = 0.25
    ask([f"text {n}" for n in range(20)], concurrency=5)
    assert server.most_at_once == 5


def cache_files(store: ArtifactStore) -> list[Path]:
    return sorted(Path(store.path("judge_cache")).rglob("*.json"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"status": "scored"}', "grade", "misplaced"])
def test_a_damaged_verdict_is_asked_again_and_replaced(
    ask: Ask, server: JudgeServer, store: ArtifactStore, damage: bytes | str
) -> None:
    rows = ask(["one"])
    (file,) = cache_files(store)
    content = json.loads(file.read_text())
    assert content["text"] == "one" and content["answer"]
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif damage == "grade":
        file.write_text(json.dumps(content | {"consistency": (content["consistency"] + 1) % 5}))
    else:
        ask(["two"])
        (other,) = set(cache_files(store)) - {file}
        other.replace(file)
    asked = len(server.requests)
    assert ask(["one"]) == rows and len(server.requests) == asked + 1
    assert ask(["one"]) == rows and len(server.requests) == asked + 1


CHILD = """
import json, sys
from pipeline_lib.methods.self_improve.judge_model import ask_judge
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.methods.self_improve.recipe import OpenAIJudge
from pipeline_lib.store import ArtifactStore
from pipeline_lib.methods.self_improve.prompt import load_prompt
from tests.unit.methods.self_improve.conftest import explained
url, folder, count = sys.argv[1:]
verdicts = ask_judge(
    OpenAIJudge(model="judge-1"), OpenAIEndpoint(base_url=url, concurrency=4), load_rubric("paper"),
    load_prompt("aesthetics").criterion, explained([f"text {n}" for n in range(int(count))]), ArtifactStore(folder), "",
)
print(json.dumps(verdicts.to_pylist()))
"""


@pytest.fixture
def child(forks: ForkServer, server: JudgeServer, store: ArtifactStore, tmp_path: Path) -> Forked:
    """Another process that asks about sixty texts and prints the verdicts to `answers`."""
    server.delay_s = 0.05
    return forks.start("-c", CHILD, server.url, store.root, 60, log=tmp_path / "answers")


def test_after_a_kill_only_what_is_missing_is_asked(
    ask: Ask, server: JudgeServer, store: ArtifactStore, child: Forked
) -> None:
    while server.paid < 20:
        assert child.runs()
        time.sleep(0.01)
    child.kill()
    child.wait()
    time.sleep(0.1)
    kept, asked = len(cache_files(store)), len(server.requests)
    assert asked - 4 <= kept < 60  # at most those in flight are lost
    rows = ask([f"text {n}" for n in range(60)])
    assert len(server.requests) - asked == 60 - kept
    assert [grades(row) for row in rows] == [expected(f"text {n}") for n in range(60)]


def test_two_processes_share_their_verdicts(
    ask: Ask, server: JudgeServer, store: ArtifactStore, child: Forked, tmp_path: Path
) -> None:
    while not server.requests:
        assert child.runs()
        time.sleep(0.01)
    rows = ask([f"text {n}" for n in range(60)])
    assert child.wait() == 0 and json.loads((tmp_path / "answers").read_text().splitlines()[-1]) == rows
    assert len(cache_files(store)) == 60
    assert 60 <= len(server.requests) < 90  # both at the same one now and then; 120 without sharing


PRICES = {"usd_per_million_input_tokens": 1000.0, "usd_per_million_output_tokens": 2000.0}  # an answer: 0.54 $


def test_the_price_is_told_before_and_after(ask: Ask, server: JudgeServer, caplog: pytest.LogCaptureFixture) -> None:
    ask(["one"])
    with caplog.at_level(logging.INFO, "whyscore.judge"):
        ask(["one", "two", "three", "two"], **PRICES, budget_usd=20)
    assert "judge judge-1: 3 explanations, 1 already judged, about $1." in caplog.text
    assert "(limit $20.00)" in caplog.text
    assert "2 answers for $1.0800" in caplog.text


def test_too_dear_is_refused_before_the_first_request(ask: Ask, server: JudgeServer) -> None:
    with pytest.raises(RecipeError, match=r"about \$.*budget_usd is \$1.00; nothing was asked"):
        ask(["one", "two", "three"], **PRICES, budget_usd=1)
    with pytest.raises(RecipeError, match="usd_per_million_input_tokens"):
        ask(["one"], budget_usd=1)
    assert not server.requests


def test_the_budget_is_never_exceeded_and_what_was_paid_is_kept(ask: Ask, server: JudgeServer) -> None:
    """The server drops every first answer after it did the work: the estimate cannot know."""
    texts = [f"text {n}" for n in range(20)]
    server.plan = {"text": [half_json] * 14}
    budget = 18.0
    with pytest.raises(JudgeError, match=r"budget of \$18.00 is spent"):
        ask(texts, **PRICES, budget_usd=budget, max_retries=20, concurrency=8)
    assert server.paid > 5 and server.paid * 0.54 <= budget
    kept = server.paid - 14 + len(server.plan["text"])
    before = len(server.requests)
    server.plan.clear()
    assert len(ask(texts)) == 20
    assert len(server.requests) - before == 20 - kept


def test_the_worst_case_of_requests_in_flight_is_set_aside(ask: Ask, server: JudgeServer) -> None:
    """A worst case is 2.3 $, an answer 0.54 $: with 6.5 $ two may be in flight at a time, and all get their turn."""
    server.delay_s = 0.05
    rows = ask([f"text {n}" for n in range(6)], **PRICES, budget_usd=6.5, concurrency=6)
    assert len(rows) == server.paid == 6
    assert server.most_at_once == 2


def test_the_key_is_in_no_log_no_file_and_no_error(
    ask: Ask, server: JudgeServer, store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    everything = {
        "odd-1": [fail(500), page(502), cut, half_json, too_many("0"), drip],
        "odd-2": [say(f"my key is {KEY}")],
        "odd-3": [say(None, refusal=f"I was sent Bearer {KEY}")],
        "odd-4": [fail(400, "filtered", code="content_filter")],
    }
    errors = []
    with caplog.at_level(logging.DEBUG):
        server.plan = {word: list(actions) for word, actions in everything.items()}
        ask([*everything, "plain"], timeout_s=0.5)
        for status in (400, 401, 403, 404, 422, 500):
            server.plan = {"odd": [fail(status)]}
            with pytest.raises(JudgeError) as caught:
                ask([f"odd {status}"], max_retries=0)
            errors.append(caught.getrepr(style="long", chain=True, showlocals=True))
    assert set(server.keys) == {f"Bearer {KEY}"}
    logged = caplog.text + "".join(str(record.args) for record in caplog.records)
    assert "openai" in logged  # the client's own debug lines are there
    assert KEY not in logged
    for error in errors:
        assert KEY not in str(error)
    files = [file for file in Path(store.root).rglob("*") if file.is_file()]
    assert len(files) == 5 and all(KEY.encode() not in file.read_bytes() for file in files)


def test_the_verdicts_of_another_model_are_refused_and_not_kept(ask: Ask, server: JudgeServer) -> None:
    """llama.cpp answers to any name, and says its own."""
    server.name = "smollm2-135m.gguf"
    with pytest.raises(JudgeError, match=r"'smollm2-135m\.gguf' answered instead of 'judge-1'.*0 of 1 verdicts"):
        ask(["light"])
    assert len(server.requests) == 1
    server.name = "Judge-1-2026-07-18"  # OpenAI's way
    assert [row["status"] for row in ask(["light"])] == ["scored"]


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", True),
        ("gpt-4", "gpt-4-0613", True),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b", True),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-mini", "gpt-4o", False),
        ("one/model", "another/model", False),
    ],
)
def test_a_dated_name_is_the_same_model(asked: str, answered: str, same: bool) -> None:
    assert same_model(asked, answered) == same
