"""Tell a webhook when a run finishes, fails or waits: two automations, and the block that holds the address."""

from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from deployments.automations import register_automation, remove_automation
from pipeline_lib.errors import WhyScoreError

NONE = "none"
"""Given instead of an address: tell nobody from now on."""

BLOCK = "whyscore-notify"


def register_notifications(url: str) -> list[str]:
    """Make or change the automations that call the webhook at `url`, or remove them; returns lines that name them.

    The address is often a secret: the server keeps it in a block, encrypted, and no line shows it. Raises
    `WhyScoreError` for anything but an address.
    """
    if url == NONE:
        return [f"no {item['name']}" for item in automations(None) if remove_automation(item["name"])]
    if not url.startswith(("http://", "https://")) or not url.partition("://")[2]:
        raise WhyScoreError(
            f"--notify: give the address of a webhook, http:// or https://, or `{NONE}` to tell nobody any more"
        )
    return [register_automation(item) for item in automations(_save_block(url))]


def automations(block: UUID | None) -> list[dict[str, Any]]:
    """The automations as Prefect takes them, calling the webhook of a block."""
    text = (Path(__file__).with_name("notifications.yaml")).read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)["automations"]
    for action in (action for item in found for action in item["actions"]):
        action["block_document_id"] = block
    return found


def _save_block(url: str) -> UUID:
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr

    saved = Webhook(url=SecretStr(url)).save(BLOCK, overwrite=True)
    assert isinstance(saved, UUID)
    return saved
