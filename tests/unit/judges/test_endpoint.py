import time
from typing import Any

import pytest

from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.errors import RecipeError
from pipeline_lib.judges.chat_request import chat_request
from pipeline_lib.judges.endpoint import check_endpoint, read_key
from pipeline_lib.openai_server import retry_after_s

PRICES: dict[str, Any] = {"usd_per_million_input_tokens": 2.5, "usd_per_million_output_tokens": 10.0}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://10.1.2.3/v1",
        "http://192.168.0.7:30000/v1", "http://vllm:8000/v1", "http://gpu.local/v1",
    ],
)  # fmt: skip
def test_a_private_server_needs_no_key_no_price_and_no_budget(url: str) -> None:
    check_endpoint(OpenAIEndpoint(base_url=url))
    assert read_key()
    with pytest.raises(RecipeError, match="usd_per_million_input_tokens"):
        check_endpoint(OpenAIEndpoint(base_url=url, budget_usd=1))


@pytest.mark.parametrize("url", [None, "https://openrouter.ai/api/v1", "https://8.8.8.8/v1"])
def test_any_other_server_needs_prices_and_a_budget(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="needs usd_per_million_input_tokens"):
        check_endpoint(OpenAIEndpoint(base_url=url, budget_usd=5))
    with pytest.raises(RecipeError, match="needs budget_usd"):
        check_endpoint(OpenAIEndpoint(base_url=url, **PRICES))
    if url is None:
        with pytest.raises(RecipeError, match="set the environment variable OPENAI_API_KEY"):
            check_endpoint(OpenAIEndpoint(**PRICES, budget_usd=5))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    check_endpoint(OpenAIEndpoint(base_url=url, **PRICES, budget_usd=5))


@pytest.mark.parametrize(
    "url",
    ["http://example.org/v1", "localhost:8000", "ftp://localhost/v1", "http://u:secret-1@localhost/v1",
     "http://localhost/v1?key=secret-1"],
)  # fmt: skip
def test_addresses_that_cannot_be_or_that_would_tell_a_secret_are_refused(url: str) -> None:
    with pytest.raises(RecipeError, match=r"runtime\.openai\.base_url") as caught:
        check_endpoint(OpenAIEndpoint(base_url=url, **PRICES, budget_usd=1))
    assert "secret-1" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret-1\n", "sk-secret-1 ", '"sk-secret-1"', "sk-secret-1\u20ac"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_cited(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(RecipeError, match="OPENAI_API_KEY holds characters") as caught:
        check_endpoint(OpenAIEndpoint(base_url="http://localhost/v1"))
    assert "secret-1" not in str(caught.value)


def test_a_pause_is_read_from_seconds_milliseconds_and_dates() -> None:
    now = time.mktime((2026, 1, 1, 12, 0, 0, 0, 0, 0))
    date, later = "Thu, 01 Jan 2026 12:00:00 GMT", "Thu, 01 Jan 2026 12:00:09 GMT"
    assert retry_after_s({"retry-after": "2.5"}, now) == 2.5
    assert retry_after_s({"retry-after": "7", "retry-after-ms": "1500"}, now) == 1.5
    assert retry_after_s({"retry-after": later, "date": date}, now + 999) == 9  # by the server's own clock
    assert retry_after_s({"retry-after": date, "date": later}, now) == 0
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "Thu, 99 Foo 2026"}):
        assert retry_after_s(nothing, now) is None
    assert retry_after_s({"retry-after": "-3"}, now) == 0


def test_openai_is_asked_by_its_newer_names_and_others_by_those_all_know() -> None:
    local = chat_request(JudgeModel(model="m"), OpenAIEndpoint(base_url="http://localhost/v1"), "t", {})
    assert local["max_tokens"] == 64 and local["temperature"] == 0 and "max_completion_tokens" not in local
    remote = chat_request(JudgeModel(model="m", temperature=None), OpenAIEndpoint(), "t", {})
    assert remote["max_completion_tokens"] == 64 and not {"max_tokens", "temperature", "seed"} & set(remote)
