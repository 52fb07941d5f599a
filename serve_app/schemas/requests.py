"""The requests of clients, and the same requests with all defaults filled in."""

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from deployments.types import OutputFormat
from serve_app.catalog.apps import App, Quality
from serve_app.photos.source import PhotoSource, PhotoSources, photos_of
from serve_app.photos.urls import describe_url
from serve_app.schemas.gender import gender_word

MAX_BATCH = 8
MIN_SIDE, MAX_SIDE = 256, 1536  # pixels
MAX_SEED = 2**32 - 9  # image i uses seed + i, which must stay below 2**32
ALIASES = {"file_url": ("image",), "ref_id": ("refID", "reference_id")}
MAX_PROMPT = 2000  # characters
MAX_FIELDS = 64  # of a body: each unknown field adds an entry to the answer
_FIELDS = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
OPTIONAL_STRINGS = frozenset(
    {
        "prompt",
        "gender",
        "negative_prompt",
        "bg_color",
        "output_format",
        "ref_id",
        "priority",
        "quality",
        "style",
        "webhook_url",
        "fallback_app_id",
    }
)

Priority = Literal["normal", "low"]


def _whole_number(value: Any) -> Any:
    """Accepts 4.0 as the integer 4, since JSON has one number type; rejects booleans and strings."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a JSON number without a fraction")
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("must be a JSON number without a fraction")
        return int(value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a JSON number")
    return value


# Put bounds before these: after them, and next to null, they would not appear in the JSON schema.
WHOLE, NUMBER = BeforeValidator(_whole_number), BeforeValidator(_number)
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
HexColor = Annotated[str, Field(pattern=r"^#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})$", examples=["#FFFFFF"])]


def unaliased(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """A body with the aliases of these fields replaced by the field names. Raises: PydanticCustomError."""
    if len(data) > MAX_FIELDS:
        raise PydanticCustomError("too_many_fields", "the body has too many fields")
    data = dict(data)
    for name in names:
        for alias in ALIASES[name]:
            # An alias that contradicts its field is kept, and rejected as an unknown field.
            if alias in data and data.setdefault(name, data[alias]) == data[alias]:
                del data[alias]
    return data


def given(data: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What a body gives of a model's fields: null, and an empty text for an optional one, stand for "not given"."""

    def is_given(name: str, value: Any) -> bool:
        field = _FIELDS.get(name, name)
        return field not in model.model_fields or not (value is None or (value == "" and field in OPTIONAL_STRINGS))

    return {name: value for name, value in data.items() if is_given(name, value)}


def _with_null(schema: dict[str, Any]) -> None:
    """Says that every optional field may be null, which stands for "not given"."""
    for name, field in schema["properties"].items():
        if name in schema.get("required", ()) or {"type": "null"} in field.get("anyOf", ()):
            continue
        shown = {key: field.pop(key) for key in ("title", "default", "description", "examples") if key in field}
        schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **shown}


def _schema(schema: dict[str, Any]) -> None:
    _with_null(schema)
    schema["anyOf"] = [{"required": [name]} for name in ("file_url", "file_urls")]


class AvatarRequest(BaseModel):
    """The body of `POST /getImageToImage`, checked. What is None takes the app's own value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra=_schema)

    app_id: str = Field(min_length=1, max_length=64, examples=["face-avatar"])
    file_url: PhotoSource | None = Field(
        None,
        description="The reference photo: an http(s) URL or `data:image/...;base64,`. `image` is an alias.",
        examples=["https://example.org/me.jpg"],
    )
    file_urls: PhotoSources | None = Field(
        None,
        validate_default=True,
        description="In place of `file_url`, 1 to 4 photos of one person: the face is the mean of theirs.",
        examples=[["https://example.org/me.jpg", "https://example.org/me-too.jpg"]],
    )
    prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT,
        description='Replaces the default prompt whole; null and "None" take the default, with the gender filled in. '
        "An app that knows a few words alone lists them: `vocabulary` in `GET /api/v1/apps`.",
    )
    gender: str | None = Field(
        None,
        max_length=32,
        pattern=r"^[^\W\d_]([^\W\d_]|[ -])*$",
        description="male, man, boy, m; female, woman, girl, f; the same in the ten largest languages; or another "
        "word, used as it is. Unused with a prompt.",
        examples=["female"],
    )
    style: str | None = Field(
        None,
        max_length=32,
        description="One of the app's `styles` in `GET /api/v1/apps`. Its prompt takes the default prompt's place, and "
        "a prompt of the request becomes a part of it.",
        examples=["comic"],
    )
    negative_prompt: str | None = Field(None, max_length=MAX_PROMPT)
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH), WHOLE] = Field(1, description="How many images to generate.")
    height: Side | None = Field(None, description="Pixels; the result has exactly this size.")
    width: Side | None = Field(None, description="Pixels; the result has exactly this size.")
    quality: Quality = Field(
        "standard",
        description="fast: few steps, where the app has a preset for them: `qualities` in `GET /api/v1/apps`. Then "
        "num_inference_steps, guidance_scale and negative_prompt are those of its preset, `fast` there.",
    )
    num_inference_steps: Annotated[int, Field(ge=1, le=50), WHOLE] | None = None
    guidance_scale: Annotated[float, Field(ge=1, le=30), NUMBER] | None = None
    ip_adapter_scale: Annotated[float, Field(ge=0, le=1), NUMBER] | None = Field(
        None, description="How much the face counts beside the prompt; omitted: as the model is set up."
    )
    min_similarity: Annotated[float, Field(ge=0, le=1), NUMBER] | None = Field(
        None,
        description="An image whose `face_similarity` is less, or null, is drawn again with another seed, twice at "
        "most and while the deadline leaves time; the best is kept, and `output.attempts` tells of all. Omitted: as "
        "the app says, most of which ask for none.",
        examples=[0.6],
    )
    remove_background: StrictBool = Field(False, description="true: transparent background.")
    bg_color: HexColor | None = Field(
        None, description="The background is cut out and filled with this colour, also with `remove_background`."
    )
    celery: StrictBool = Field(False, description="true: queue the request and answer 202 at once, with a `task_id`.")
    previews: StrictBool = Field(
        False,
        description="true: the task's events show small pictures of each image as it becomes clear, which are stored "
        "nowhere; not of apps whose images a safety checker sees.",
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None = Field(
        None, description="Image i uses seed + i; drawn where omitted."
    )
    output_format: OutputFormat = "png"
    ref_id: str | None = Field(
        None, max_length=256, description="The client's own reference, echoed. Aliases: `refID`, `reference_id`."
    )
    webhook_url: str | None = Field(
        None, max_length=2048, description="An http(s) URL that gets the final envelope as a signed POST."
    )
    consent: StrictBool = Field(
        False,
        description="true: the person on the photo agrees to this use of it. Some services ask for it: "
        "`consent_required` in `GET /api/v1/apps`.",
    )
    priority: Priority = Field(
        "normal", description="low: a queued request that waits while others do, but for a turn now and then."
    )
    deadline_s: Annotated[float, Field(gt=0, le=3600), NUMBER] | None = Field(
        None, description="Seconds until the request is given up."
    )
    start_deadline_s: Annotated[float, Field(gt=0, le=3600), NUMBER] | None = Field(
        None,
        description="Seconds until it is given up unless the first step of its first image has begun: nothing is drawn "
        "then, and nothing counted. At most `deadline_s`.",
        examples=[20],
    )
    fallback_app_id: str | None = Field(
        None,
        max_length=64,
        description="The app that draws where this one would miss a deadline by the forecast of the queue, or as its "
        "model must be loaded first; decided once, when the request is accepted. Omitted: as the operator says; "
        '"none": no other app.',
        examples=["face-avatar-sdxl"],
    )

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        """Drops what stands for "not given": null, and empty optional strings. Turns aliases into field names."""
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("gender"), str):
            data = {**data, "gender": data["gender"].strip()}
        return unaliased(given(data, cls), *ALIASES)

    @field_validator("file_urls")
    @classmethod
    def _one_way_to_give_photos(cls, several: Any, info: ValidationInfo) -> Any:
        if "file_url" not in info.data:  # that has its own error
            return several
        if several is None and info.data["file_url"] is None:
            raise PydanticCustomError("missing", "Field required", {"field": "file_url"})
        if several is not None and info.data["file_url"] is not None:
            raise ValueError("comes beside a file_url: send one of them")
        return several

    @model_validator(mode="after")
    def _format_carries_transparency(self) -> "AvatarRequest":
        if self.output_format == "jpeg" and self.remove_background and self.bg_color is None:
            message = "jpeg has no transparency: take png or webp, or give a bg_color"
            raise PydanticCustomError("no_transparency", "{message}", {"message": message, "field": "output_format"})
        return self

    @property
    def photos(self) -> tuple[PhotoSource, ...]:
        """The photos of the person, at least one."""
        return photos_of(self)


def body_digest(request: AvatarRequest) -> str:
    """SHA-256 in hex of a request as JSON, by which two requests with one idempotency key are compared.

    An uploaded photo is hashed in parts, as a data URL. For threads: it may be megabytes.
    """
    several = request.file_urls is not None
    name, other = ("file_urls", "file_url") if several else ("file_url", "file_urls")
    descriptions = [photo.description for photo in request.photos]
    shown = f'"{name}":{to_json(descriptions if several else descriptions[0]).decode()}'
    # Without what is not given and was not known to former versions: their digests of the same request are the same.
    # Previews change nothing about the images.
    newer = {
        name
        for name in ("style", "quality", "start_deadline_s", "fallback_app_id")
        if getattr(request, name) == type(request).model_fields[name].default
    }
    text = request.model_dump_json(exclude={other, "previews", *newer})
    before, _, after = text.partition(shown)  # quotes inside of a string would be escaped
    digest = hashlib.sha256(f'{before}"{name}":{"[" if several else ""}'.encode())
    for index, photo in enumerate(request.photos):
        digest.update(b',"' if index else b'"')
        for part in photo.url_parts():
            digest.update(to_json(part)[1:-1])  # without its quotes
        digest.update(b'"')
    digest.update(f"{']' if several else ''}{after}".encode())
    return digest.hexdigest()


class StatusRequest(BaseModel):
    """The body of `POST /getImage`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(min_length=1, max_length=64, description="A `task_id`.")
    refID: str | None = Field(None, max_length=256, description="Not needed: the task's own `ref_id` is in `input`.")  # noqa: N815


class EffectiveRequest(AvatarRequest):
    """A request with all defaults filled in, as `input` of the answer shows it; of the photo only a description.

    Here are only the fields that are filled in, or may be longer than in a request. It is stored, and read by processes
    of other versions: what one of them accepted is not judged again.
    """

    model_config = ConfigDict(extra="ignore", strict=False, json_schema_extra=None)

    file_url: str  # type: ignore[assignment]  # the first photo, also where there are several
    file_urls: tuple[str, ...] | None = None  # type: ignore[assignment]
    prompt: str
    gender: str
    negative_prompt: str
    batch: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    deadline_s: float
    fallback_from: str | None = None  # the app that was asked for, where another one draws

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        return data  # an empty text is what the app or the client wants

    @field_validator("file_urls")
    @classmethod
    def _one_way_to_give_photos(cls, several: Any, _info: ValidationInfo) -> Any:
        return several

    @property
    def photo_count(self) -> int:
        """How many photos of the person there are."""
        return 1 if self.file_urls is None else len(self.file_urls)

    @classmethod
    def fill(cls, request: AvatarRequest, app: App, *, seed: int, deadline_s: float) -> "EffectiveRequest":
        """Fill missing fields from the app's defaults; `seed` applies if the request has none, `deadline_s` always."""
        gender = gender_word(request.gender)
        own_prompt = None if request.prompt == "None" else request.prompt
        filled = {
            **app.defaults_of(request.style, request.quality),
            "seed": seed,
            **request.model_dump(exclude_none=True),
            "file_url": request.photos[0].description,
            "gender": gender,
            "prompt": app.filled_prompt(own_prompt, gender, request.style),
            "deadline_s": deadline_s,
            "webhook_url": None if request.webhook_url is None else describe_url(request.webhook_url),
        }
        return cls(**filled)


def rgb(bg_color: str) -> tuple[int, int, int]:
    """#RGB or #RRGGBB as three bytes."""
    digits = bg_color.removeprefix("#")
    if len(digits) == 3:
        digits = re.sub("(.)", r"\1\1", digits)
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
