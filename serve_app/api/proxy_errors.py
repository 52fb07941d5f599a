"""The envelopes of errors that Serve's proxy answers itself, because the application does not see the request."""

from uuid import uuid4

from starlette.responses import JSONResponse

from serve_app.api.openai_errors import error_body, error_headers, is_openai
from serve_app.api.security_headers import ALWAYS, JSON_ONLY
from serve_app.schemas.responses import Envelope

# By status; any other status is an internal error.
PROXY_ERRORS = {
    400: "Invalid Request",
    404: "Not Found",
    408: "Timeout",
    413: "Request Too Large",
    429: "Rate Limit",
    431: "Request Too Large",
    503: "Overloaded",
    504: "Timeout",
}
RETRY_AFTER_S = 5


def proxy_error(
    status: int,
    request_id: str | None = None,
    message: str = "The service could not answer this request.",
    path: str = "",
) -> JSONResponse:
    """The envelope of an error, or OpenAI's shape under its paths. Without a request id it gets one of its own."""
    name, data = PROXY_ERRORS.get(status, "Internal Error"), {"message": message}
    if is_openai(path):
        body, headers = error_body(status, name, data), error_headers(status)
    else:
        body, headers = Envelope(error=name, error_data=data, status="FAILED").model_dump(), {}
    answer = JSONResponse(body, status, ALWAYS | JSON_ONLY | headers)
    answer.headers["X-Request-Id"] = request_id or str(uuid4())
    if status in (429, 503):
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer
