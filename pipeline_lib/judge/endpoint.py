"""Which server a judge model is behind, whether it costs money, and the key to it."""

import ipaddress
import os
from urllib.parse import urlsplit

from pipeline_lib.errors import RecipeError
from pipeline_lib.recipe import OpenAIEndpoint

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"

_PRIVATE_ENDINGS = (".local", ".internal", ".lan", ".localhost")


def check_endpoint(endpoint: OpenAIEndpoint) -> None:
    """Raise `RecipeError` when the server could not be asked, or could be at an unknown price.

    A server that is not on this machine or its private network counts as paid: it needs both prices and a budget
    (zeros for one that is free), and an encrypted connection for the key.
    """
    url = urlsplit(server_url(endpoint))
    prices = (endpoint.usd_per_million_input_tokens, endpoint.usd_per_million_output_tokens)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise RecipeError("runtime.openai.base_url: expected an address such as http://localhost:8000/v1")
    if url.username or url.password or url.query:
        raise RecipeError(
            f"runtime.openai.base_url: it must hold no user, password or parameters; give the key in {KEY_VARIABLE}"
        )
    paid = not _is_private(url.hostname)
    if paid and url.scheme == "http":
        raise RecipeError(f"runtime.openai.base_url: {url.hostname} is not a private server; it needs https://")
    if (paid or endpoint.budget_usd is not None) and None in prices:
        raise RecipeError(
            f"runtime.openai: the judge at {url.hostname} needs usd_per_million_input_tokens and"
            " usd_per_million_output_tokens, else its cost cannot be capped; see the provider's price list (0 if free)"
        )
    if paid and endpoint.budget_usd is None:
        raise RecipeError(
            f"runtime.openai: the judge at {url.hostname} needs budget_usd, the most that one stage may spend"
        )
    if not _is_header_text(read_key()):
        raise RecipeError(
            f"the environment variable {KEY_VARIABLE} holds characters that no key has (a line end, quotes?)"
        )
    if endpoint.base_url is None and not os.environ.get(KEY_VARIABLE):
        raise RecipeError(f"the judge at {url.hostname} needs a key: set the environment variable {KEY_VARIABLE}")


def server_url(endpoint: OpenAIEndpoint) -> str:
    """Address of the server's API."""
    return endpoint.base_url or OPENAI_URL


def server_name(endpoint: OpenAIEndpoint) -> str:
    """The server as messages name it."""
    return urlsplit(server_url(endpoint)).netloc.rpartition("@")[2]


def read_key() -> str:
    """The key, or a placeholder that servers without keys ignore."""
    return os.environ.get(KEY_VARIABLE) or "no-key-needed"


def without_key(text: str) -> str:
    """Text from a server, which may echo what it was sent, without the key."""
    return text.replace(read_key(), f"[{KEY_VARIABLE}]")


def _is_header_text(key: str) -> bool:
    """Else the client would fail with a message that cites the key."""
    return key.isascii() and key.isprintable() and not set(key) & set(" '\"")


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ENDINGS)
    return address.is_private or address.is_loopback or address.is_link_local
