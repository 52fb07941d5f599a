"""Turns requests into tasks, with every check that needs no work on the photo."""

import os
import secrets
import time
import uuid
from dataclasses import dataclass

from deployments.errors import AvatarError
from serve_app.auth.tokens import UNLIMITED, Limits, Token
from serve_app.catalog.apps import NO_FALLBACK, App
from serve_app.catalog.catalog import Catalog
from serve_app.errors import ForbiddenError, ImageUrlError, InvalidRequestError
from serve_app.generation.prompt_filter import PromptFilter
from serve_app.generation.settings import GenerationSettings
from serve_app.photos.urls import check_url
from serve_app.schemas.requests import MAX_PROMPT, MAX_SEED, AvatarRequest, EffectiveRequest
from serve_app.tasks.models import Task, Webhook, idempotency_digest


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a request, and the idempotency key under which its repeats are the same task."""

    owner: str
    idempotency_key: str | None = None
    base_url: str = ""  # of this service, as the client sees it
    token: Token | None = None  # with its limits filled in; None: without limits

    @property
    def limits(self) -> Limits:
        """Those of the token; 0: no limit."""
        return self.token.limits if self.token else UNLIMITED


ANYBODY = Caller("")


class RequestValidator:
    """Turns requests that this service accepts into tasks."""

    def __init__(self, settings: GenerationSettings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._terms = PromptFilter(settings.safety.prompt_terms)

    def app(self, app_id: str) -> App:
        """An app that may be used. Raises: UnknownAppError; ForbiddenError where licences forbid its use."""
        app = self._catalog[app_id]
        if refusal := self._catalog.refusal(app_id, self._settings.license_mode):
            raise ForbiddenError(refusal)
        return app

    def task(self, request: AvatarRequest, caller: Caller) -> Task:
        """The task of a request, with all defaults filled in.

        Raises: UnknownAppError; InvalidRequestError; ForbiddenError where the licences of the app forbid its use.
        """
        app = self.app(request.app_id)
        self._check_consent(request)
        seed = secrets.randbelow(MAX_SEED + 1)
        effective = self._effective(request, app, seed)
        fallback = self._fallback(request, app, seed)
        key = caller.idempotency_key
        return Task(
            task_id=new_task_id(),
            owner=caller.owner,
            request=effective.model_copy(update={"fallback_app_id": None if fallback is None else fallback.app_id}),
            submitted_at=time.time(),
            idempotency=None if key is None else idempotency_digest(caller.owner, key),
            webhook=self.webhook(request.webhook_url, caller),
            token=caller.token.id if caller.token else "",
            fallback=fallback,
        )

    def _effective(self, request: AvatarRequest, app: App, seed: int) -> EffectiveRequest:
        """The request to an app with all defaults filled in. Raises: InvalidRequestError where that lacks something."""
        _check_style(request.style, app)
        _check_quality(request, app)
        deadline_s = self._deadline_s(request)
        _check_start_deadline(request.start_deadline_s, deadline_s)
        effective = EffectiveRequest.fill(request, app, seed=seed, deadline_s=deadline_s)
        self._check_prompt(effective.prompt, "gender" if request.prompt is None else "prompt")
        return effective

    def _fallback(self, request: AvatarRequest, app: App, seed: int) -> EffectiveRequest | None:
        """The same request to the app that it falls back on: the one that it names, or else the app's own.

        None where there is none, and where the app's own lacks something that the request asks for. Raises:
        UnknownAppError; ForbiddenError; InvalidRequestError, of the app that the request names.
        """
        named = request.fallback_app_id
        app_id = app.fallback_app_id if named is None else named
        if app_id is None or app_id.lower() == NO_FALLBACK:
            return None
        if app_id == request.app_id:
            raise _invalid(field="fallback_app_id", message="is the app itself")
        try:
            other = request.model_copy(update={"app_id": app_id, "fallback_app_id": app_id})
            effective = self._effective(other, self.app(app_id), seed)
        except AvatarError as error:
            if named is None and isinstance(error, InvalidRequestError):
                return None
            error.data |= {"message": f"Of the fallback app {app_id}: {error}", "fallback_app_id": app_id}
            raise
        return effective.model_copy(update={"fallback_from": request.app_id})

    def _deadline_s(self, request: AvatarRequest) -> float:
        """A synchronous request occupies slots while its client waits, so its deadline is bounded."""
        settings = self._settings
        if request.celery:
            return request.deadline_s or settings.queue.deadline_s
        return min(request.deadline_s or settings.deadline_s, settings.admission.max_deadline_s)

    def _check_consent(self, request: AvatarRequest) -> None:
        """Raises: InvalidRequestError where this service requires consent and the request does not confirm it."""
        if self._settings.require_consent and not request.consent:
            message = "this service takes a photo only with the consent of the person on it"
            raise _invalid(field="consent", message=message, accepted={"const": True})

    def _check_prompt(self, prompt: str, field: str) -> None:
        """Raises: InvalidRequestError where it is too long, or has a refused term, which is not told."""
        if len(prompt) > MAX_PROMPT:
            message = f"with the words of the style it has {len(prompt)} characters"
            raise _invalid(field=field, message=message, accepted={"maxLength": MAX_PROMPT})
        if self._terms.refuse(prompt):
            raise _invalid(field=field, message="has a word that this service refuses")

    def webhook(self, url: str | None, caller: Caller) -> Webhook | None:
        """The webhook of a task or a batch. Raises: InvalidRequestError where its URL may not be called."""
        if url is None:
            return None
        try:
            check_url(url, self._settings.fetch)
        except ImageUrlError as error:
            raise _invalid(field="webhook_url", message=str(error), accepted="an http or https URL") from None
        return Webhook(url=url, base_url=caller.base_url)


def _check_style(style: str | None, app: App) -> None:
    """Raises: InvalidRequestError where the app does not have it."""
    if style is not None and style not in app.styles:
        raise _invalid(field="style", message="the app has no such style", accepted={"enum": list(app.styles)})


def _check_quality(request: AvatarRequest, app: App) -> None:
    """Raises: InvalidRequestError where the app does not have it, or a field contradicts its preset."""
    if request.quality not in app.qualities:
        message = f"the app has no preset for {request.quality}"
        raise _invalid(field="quality", message=message, accepted={"enum": list(app.qualities)})
    preset = app.preset(request.quality)
    for name, value in ({} if preset is None else preset.fields).items():
        if getattr(request, name) not in (None, value):
            message = f"beside the quality {request.quality} it is {value!r}"
            raise _invalid(field=name, message=message, accepted={"const": value})


def _check_start_deadline(within_s: float | None, deadline_s: float) -> None:
    """Raises: InvalidRequestError where it is after the deadline of the request."""
    if within_s is not None and within_s > deadline_s:
        message = f"is after the deadline of this request, which is {deadline_s:g} s"
        raise _invalid(field="start_deadline_s", message=message, accepted={"maximum": deadline_s})


def _invalid(**problem: object) -> InvalidRequestError:
    return InvalidRequestError("The request is not valid.", fields=[problem])


def new_task_id() -> str:
    """UUID version 7 (RFC 9562): ids sort by the millisecond of their creation."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
