"""Addresses that would tell a secret."""

import re
from urllib.parse import urlsplit

_USER = re.compile(r"(:/{1,2})[^/\s@'\"]*@")
_PARAMETERS = re.compile(r"(:/{1,2}[^\s?'\"]*\?)[^\s'\"]*")


def without_secrets(text: str) -> str:
    """A text for a message without the user, password and parameters of the addresses in it."""
    return _PARAMETERS.sub(r"\1***", _USER.sub(r"\1***@", text))


def secret_in(address: str) -> str | None:
    """Why an address of any kind is refused, without citing it: it holds a user, a password or parameters."""
    scheme, separator, rest = address.partition("://")
    if not separator or not scheme.isalnum():
        return None
    try:
        parts = urlsplit(address)
        port = scheme == "s3" and ":" in parts.netloc  # a bucket has none
        holds = "@" in parts.netloc or port or bool(parts.query)
    except ValueError:
        holds = "@" in rest
    if not holds:
        return None
    return (
        f"the {scheme}:// address holds a user, password, key or parameters; addresses are shown and stored. Give keys"
        " in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or OPENAI_API_KEY) or in the AWS files"
    )
