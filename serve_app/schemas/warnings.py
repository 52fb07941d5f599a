"""What the owner of a photo should know although it is used: `output.warnings` of an answer and of a pre-flight."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from deployments.types import FoundFaces

DIFFERENT_PEOPLE = "different_people"
NO_GUIDANCE = "no_guidance"
MESSAGES = {
    "clipped": "The file lost its end, so a part of the photo is missing or blurred. Copying it again may help.",
    "first_frame": "The file has several frames. The first is used.",
    "too_dark": "The photo is dark: skin colour may come out wrong. A photo in daylight works better.",
    "backlit": "The light comes from behind: skin colour may come out wrong. With light on the face it works better.",
    "colour_cast": "The light has a colour: skin and hair colour may come out wrong. A photo in daylight works better.",
    "monochrome": "The photo has no colours: those of skin and hair are guessed. A photo in colour works better.",
    "tilted": "The head is tilted. A photo of an upright head gives a better likeness.",
    "blurred": "The face is blurred. A sharper photo gives a better likeness.",
    NO_GUIDANCE: "This app's model has no guidance: guidance_scale and negative_prompt have no effect.",
    DIFFERENT_PEOPLE: "This photo looks unlike the others. All of them should show the same person.",
}
"""By the codes that a task records: those of `deployments.types.PHOTO_WARNINGS` and FACE_WARNINGS, DIFFERENT_PEOPLE and
NO_GUIDANCE."""


class PhotoWarning(BaseModel):
    """A photo was used, but not quite as its owner may think."""

    model_config = ConfigDict(frozen=True)

    code: str = Field(
        description="Stable: clipped, first_frame, several_faces, too_dark, backlit, colour_cast, monochrome, tilted, "
        "blurred, different_people, no_guidance; there may be more."
    )
    photo: int = Field(0, description="Which of the photos of the request; 0 is the first.")
    message: str


def recorded_code(code: str, photo: int) -> str:
    """A code as a task records it: with the photo after a colon, unless that is the first."""
    return f"{code}:{photo}" if photo else code


def recorded_warnings(codes: Iterable[str]) -> list[PhotoWarning]:
    """Those that a task recorded; a code that a newer version recorded is left out."""
    named = [recorded.partition(":") for recorded in codes]
    return [
        PhotoWarning(code=code, photo=int(photo or 0), message=MESSAGES[code])
        for code, _, photo in named
        if code in MESSAGES
    ]


def face_warnings(found: FoundFaces) -> list[PhotoWarning]:
    """Those about the faces of a photo that is accepted."""
    if found.refusal is not None:
        return []
    warnings = []
    if len(found.faces) > 1:
        message = f"{len(found.faces)} faces were found. The largest is used."
        warnings.append(PhotoWarning(code="several_faces", message=message))
    return [*warnings, *recorded_warnings(found.warnings)]
