"""What clients send: the opening of a batch, and chunks of its requests, checked line by line."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import PydanticCustomError, to_json

from deployments.errors import AvatarError
from serve_app.batches.models import NewRequest
from serve_app.catalog.apps import NO_FALLBACK
from serve_app.errors import ImageUrlError, InvalidRequestError
from serve_app.schemas.errors import invalid_fields
from serve_app.schemas.requests import ALIASES, AvatarRequest, unaliased

MAX_CHUNK = 100  # requests: their photos are fetched, decoded and stored before the answer
MAX_CUSTOM_ID = 128  # characters
MAX_METADATA = 16  # entries
MAX_TOLD = 100  # errors of one chunk
MAX_CUSTOM_ID_SHOWN = 64
PHOTO_FIELDS = ("file_url", "file_urls", "image")
# What all requests of a batch have; they may say so themselves, as a copied body does.
FIXED = {
    "celery": True,
    "priority": "low",
    "fallback_app_id": NO_FALLBACK,
}  # they wait, rather than be drawn by another
SOME_PHOTO = "https://example.org/photo.jpg"  # stands for the photo where only the other fields are checked

Text = Annotated[str, StringConstraints(max_length=512)]


class BatchRequest(BaseModel):
    """The body of `POST /api/v1/batches`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    defaults: dict[str, Any] = Field(
        {},
        description="Fields of a request, but the photo, for all requests of the batch that do not say otherwise. "
        "A `webhook_url` here is called for each request.",
        examples=[{"app_id": "face-avatar", "gender": "female"}],
    )
    ref_id: str | None = Field(None, max_length=256, description="Your own reference, echoed.")
    metadata: dict[Text, Text] = Field(
        {}, max_length=MAX_METADATA, description="What else you want to find again with the batch."
    )

    webhook_url: str | None = Field(
        None,
        max_length=2048,
        description="An http(s) URL that gets the batch as a signed POST once all of its requests have ended.",
        examples=["https://example.org/batch-is-done"],
    )

    @field_validator("defaults")
    @classmethod
    def _of_a_request(cls, defaults: dict[str, Any]) -> dict[str, Any]:
        if named := defaults.keys() & {*PHOTO_FIELDS, "custom_id"}:
            raise PydanticCustomError("not_a_default", f"{min(named)} belongs to each request")
        try:
            parsed_request({"app_id": "face-avatar", **defaults, "file_url": SOME_PHOTO})
        except InvalidRequestError as error:
            problem = error.data["fields"][0]
            text = f"{problem['field']}: {problem['message']}"
            raise PydanticCustomError("invalid_default", "{text}", {"text": text}) from None
        return defaults

    def digest(self) -> str:
        """SHA-256 in hex, by which two of them with one idempotency key are compared."""
        return hashlib.sha256(to_json(self.model_dump())).hexdigest()


class ChunkLine(NamedTuple):
    """One request of a chunk as it came; `photos` are the files of a form."""

    line: int | None
    fields: dict[str, Any]


class LineErrors:
    """The errors of a chunk, by line; a chunk with any is not added."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._bad: set[tuple[int | None, str]] = set()

    def add(self, line: int | None, custom_id: str, error: AvatarError) -> None:
        """Note what is wrong with a request: each invalid field, or the one that an error is about."""
        self._bad.add((line, custom_id))
        fields = error.data.get("fields")
        for problem in fields if isinstance(fields, list) else [_problem_of(error)]:
            self._told.append({"line": line, "custom_id": custom_id[:MAX_CUSTOM_ID_SHOWN], **problem})

    def check(self) -> None:
        """Raises: InvalidRequestError where there are any."""
        if self._told:
            message = f"{len(self._bad)} of the requests are not valid, so none was added."
            raise InvalidRequestError(message, fields=self._told[:MAX_TOLD])


def _problem_of(error: AvatarError) -> dict[str, Any]:
    field = "file_url" if isinstance(error, ImageUrlError) else "app_id"
    return {"field": field, **error.data}


def parsed_chunk(lines: Sequence[ChunkLine], defaults: dict[str, Any]) -> list[NewRequest]:
    """The requests of a chunk, each with the defaults of its batch. For threads: photos are decoded from base64.

    Raises: InvalidRequestError, with the line and the `custom_id` of each problem.
    """
    errors, seen = LineErrors(), set[str]()
    requests = []
    for number, fields in lines:
        fields = dict(fields)
        custom_id = fields.pop("custom_id", None)
        try:
            _check_custom_id(custom_id, seen)
            requests.append(NewRequest(number, custom_id, parsed_request(_with_defaults(fields, defaults))))
        except (InvalidRequestError, ImageUrlError) as error:
            errors.add(number, custom_id if isinstance(custom_id, str) else "", error)
    errors.check()
    return requests


def parsed_request(fields: dict[str, Any]) -> AvatarRequest:
    """A queued request of low priority. Raises: InvalidRequestError; ImageUrlError."""
    for name, value in FIXED.items():
        if fields.get(name) not in (None, value):
            message = (
                f"the requests of a batch wait, with low priority, for their own app: leave it out, or send {value!r}"
            )
            raise _invalid(name, message)
    try:
        return AvatarRequest.model_validate({**fields, **FIXED})
    except ValidationError as error:
        raise invalid_fields(error, AvatarRequest) from None


def _with_defaults(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A request's own fields first, by whichever name; null takes the default."""
    try:
        others, own = (
            unaliased({k: v for k, v in some.items() if v is not None}, *ALIASES) for some in (defaults, fields)
        )
    except PydanticCustomError as error:
        raise _invalid("body", error.message()) from None
    return {**others, **own}


def _check_custom_id(custom_id: object, seen: set[str]) -> None:
    """Raises: InvalidRequestError."""
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID or not custom_id.isprintable():
        message = "names a request in its batch, and its result"
        raise _invalid("custom_id", message, accepted=f"1 to {MAX_CUSTOM_ID} printable characters")
    if custom_id in seen:
        raise _invalid("custom_id", "is in this chunk more than once")
    seen.add(custom_id)


def _invalid(field: str, message: str, **more: object) -> InvalidRequestError:
    return InvalidRequestError("The request is not valid.", fields=[{"field": field, "message": message, **more}])
