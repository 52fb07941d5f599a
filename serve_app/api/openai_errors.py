"""Errors in the shape of OpenAI's API, for every path under `/v1/`."""

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

PREFIX = "/v1/"
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
REPEATED_IN_VAIN = (409, 504)  # the SDK repeats these by itself, without an idempotency key
NO_REPEAT = {"x-should-retry": "false"}


class OpenAIError(BaseModel):
    """What went wrong: `code` is the stable name, `param` the field that was refused, None where it is none."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The body of every error under `/v1/`."""

    error: OpenAIError


def is_openai(path: str) -> bool:
    """Whether answers under this path have OpenAI's shape."""
    return path.startswith(PREFIX)


def error_body(status: int, name: str, data: Any) -> dict[str, Any]:
    """The body of an error; `name` and `data` are `error` and `error_data` of the envelope."""
    data = data if isinstance(data, dict) else {}
    fields = data.get("fields") or []
    told = [str(data.get("message", name)), *(f"{each['field']}: {each['message']}" for each in fields)]
    error = OpenAIError(
        message=" ".join(told),
        type=TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        param=fields[0]["field"] if fields else f"image[{data['photo']}]" if "photo" in data else None,
        code=name.lower().replace(" ", "_"),
    )
    return OpenAIErrorBody(error=error).model_dump()


def error_response(status: int, name: str, data: Any, headers: dict[str, str]) -> JSONResponse:
    """An error with its headers, and those that this API's clients want on it."""
    return JSONResponse(error_body(status, name, data), status, headers | error_headers(status))


def error_headers(status: int) -> dict[str, str]:
    """Headers that this API's clients want on an error."""
    return NO_REPEAT if status in REPEATED_IN_VAIN else {}


def rate_limit_headers(headers: dict[str, str]) -> dict[str, str]:
    """The names that OpenAI's clients read, beside those of the draft standard."""
    names = {"RateLimit-Limit": "limit", "RateLimit-Remaining": "remaining", "RateLimit-Reset": "reset"}
    ours = {f"x-ratelimit-{short}-requests": headers[name] for name, short in names.items() if name in headers}
    if "x-ratelimit-reset-requests" in ours:
        ours["x-ratelimit-reset-requests"] += "s"
    return headers | ours
