"""`POST /v1/images/edits`: OpenAI's parameters as a request for avatars."""

import re
from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, field_validator, model_validator
from pydantic_core import PydanticCustomError

from deployments.types import OutputFormat
from serve_app.api.form import FormPhoto
from serve_app.photos.source import MAX_PHOTOS, PhotoSource, PhotoSources
from serve_app.schemas.requests import MAX_BATCH, MAX_FIELDS, MAX_SEED, MAX_SIDE, MIN_SIDE, WHOLE, AvatarRequest

PHOTO = FormPhoto("image", ("image", "image[]"), "image")
SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")
AUTO = "auto"
MAX_PARTIAL_IMAGES = 3
FAST = {"low", "medium"}  # their clients name a quality whatever the model: no error where it has no preset
REFUSED = {
    "mask": "the whole picture is made anew, from the face alone",
    "markup": "the whole picture is made anew, from the face alone",
    "style": "the prompt says it",
    "complexity": "it has no meaning here",
    "frame_count": "avatars do not move",
    "frame_duration_ms": "avatars do not move",
    "svg": "avatars are pixels",
}


Several = Annotated[list[PhotoSource], Field(min_length=1, max_length=MAX_PHOTOS)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | PhotoSource) else value


class ImageEditRequest(BaseModel):
    """The body of `POST /v1/images/edits`, checked. `null` and an empty text stand for "not given"."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: Annotated[PhotoSources, BeforeValidator(_as_list, json_schema_input_type=PhotoSource | Several)] = Field(
        description="The reference photo, or up to four of one person: files, also as `image[]`; in JSON URLs or data "
        "URLs.",
        examples=["https://example.org/me.jpg"],
    )
    prompt: str | None = Field(
        None, max_length=2000, description='Replaces the default prompt; "" and "None" keep it.', examples=["None"]
    )
    model: str | None = Field(None, max_length=64, description="An id of `GET /v1/models`; omitted: the first of them.")
    n: Annotated[int, Field(ge=1, le=MAX_BATCH), WHOLE] = Field(1, description="How many images to make.")
    size: str = Field(AUTO, description=f"`WIDTHxHEIGHT`, {MIN_SIDE} to {MAX_SIDE} each; `auto`: as the model draws.")
    background: Literal["auto", "opaque", "transparent"] = "auto"
    output_format: OutputFormat = "png"
    quality: Literal["auto", "standard", "low", "medium", "high", "hd", "xhigh", "max"] = Field(
        "auto",
        description="low and medium: few steps, where the model has a preset for them; the others, and where it has "
        "none, its own number of steps.",
    )
    response_format: Literal["b64_json", "url"] = "b64_json"
    input_fidelity: Literal["high"] | None = Field(None, description="The face always counts as the model is set up.")
    stream: StrictBool = Field(
        False, description="Server-sent events in place of one answer, for one image (`n` 1) as `b64_json`."
    )
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES), WHOLE] = Field(
        0, description="With `stream`: how many small pictures are sent on the way; fewer where the image is soon done."
    )
    output_compression: Annotated[Literal[100], WHOLE] = Field(
        100, description="Files are written in the service's own quality."
    )
    moderation: Literal["auto"] = Field("auto", description="What is withheld is a setting of the service.")
    user: str | None = Field(None, max_length=256, description="Kept as the task's `ref_id`.")
    safety_identifier: str | None = Field(None, max_length=256, description="Accepted, and not kept.")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None = Field(
        None, description="Not OpenAI's: image i uses seed + i."
    )
    gender: str | None = Field(None, max_length=32, description="Not OpenAI's: as in `POST /getImageToImage`.")

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_meant(cls, data: Any) -> Any:
        """Drops what stands for "not given", and refuses by name what this API has and an avatar has not."""
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "the body has too many fields")
        for name in REFUSED.keys() & data.keys():
            message = f"not supported: {REFUSED[name]}"
            raise PydanticCustomError("not_supported", "{message}", {"message": message, "field": name})
        optional = cls.model_fields.keys() - {PHOTO.field}
        return {name: value for name, value in data.items() if name not in optional or value not in (None, "")}

    @model_validator(mode="after")
    def _streams_one_image(self) -> "ImageEditRequest":
        """The events carry no index, and no URL."""
        refused = {
            "n": self.stream and self.n > 1 and "with stream it is 1: the events do not say which image they are of",
            "response_format": self.stream and self.response_format == "url" and "with stream it is b64_json",
            "partial_images": not self.stream and self.partial_images > 0 and "comes with stream alone",
        }
        for name, message in refused.items():
            if message:
                raise PydanticCustomError("not_streamed", "{message}", {"message": message, "field": name})
        return self

    @field_validator("size")
    @classmethod
    def _in_range(cls, size: str) -> str:
        if size != AUTO and not ((sides := SIZE.fullmatch(size)) and all(map(_is_side, sides.groups()))):
            raise ValueError(f"must be auto, or WIDTHxHEIGHT with {MIN_SIDE} to {MAX_SIDE} pixels each")
        return size

    def avatar_request(self, default_model: str, fast: Container[str] = ()) -> AvatarRequest:
        """The same as a request for avatars; `fast` are the models with a preset of few steps.

        Raises: ValidationError, about its fields.
        """
        model = self.model or default_model
        width, height = (None, None) if self.size == AUTO else map(int, self.size.split("x"))
        return AvatarRequest(
            app_id=model,
            quality="fast" if self.quality in FAST and model in fast else "standard",
            file_url=self.image[0] if len(self.image) == 1 else None,
            file_urls=None if len(self.image) == 1 else self.image,
            prompt=self.prompt,
            gender=self.gender,
            batch=self.n,
            width=width,
            height=height,
            remove_background=self.background == "transparent",
            output_format=self.output_format,
            seed=self.seed,
            ref_id=self.user,
            previews=self.partial_images > 0,
        )


def _is_side(digits: str) -> bool:
    return MIN_SIDE <= int(digits) <= MAX_SIDE
