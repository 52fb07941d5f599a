"""Shared by the routes: authentication, request progress and envelope responses."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.responses import JSONResponse

from serve_app.api.openai_errors import is_openai, rate_limit_headers
from serve_app.api.settings import IngressSettings
from serve_app.auth.access import Access
from serve_app.errors import InvalidRequestError
from serve_app.schemas.responses import Envelope, TimeRequired
from serve_app.tasks.models import Failure, Task

MAX_IDEMPOTENCY_CHARS = 255


@dataclass
class RequestProgress:
    """The state of one request: enough to build the envelope of an error."""

    started: float = field(default_factory=time.perf_counter)
    app_id: str = ""
    task: Task | None = None

    def envelope(self) -> Envelope:
        """An envelope without output: the seconds so far and, once there is a task, its request as `input`."""
        return Envelope(
            time_required=TimeRequired(runtime=round(time.perf_counter() - self.started, 4)),
            input=self.task.request.model_dump() if self.task else {},
            app_id=self.app_id,
            task_id=self.task.task_id if self.task else "",
        )


def authenticator(access: Access, settings: IngressSettings) -> Callable[..., Awaitable[None]]:
    """A dependency for `Security` that checks the token and the rights named as scopes, before the body is read.

    It stores the token, its owner and the headers of its rate limit in the request's state.
    The dependency raises: UnauthorizedError; ForbiddenError; RateLimitError; BrokerError.
    """
    bearer = HTTPBearer(auto_error=False, description="A token of the service.")

    async def authenticate(
        request: Request,
        scopes: SecurityScopes,
        _shown: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
    ) -> None:
        required: Any = scopes.scopes
        # Without a proxy that names them, all clients behind one would share its address.
        address = request.client.host if settings.trusted_proxies and request.client is not None else None
        authenticated = await access.authenticate(request.headers.get("authorization"), required, address)
        request.state.token, request.state.owner = authenticated.token, authenticated.token.owner
        if authenticated.quota is not None:
            headers = authenticated.quota.headers()
            request.state.answer_headers = rate_limit_headers(headers) if is_openai(request.url.path) else headers

    return authenticate


def idempotency_key(request: Request) -> str | None:
    """The header of a request, None without one. Raises: InvalidRequestError."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_CHARS):
        problem = {"field": "Idempotency-Key", "message": f"must have 1 to {MAX_IDEMPOTENCY_CHARS} characters"}
        raise InvalidRequestError("The request is not valid.", fields=[problem])
    return key


def retry_headers(failure: Failure) -> dict[str, str]:
    """The header that says when to come back, where the recorded error names a time."""
    retry_after_s = failure.error_data.get("retry_after_s")
    return {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


def base_url(request: Request, settings: IngressSettings) -> str:
    """The start of the links in answers: `public_url`, or else the root of the URL that was requested."""
    return settings.public_url or str(request.base_url)


def envelope_response(envelope: Envelope, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """The envelope as JSON; `status` is the HTTP status, which does not follow from the envelope."""
    return JSONResponse(envelope.model_dump(), status, headers)
