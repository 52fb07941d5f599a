"""Error handlers: turn every error into an envelope with its HTTP status."""

from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from deployments.errors import AvatarError
from serve_app.api.dependencies import RequestProgress, envelope_response
from serve_app.api.openai_errors import error_response, is_openai
from serve_app.errors import MethodNotAllowedError, NotFoundError, OverloadedError, RateLimitError, UnauthorizedError
from serve_app.schemas.errors import INTERNAL_ERROR, ErrorAnswer, answer_to


def add_error_handlers(api: FastAPI) -> None:
    """Handle AvatarError, Starlette's HTTPException (405, otherwise 404) and bugs (500).

    Handlers store the error's name as `outcome` in the request's state, for the metrics.
    Starlette raises a bug again after its answer, for the log.
    """

    def failed(request: Request, answer: ErrorAnswer, data: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
        progress = getattr(request.state, "progress", None) or RequestProgress()
        request.state.outcome = answer.name  # for the metrics
        if is_openai(request.url.path):
            return error_response(answer.status, answer.name, data, headers)
        failure = {"error": answer.name, "error_data": data, "status": "FAILED"}
        return envelope_response(progress.envelope().model_copy(update=failure), answer.status, headers)

    @api.exception_handler(AvatarError)
    async def on_avatar_error(request: Request, error: AvatarError) -> JSONResponse:
        headers = {}
        if isinstance(error, OverloadedError):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, RateLimitError):
            headers |= error.headers
        if isinstance(error, UnauthorizedError):
            headers["WWW-Authenticate"] = "Bearer"
        return failed(request, answer_to(error), error.data, headers)

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        method, path = request.method, request.url.path[:200]
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
            avatar_error: AvatarError = MethodNotAllowedError(
                f"{path} does not take {method}.", accepted=headers["Allow"]
            )
        else:
            avatar_error = NotFoundError(f"There is nothing at {path}.")
        return failed(request, answer_to(avatar_error), avatar_error.data, headers)

    @api.exception_handler(Exception)
    async def on_bug(request: Request, _error: Exception) -> JSONResponse:
        message = "Something went wrong here; the log of the service has it under this request id."
        # Serve's proxy gives every request an id, passes it on in this header, and sets it on the answer.
        request_id = request.headers.get("x-request-id", "")
        return failed(request, INTERNAL_ERROR, {"message": message, "request_id": request_id}, {})


def _allowed(request: Request) -> str:
    """The methods of all routes at this path. Starlette tells only those of the first."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))
