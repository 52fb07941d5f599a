"""One face of several photos of one person."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deployments.config import FaceModelConfig
from deployments.errors import NoFaceError, OtherPersonError
from deployments.face.similarity import normalised
from deployments.types import FaceEmbedding, Vector


def one_person(found: Sequence[FaceEmbedding | NoFaceError], config: FaceModelConfig) -> FaceEmbedding:
    """The face of the person on all photos: its vector is the mean of theirs, normalised.

    That fits a vector of traits as well as one of identity: in the embedded model's space a scale is a point of a half
    circle and a choice has a place for each option, so the mean is between the scales, and a vote on the choices.

    Raises: NoFaceError, or OtherPersonError where the model tells people apart; with several photos they say which.
    """
    faces = []
    for photo, face in enumerate(found):
        if isinstance(face, NoFaceError):
            if len(found) > 1:
                face.data["photo"] = photo
            raise face
        faces.append(face)
    if len(faces) == 1:
        return faces[0]
    vectors = np.stack([face.vector for face in faces])
    doubtful = () if config.same_person is None else strangers(vectors, config.same_person)
    if doubtful and config.tells_identity:
        raise OtherPersonError(
            "not the person of the other photos",
            reason="different_people",
            photo=doubtful[0],
            accepted="photos of one person, whose face is the largest on each",
        )
    likeness = [face.likeness for face in faces if face.likeness is not None]
    return replace(
        faces[0],
        vector=normalised(vectors.mean(axis=0)),
        doubtful=doubtful,
        likeness=normalised(np.mean(likeness, axis=0)) if likeness else None,
    )


def strangers(vectors: Vector, same_person: float) -> tuple[int, ...]:
    """Which of (n, 512) vectors of length 1 have a cosine below `same_person` to the mean of the others.

    The least like first. Of two photos neither is more like the other: the second one is named.
    """
    others = normalised(vectors.sum(axis=0) - vectors)
    cosines = (vectors * others).sum(axis=1)
    unlike = [photo for photo, cosine in enumerate(cosines) if cosine < same_person]
    if len(vectors) == 2:
        return tuple(unlike[1:])
    return tuple(sorted(unlike, key=lambda photo: cosines[photo]))
