import base64
import socket
import time
from typing import Any
from urllib.parse import quote

import pytest

from pipeline_lib import openai_server
from pipeline_lib.config.base import JudgeModel, OpenAIEndpoint
from pipeline_lib.errors import RecipeError
from pipeline_lib.judges.chat_request import chat_request, first_length_field
from pipeline_lib.judges.endpoint import check_endpoint, read_key
from pipeline_lib.openai_server import is_private, retry_after_s, without_key, words

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
        check_endpoint(OpenAIEndpoint.model_construct(base_url=url, **PRICES, budget_usd=1))
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
    local, openai = OpenAIEndpoint(base_url="http://localhost/v1"), OpenAIEndpoint()
    assert (first_length_field(local), first_length_field(openai)) == ("max_tokens", "max_completion_tokens")
    request = chat_request(JudgeModel(model="m"), "t", {}, "max_tokens")
    assert request["max_tokens"] == 64 and request["temperature"] == 0 and "max_completion_tokens" not in request
    request = chat_request(JudgeModel(model="m", temperature=None), "t", {}, "max_completion_tokens")
    assert request["max_completion_tokens"] == 64 and not {"max_tokens", "temperature", "seed"} & set(request)


@pytest.mark.parametrize(
    "host", ["134744072", "0x08080808", "8.2056", "010.8.8.8", "8.8.8.8", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]"]
)
def test_a_number_for_a_public_server_is_no_private_server(host: str) -> None:
    assert not is_private(f"http://{host}/v1")
    with pytest.raises(RecipeError, match="is not a private server"):
        check_endpoint(OpenAIEndpoint(base_url=f"http://{host}/v1", **PRICES, budget_usd=1))


@pytest.mark.parametrize("host", ["2130706433", "127.1", "[::ffff:10.0.0.1]", "[fe80::1]", "[fd00::1]"])
def test_a_number_for_a_private_server_is_one(host: str) -> None:
    assert is_private(f"http://{host}/v1")


@pytest.mark.parametrize(
    ("name", "addresses", "private"),
    [
        ("judge.internal", ["10.0.0.4"], True),
        ("judge.internal", ["8.8.8.8"], False),  # a name that looks private
        ("judge", ["10.0.0.4", "8.8.8.8"], False),
        ("judge.example.org", ["10.0.0.4"], True),
        ("judge.example.org", ["fd00::4", "fe80::1%eth0"], True),
        ("judge", [], True),  # not known here, as the name of a container
        ("judge.example.org", [], False),
    ],
)
def test_the_addresses_of_a_name_decide_whether_it_is_private(
    name: str, addresses: list[str], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: None) -> list[Any]:
        assert host == name
        if not addresses:
            raise socket.gaierror
        return [(None, None, None, "", (address, 0)) for address in addresses]

    openai_server._addresses.cache_clear()
    monkeypatch.setattr(openai_server.socket, "getaddrinfo", resolve)
    assert is_private(f"http://{name}:8000/v1") == private
    openai_server._addresses.cache_clear()


@pytest.mark.parametrize("key", ["sk-marked-key-0123456789", "k/+ 9=?"])
def test_a_key_is_masked_in_each_form_that_a_server_may_echo(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for before in ("", ":", "u:", "Bearer ", "user:", "abcd"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            said = encode(f"{before}{key} and more".encode()).decode()
            left = without_key(f"you sent {said}", "OPENAI_API_KEY")
            assert "[OPENAI_API_KEY]" in left
            hidden = left.removeprefix("you sent ").replace("[OPENAI_API_KEY]", "")
            assert len(said) - len(hidden) >= len(key) * 4 // 3 - 2
    for said in (key, quote(key, safe=""), key.encode().hex(), key.encode().hex().upper()):
        assert without_key(f"<{said}>", "OPENAI_API_KEY") == "<[OPENAI_API_KEY]>"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "no"}, ": no"),
        ({"detail": "Not Found"}, ": Not Found"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
         ": body.seed: Extra inputs are not permitted"),
        ({"error": {"message": "no"}}, ": no"),
        ([{"error": "no"}], ": no"),
        ("plain\n text", ": plain text"),
        ("<html>page</html>", ""),
        ({"message": 3}, ""), (None, ""), ({}, ""), ([], ""), ("  ", ""),
    ],
)  # fmt: skip
def test_the_servers_own_words_are_read_from_every_usual_form(body: object, said: str) -> None:
    assert words(body, "OPENAI_API_KEY") == said
