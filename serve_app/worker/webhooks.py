"""Webhooks: the final envelope of a task or a batch as a signed POST to its client, delivered at least once.

They follow Standard Webhooks 1.0 (standardwebhooks.com), whose libraries verify the signature. The script that records
the end of one also marks its webhook as due, so a process that dies delays a delivery but loses none. `webhook-id`
is the same in every attempt, so that a receiver can drop repeats.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver
from ray.serve import metrics

from serve_app.auth.webhook_signature import signature, webhook_key
from serve_app.errors import BrokerError, ImageUrlError, StoreError
from serve_app.photos.fetch import RefusedAddressError, ResolverOf, guarded_session
from serve_app.photos.resolver import NameLookups
from serve_app.photos.urls import CLIENT_ERRORS, FetchSettings, check_url
from serve_app.tasks.models import Delivery
from serve_app.worker.webhook_messages import Message, WebhookSource

MAX_ATTEMPTS = 10  # over about an hour
FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 3600.0
AT_ONCE, AT_ONCE_OF_OWNER = 64, 16  # of one worker
LEASE_S = 60.0  # longer than an attempt; those of a dead process are then repeated
GONE = 410  # HTTP status: the receiver wants no more attempts

log = logging.getLogger(__name__)


class WebhookSender:
    """Calls the webhooks that are due. Lives on one event loop."""

    name = "webhook sender"
    every_s = 1.0

    def __init__(
        self,
        sources: Sequence[WebhookSource],
        signing_key: bytes,
        settings: FetchSettings,
        resolver_of: ResolverOf | None = None,
    ) -> None:
        """`sources` are asked in this order."""
        self._sources = sources
        self._signing_key = signing_key
        self._settings = settings
        self._resolver_of = resolver_of or NameLookups(settings.name_servers).of_owner
        self._calling: dict[asyncio.Task[None], str] = {}  # with the owners
        self._calls = metrics.Counter("avatar_webhook_calls_total", "Webhooks called.", ("outcome",))

    async def run_once(self) -> None:
        """Start calling the webhooks that are due. Raises: BrokerError."""
        for source in self._sources:
            free, calls = AT_ONCE - len(self._calling), Counter(self._calling.values())
            for record_id, owner in await source.due_webhooks(free, AT_ONCE_OF_OWNER, calls, LEASE_S):
                calling = asyncio.create_task(self._call(source, record_id))
                self._calling[calling] = owner
                calling.add_done_callback(self._calling.pop)

    async def wait(self) -> None:
        """Wait for the calls that are in progress."""
        await asyncio.gather(*self._calling)

    async def _call(self, source: WebhookSource, record_id: str) -> None:
        try:
            message = await source.message(record_id)
            if message is None:
                await source.note_delivery(record_id, Delivery(), None)
                return
            delivery = await self._attempt(message)
            self._calls.inc(1, {"outcome": delivery_outcome(delivery)})
            again_at = None
            if delivery.delivered_at is None and not delivery.given_up:
                again_at = time.time() + pause_s(delivery.attempts)
            await source.note_delivery(record_id, delivery, again_at)
        except (BrokerError, StoreError) as error:
            log.warning("the webhook of %s is delayed: %s", record_id, error.__cause__)
        except Exception:
            log.exception("the webhook of %s: the worker has a bug", record_id)

    async def _attempt(self, message: Message) -> Delivery:
        """Call a webhook once."""
        body = message.envelope.model_dump_json().encode()
        attempts = message.before.attempts + 1
        resolver = self._resolver_of(message.owner)
        status, error = await self._post(message.webhook.url, body, self._headers(message, body), resolver)
        if status is not None and 200 <= status < 300:
            return Delivery(attempts=attempts, delivered_at=time.time(), status=status)
        given_up = status == GONE or attempts >= MAX_ATTEMPTS
        return Delivery(attempts=attempts, given_up=given_up, status=status, error=error)

    def _headers(self, message: Message, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        key = webhook_key(self._signing_key, message.owner)
        return {
            "Content-Type": "application/json",
            "webhook-id": message.webhook_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(key, message.webhook_id, timestamp, body),
        }

    async def _post(
        self, url: str, body: bytes, headers: dict[str, str], resolver: AbstractResolver
    ) -> tuple[int | None, str]:
        """The HTTP status of the response, and an error message that does not reveal what an address resolved to."""
        try:
            target = check_url(url, self._settings)
            async with (
                asyncio.timeout(self._settings.timeout_s),
                guarded_session(self._settings, headers, resolver) as session,
                session.post(target, data=body, allow_redirects=False) as response,
            ):
                return response.status, f"answered with HTTP status {response.status}"
        except TimeoutError:
            return None, f"no answer within {self._settings.timeout_s:g} s"
        except ImageUrlError as error:
            return None, str(error)
        except CLIENT_ERRORS as error:
            if isinstance(getattr(error, "os_error", None), RefusedAddressError):
                return None, "the URL leads to an address that is not public"
            return None, "the server of the URL could not be reached or broke off"


def pause_s(attempts: int) -> float:
    """Seconds until the next attempt; with jitter, so that a receiver that was down does not get all calls at once."""
    return min(FIRST_PAUSE_S * 2.0 ** (attempts - 1), MAX_PAUSE_S) * random.uniform(0.5, 1)


def delivery_outcome(delivery: Delivery) -> str:
    """The metric's label for an attempt: delivered, given up, or failed, which is tried again."""
    if delivery.delivered_at is not None:
        return "delivered"
    return "given up" if delivery.given_up else "failed"
