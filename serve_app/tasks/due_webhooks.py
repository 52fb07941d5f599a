"""Which webhooks are to be called now: of tasks, and likewise of batches."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis

IN_LINE_S = 3600.0  # a webhook that waits in the line of its owner comes due again if the line was lost by then


class DueWebhooks:
    """The webhooks of one kind of records. Raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis, webhooks: str, owners: str, record_prefix: str) -> None:
        """`webhooks`, `owners`: keys of sorted sets, of what is due and of who has some in line.

        `record_prefix` and an id are the key of a record, whose field `owner` says whose it is.
        """
        self._keys = {"webhooks": webhooks, "owners": owners}
        self._record_prefix = record_prefix
        self._due = Script(redis, Path(__file__).with_name("lua") / "due_webhooks.lua")

    async def lease(self, count: int, of_owner: int, calls: Mapping[str, int], lease_s: float) -> list[tuple[str, str]]:
        """Lease at most `count` for `lease_s`; after that another process may take them. Returns ids and owners.

        Owners take turns, and none gets more than `of_owner`, with the `calls` that it has in this process already.
        """
        now = time.time()
        due = await self._due(
            **self._keys,
            now=now,
            leased_until=now + lease_s,
            most=count,
            most_of_owner=of_owner,
            record_prefix=self._record_prefix,
            in_line_until=now + IN_LINE_S,
            calls_of_owners=json.dumps(calls),
        )
        return [(record_id, owner) for record_id, owner in due]
