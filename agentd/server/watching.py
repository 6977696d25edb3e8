"""``subscriptions/listen`` (2026-07-28): one stream a client, which tells what of jobs and runs has changed.

A stream holds no queue. After each change of the kernel it compares what it said last with what is so now:
a slow client misses steps in between, never the last one. Nothing is kept when a stream ends; who listens
again reads again. Only jobs, runs and lists of them and of reports are watched: the rest changes by calls,
whose answers say so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    ResourcesListChanged,
    ResourceUpdated,
    event_to_notification,
)

from agentd.errors import AgentdError
from agentd.server.asker import Asker, Context
from agentd.server.holdings import Holdings, address
from agentd.server.ports import Caller, Kernel

__all__ = ["Watching"]

MOST_STREAMS = 256
MOST_ADDRESSES = 256
PAUSE_S = 0.25
"""At most so often a stream looks again: a job may report progress many times a second."""

WATCHED = ("jobs", "runs", "reports")


class Watching:
    """The handler of ``subscriptions/listen``. It asks for role `view`."""

    def __init__(self, kernel: Kernel, holdings: Holdings, caller_of: Asker) -> None:
        self._kernel, self._holdings, self._caller_of = kernel, holdings, caller_of
        self._streams, self._closed = 0, False

    def close(self) -> None:
        """End every stream as the protocol wants it: with a result, so that clients listen again."""
        self._closed = True
        self._kernel.changes.announce()

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Acknowledges what will be told, tells it, and ends with the client, or with the daemon."""
        caller = self._caller_of(ctx)
        if ctx.request_id is None:
            raise MCPError(types.INVALID_REQUEST, "subscriptions/listen needs a request id")
        if self._streams >= MOST_STREAMS:
            raise MCPError(types.INTERNAL_ERROR, f"There are {MOST_STREAMS} streams already. Close one")
        self._streams += 1
        try:
            await self._tell(ctx, honored(params.notifications), caller)
        finally:
            self._streams -= 1
        return types.SubscriptionsListenResult(_meta={SUBSCRIPTION_ID_META_KEY: ctx.request_id})

    async def _tell(self, ctx: Context, wanted: types.SubscriptionFilter, caller: Caller) -> None:
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        uris = wanted.resource_subscriptions or []
        version = self._kernel.changes.version
        said = await self._marks(uris, caller)
        listed = self._newest(caller) if wanted.resources_list_changed else ()
        await ctx.session.send_notification(
            types.SubscriptionsAcknowledgedNotification(
                params=types.SubscriptionsAcknowledgedNotificationParams(notifications=wanted, _meta=meta)
            ),
            related_request_id=ctx.request_id,
        )
        while not self._closed:
            await self._kernel.changes.after(version)
            version = self._kernel.changes.version
            now = await self._marks(uris, caller)
            changed = [ResourceUpdated(uri=uri) for uri in uris if now[uri] != said[uri]]
            newest = self._newest(caller) if wanted.resources_list_changed else ()
            events = [*changed, ResourcesListChanged()] if newest != listed else changed
            said, listed = now, newest
            for event in events:
                note = event_to_notification(event, meta)
                await ctx.session.send_notification(note, related_request_id=ctx.request_id)
            if not self._closed:
                await asyncio.sleep(PAUSE_S)

    async def _marks(self, uris: Sequence[str], caller: Caller) -> dict[str, str]:
        """A digest of what stands at each address; "" where nothing does."""
        return {uri: await self._mark(uri, caller) for uri in uris}

    async def _mark(self, uri: str, caller: Caller) -> str:
        try:
            read = await self._holdings.read(uri, caller)
        except AgentdError:
            return ""
        return hashlib.sha256(read.text.encode()).hexdigest()

    def _newest(self, caller: Caller) -> tuple[str, ...]:
        """Lists grow at their head: its ids tell whether they have."""
        seen = self._kernel.seen_by(caller)
        jobs, runs = seen.jobs.list(limit=1), seen.runs.list(limit=1)
        reports = self._kernel.reports.list()[:1]
        return (*(job.id for job in jobs), *(run["id"] for run in runs), *(each.id for each in reports))


def honored(asked: types.SubscriptionFilter) -> types.SubscriptionFilter:
    """What of it will be told. Lists of tools and prompts never change while the daemon runs.

    Raises `MCPError` for more addresses than a stream may have.
    """
    prefixes = tuple(address(kind) for kind in WATCHED)
    uris = [
        uri
        for uri in dict.fromkeys(asked.resource_subscriptions or ())
        if uri in prefixes or (uri.startswith(tuple(f"{each}/" for each in prefixes)) and uri.count("/") == 3)
    ]
    if len(uris) > MOST_ADDRESSES:
        raise MCPError(types.INVALID_PARAMS, f"A stream tells of at most {MOST_ADDRESSES} addresses")
    return types.SubscriptionFilter(
        resources_list_changed=True if asked.resources_list_changed else None,
        resource_subscriptions=uris or None,
    )
