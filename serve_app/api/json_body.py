"""Parses JSON of clients, within limits on its structure."""

from codecs import BOM_UTF8
from typing import Any

from pydantic_core import from_json

from serve_app.errors import InvalidRequestError

MAX_STRUCTURE = 20_000  # brackets, braces and commas; prompts have at most 2,000 characters


def parse_json(body: bytes) -> Any:
    """Raises: InvalidRequestError."""
    # Counting takes milliseconds; parsing 16 MB of nested lists takes seconds.
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_STRUCTURE:
        problem = {"field": "body", "message": "more brackets, braces and commas than any request has"}
        raise InvalidRequestError("The body is not valid.", fields=[problem])
    try:
        return from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        problem = {"field": "body", "message": f"not valid JSON: {error}"}
        raise InvalidRequestError("The body is not valid JSON.", fields=[problem]) from None
