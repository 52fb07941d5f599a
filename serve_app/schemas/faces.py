"""The pre-flight check: the faces of a photo and whether it would be accepted."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.face.detection import UNCERTAIN
from deployments.types import Box, FoundFaces, Photo
from serve_app.photos.source import PhotoSource
from serve_app.schemas.requests import given, unaliased
from serve_app.schemas.responses import Envelope, TimeRequired
from serve_app.schemas.warnings import PhotoWarning, face_warnings, recorded_warnings


class PictureRequest(BaseModel):
    """The body of a route that looks at a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file_url: PhotoSource = Field(
        description="The photo: an http(s) URL or `data:image/...;base64,`. `image` is an alias.",
        examples=["https://example.org/me.jpg"],
    )

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        return unaliased(given(data, cls), "file_url") if isinstance(data, dict) else data


class FacesRequest(PictureRequest):
    """The body of `POST /api/v1/faces`."""

    app_id: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="The app that the photo is for, whose face model then looks at it; omitted: the service's own.",
        examples=["face-avatar"],
    )


class ShownFace(BaseModel):
    """A face that was found, its box clipped to the photo."""

    box: Box = Field(description="Left, top, right, bottom; pixels of the upright photo of `width` x `height`.")
    score: float = Field(description="How sure the detector is, 0 to 1.")
    sharpness: float = Field(description="Fine detail of the face: 10 and more is sharp, less than 5 blurred.")


class FacesOutput(BaseModel):
    """`output` of a pre-flight."""

    width: int = Field(description="Of the upright photo, shrunk if it was too large; pixels.")
    height: int
    faces: list[ShownFace] = Field(description="The largest first.")
    used: int | None = Field(description="Which of them avatars would be made of: the largest; null where none is.")
    accepted: bool
    reason: Literal["no_face", "face_too_small"] | None = Field(description="Why it would not be accepted.")
    message: str = Field(description="The same in words; empty where it would be accepted.")
    warnings: list[PhotoWarning] = Field([], description="What to know about a photo that would be accepted.")


@dataclass(frozen=True, slots=True)
class Preflight:
    """The result of a pre-flight check, and how long its stages took in seconds."""

    output: FacesOutput
    fetch_s: float
    face_s: float

    @classmethod
    def of(cls, photo: Photo, found: FoundFaces, *, fetch_s: float, face_s: float) -> "Preflight":
        """The output for these faces; `fetch_s` includes decoding."""
        height, width = photo.pixels.shape[:2]
        faces = [
            ShownFace(
                box=_clipped(face.box, width, height), score=round(face.score, 4), sharpness=round(face.sharpness, 1)
            )
            for face in found.faces
        ]
        output = FacesOutput(
            width=width,
            height=height,
            faces=faces,
            used=0 if found.refusal is None else None,
            accepted=found.refusal is None,
            reason=found.refusal,
            message=_refusal_message(found),
            warnings=[*recorded_warnings(photo.warnings), *face_warnings(found)],
        )
        return cls(output, fetch_s, face_s)

    def envelope(self, request: FacesRequest) -> Envelope:
        """The answer of `/faces`, with the description of the photo, and the app where one was named, as `input`."""
        asked = {"app_id": request.app_id, "file_url": request.file_url.description}
        stages = {"fetch": round(self.fetch_s, 4), "face": round(self.face_s, 4)}
        return Envelope(
            time_required=TimeRequired(runtime=round(self.fetch_s + self.face_s, 4), stages=stages),
            input={name: value for name, value in asked.items() if value is not None},
            output=self.output.model_dump(),
        )


def _clipped(box: Box, width: int, height: int) -> Box:
    """Clips a box to the photo: a detector's box can extend beyond it."""
    left, top, right, bottom = box
    x0, x1 = (round(min(max(x, 0.0), width), 1) for x in (left, right))
    y0, y1 = (round(min(max(y, 0.0), height), 1) for y in (top, bottom))
    return x0, y0, x1, y1


def _refusal_message(found: FoundFaces) -> str:
    if found.refusal is None:
        return ""
    if found.uncertain:
        return UNCERTAIN
    if found.refusal == "no_face":
        return "No face was found. A face seen from the front, in even light and not covered, is found best."
    left, top, right, bottom = found.faces[0].box
    side = round(min(right - left, bottom - top))
    return f"The largest face is {side} pixels wide; at least {found.min_face_px} are needed."
