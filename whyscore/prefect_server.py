"""Prefect's server for several clients at once over SQLite: a transaction takes the write lock when it begins.

Prefect begins most transactions without the lock (`BEGIN DEFERRED`), reads, and asks for the lock at its first write.
SQLite refuses that at once when another client has written in between, and Prefect answers 503. Its clients ask six
times within a minute; then a run ends with that error. `BEGIN IMMEDIATE` waits instead, for up to a minute.
Figures: docs/experiments.md.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

__all__ = ["create_app"]

_begin = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def _begin_with_lock(
    configuration: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    async with _begin(configuration, session, with_for_update=True) as transaction:
        yield transaction


setattr(AioSqliteConfiguration, "begin_transaction", _begin_with_lock)  # noqa: B010 - mypy knows it as a method
