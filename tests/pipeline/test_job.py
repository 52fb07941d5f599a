"""What a request says of a stage reaches that stage, without a list of names in between."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from deployments.types import AvatarSpec, PostprocessSpec
from serve_app.api.examples import WHOLE_REQUEST
from serve_app.catalog.apps import Style
from serve_app.catalog.catalog import Catalog
from serve_app.pipeline.job import AvatarJob
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest

ASKED: dict[str, Any] = WHOLE_REQUEST
STYLES = {ASKED["style"]: Style(title="", prompt="{prompt}")}
APP = Catalog.read(["embedded"])["face-avatar"].model_copy(update={"styles": STYLES})
REQUEST = EffectiveRequest.fill(AvatarRequest(**ASKED), APP, seed=1, deadline_s=9)
JOB = AvatarJob("a", "ann", REQUEST, model="m", native_size=(64, 32), submitted_at=0.0)
OF_THE_GENERATOR = {
    "prompt": "a b", "negative_prompt": "c", "num_inference_steps": 9, "guidance_scale": 3.5, "ip_adapter_scale": 0.1
}  # fmt: skip
OF_THE_FILE = {"width": 300, "height": 310, "remove_background": False, "output_format": "jpeg"}


@pytest.mark.parametrize(("name", "value"), OF_THE_GENERATOR.items())
def test_the_generator_gets_what_was_asked_of_it(name: str, value: Any) -> None:
    job = replace(JOB, request=JOB.request.model_copy(update={name: value}))
    assert getattr(job.avatar_spec(0), name) == value


def test_the_size_and_the_seed_of_a_drawing_are_its_own() -> None:
    spec = JOB.avatar_spec(1, redraw=1)
    assert (spec.width, spec.height) == (64, 32)
    assert spec.seed != JOB.request.seed


def test_only_the_first_drawing_of_an_image_has_a_start_deadline_and_none_of_a_job_that_has_begun() -> None:
    job = replace(JOB, submitted_at=100.0)
    assert job.avatar_spec(1).start_deadline == 100 + ASKED["start_deadline_s"]
    assert job.avatar_spec(1, redraw=1).start_deadline is None
    assert replace(job, begun=True).avatar_spec(1).start_deadline is None


@pytest.mark.parametrize(("name", "value"), OF_THE_FILE.items())
def test_the_file_gets_what_was_asked_of_it(name: str, value: Any) -> None:
    job = replace(JOB, request=JOB.request.model_copy(update={name: value}))
    assert getattr(job.postprocess_spec(job.avatar_spec(0)), name) == value


def test_a_new_field_needs_its_schema_and_the_input_of_its_stage_alone() -> None:
    class Request(AvatarRequest):
        sharpness: float | None = None

    class Effective(EffectiveRequest, Request):
        pass

    @dataclass(frozen=True)
    class Spec(AvatarSpec):
        sharpness: float | None = None

    filled = Effective.fill(Request(**ASKED, sharpness=0.5), APP, seed=1, deadline_s=9)
    stored = Effective.model_validate_json(filled.model_dump_json())
    assert replace(JOB, request=stored)._asked_of(Spec)["sharpness"] == 0.5
    assert "sharpness" not in replace(JOB, request=stored)._asked_of(PostprocessSpec)
