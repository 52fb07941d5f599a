"""The warnings of answers: their texts, and how they come from files and faces to the record of a task."""

from dataclasses import replace
from pathlib import Path

from deployments.types import FACE_WARNINGS, PHOTO_WARNINGS, FoundFace, FoundFaces, Photo
from serve_app.generation.execution import success_outcome
from serve_app.schemas.warnings import face_warnings, recorded_warnings
from tests.support.fakes import face
from tests.support.pipelines import PIXELS
from tests.support.stages import AVATAR, Embedder, Stage, run_job


def test_each_code_of_a_photo_has_a_text() -> None:
    codes = [*PHOTO_WARNINGS, *FACE_WARNINGS]
    warnings = recorded_warnings(codes)
    assert [warning.code for warning in warnings] == codes
    assert all(warning.message.endswith(".") for warning in warnings)


def test_a_task_records_what_file_and_face_of_each_photo_lack(tmp_path: Path) -> None:
    person = replace(face(), warnings=(("too_dark", "blurred"), (), ("monochrome",)), doubtful=(1,))
    photos = [Photo(PIXELS, warnings=("clipped",)), Photo(PIXELS), Photo(PIXELS)]
    done = run_job(tmp_path, Embedder(person), Stage("image"), Stage(AVATAR))
    recorded = ("clipped", "too_dark", "blurred", "monochrome:2", "different_people:1")
    assert success_outcome(done, 0, photos).warnings == recorded


def test_an_embedder_of_an_older_version_warns_of_files_alone(tmp_path: Path) -> None:
    photos = [Photo(PIXELS), Photo(PIXELS, warnings=("first_frame",))]
    done = run_job(tmp_path, Embedder(face()), Stage("image"), Stage(AVATAR))
    assert success_outcome(done, 0, photos).warnings == ("first_frame:1",)


def test_a_preflight_warns_of_the_face_that_is_used_and_of_none_where_it_is_refused() -> None:
    faces = (FoundFace((0, 0, 9, 9), 0.9, 12.0),)
    assert [warning.code for warning in face_warnings(FoundFaces(faces, 5, warnings=("backlit",)))] == ["backlit"]
    assert face_warnings(FoundFaces(faces, 48, "face_too_small")) == []
