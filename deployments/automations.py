"""Automations on a Prefect server, found by their names."""

from typing import Any


def register_automation(fields: dict[str, Any]) -> str:
    """Make an automation, or bring the one of its name up to date; returns a line that names it."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def save() -> None:
        async with get_client() as client:
            wanted = AutomationCore.model_validate(fields)
            found = await client.read_automations_by_name(wanted.name)
            if not found:
                await client.create_automation(wanted)
            for automation in found[:1]:
                await client.update_automation(automation.id, wanted)
            for automation in found[1:]:
                await client.delete_automation(automation.id)

    run_coro_as_sync(save())
    return f"automation {fields['name']}"


def remove_automation(name: str) -> bool:
    """Remove the automations of a name; returns whether there was one."""
    from prefect.client.orchestration import get_client
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def remove() -> bool:
        async with get_client() as client:
            found = await client.read_automations_by_name(name)
            for automation in found:
                await client.delete_automation(automation.id)
            return bool(found)

    return bool(run_coro_as_sync(remove()))
