"""The server of a judge model: its address, its key, and whether it costs money."""

import os
from urllib.parse import urlsplit

from pipeline_lib import openai_server
from pipeline_lib.config.base import OpenAIEndpoint
from pipeline_lib.errors import RecipeError

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"


def check_endpoint(endpoint: OpenAIEndpoint) -> None:
    """Raise `RecipeError` when requests are not possible, or their price is unknown.

    A server that is not on this machine or its private network counts as paid: it needs both prices and a budget
    (zeros for one that is free), and an encrypted connection for the key.
    """
    address = server_url(endpoint)
    openai_server.check_address(address, "runtime.openai.base_url", KEY_VARIABLE)
    host, paid = urlsplit(address).hostname, not openai_server.is_private(address)
    prices = (endpoint.usd_per_million_input_tokens, endpoint.usd_per_million_output_tokens)
    if (paid or endpoint.budget_usd is not None) and None in prices:
        raise RecipeError(
            f"runtime.openai: the judge at {host} needs usd_per_million_input_tokens and"
            " usd_per_million_output_tokens, else its cost cannot be capped; see the provider's price list (0 if free)"
        )
    if paid and endpoint.budget_usd is None:
        raise RecipeError(f"runtime.openai: the judge at {host} needs budget_usd, the most that one stage may spend")
    if endpoint.base_url is None and not os.environ.get(KEY_VARIABLE):
        raise RecipeError(f"the judge at {host} needs a key: set the environment variable {KEY_VARIABLE}")


def server_url(endpoint: OpenAIEndpoint) -> str:
    """Address of the server's API."""
    return endpoint.base_url or OPENAI_URL


def server_name(endpoint: OpenAIEndpoint) -> str:
    """The server's name in messages."""
    return openai_server.server_name(server_url(endpoint))


def read_key() -> str:
    """The key, or a placeholder that servers without keys ignore."""
    return openai_server.read_key(KEY_VARIABLE)


def without_key(text: str) -> str:
    """Text from a server, which may echo what it was sent, without the key."""
    return openai_server.without_key(text, KEY_VARIABLE)
