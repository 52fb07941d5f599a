"""The examples in the description of the API: of every field and every error, and each of them true."""

import pytest
from pydantic import BaseModel

from serve_app.api.examples import (
    RECEIPT,
    REQUESTS,
    SEVERAL_PHOTOS,
    SUCCESS,
    WHOLE_REQUEST,
    answer_examples,
    request_examples,
)
from serve_app.pipeline.job import MAX_REDRAWS
from serve_app.provenance.verify import VerifyRequest
from serve_app.schemas.errors import ANSWERS, INTERNAL_ERROR
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest
from serve_app.schemas.responses import AvatarOutput, Envelope


@pytest.mark.parametrize("model", REQUESTS)
def test_every_example_of_a_request_is_one(model: type[BaseModel]) -> None:
    for example in request_examples(model).values():
        model.model_validate(example["value"])


def test_every_field_of_a_request_has_an_example() -> None:
    assert WHOLE_REQUEST.keys() | SEVERAL_PHOTOS.keys() == AvatarRequest.model_fields.keys()
    assert SUCCESS.input.keys() >= EffectiveRequest.model_fields.keys() - {"consent"}
    assert request_examples(VerifyRequest)


def test_every_field_of_an_answer_has_an_example() -> None:
    assert SUCCESS.output.keys() == AvatarOutput.model_fields.keys()
    AvatarOutput.model_validate(SUCCESS.output)
    of_images = [values for name, values in SUCCESS.output.items() if name != "warnings"]
    assert all(len(values) == SUCCESS.input["batch"] for values in of_images)
    assert max(map(len, SUCCESS.output["attempts"])) <= 1 + MAX_REDRAWS
    assert Receipt.model_validate(SUCCESS.output["receipts"][0]) == RECEIPT


def test_every_error_has_an_example_under_its_status() -> None:
    for answer in {*ANSWERS.values(), INTERNAL_ERROR}:
        example = Envelope.model_validate(answer_examples(answer.status)[answer.name]["value"])
        assert (example.error, example.status) == (answer.name, "FAILED")
        assert example.error_data
