"""The service against its own description: whatever is sent, the answer is one that openapi.json documents."""

import collections
import contextlib
import copy
import io
import json
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from PIL import Image
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.photos.sample import sample_photo
from serve_app.schemas.requests import MAX_SEED
from tests.frozen import surface
from tests.support.photos import data_url
from tests.support.service import Service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PLANNED = 1.2  # times as many: hypothesis runs out of different cases of a small route
# How many cases of each route and kind; those that could generate something cost the most.
SHARES = {"/getImageToImage": 4, "/getImagetoImage": 2, "/api/v1/faces": 4, "/api/v1/verify": 4, "/getImage": 4}
CHEAP = {"width": 256, "height": 256, "num_inference_steps": 1, "batch": 1, "deadline_s": 120, "webhook_url": None}
EDIT = {"n": 1, "size": "256x256"}
SIZE = re.compile(r"[1-8]|auto|\d{3,4}x\d{3,4}")  # what these are where they are valid
LINES_OF_JSON = ("/api/v1/batches/{batch_id}/requests", "application/x-ndjson")
REQUEST_TIMEOUT_S = 60


def small_photo() -> str:
    file = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").save(file, "JPEG", quality=80)
    return data_url(file.getvalue(), "image/jpeg")


PHOTO = small_photo()


@pytest.fixture(scope="module")
def description(service: Service) -> dict[str, Any]:
    read: dict[str, Any] = service.client.get("/openapi.json").json()
    return read


def with_bounds(case: Case, number: int) -> Case:
    """The same case, but one that is valid draws little; of these every third has an app and a photo that are there."""
    if isinstance(case.body, dict) and case.path == "/v1/images/edits":
        case.body |= {
            name: EDIT[name] for name in EDIT.keys() & case.body.keys() if SIZE.fullmatch(str(case.body[name]))
        }
        if number % 3 == 0 and case.media_type == "application/json":
            case.body |= {**EDIT, "image": PHOTO, "model": "face-avatar"}
    elif isinstance(case.body, dict):
        bounded = {name: CHEAP[name] for name in CHEAP.keys() & case.body.keys() if is_valid(name, case.body[name])}
        case.body |= bounded
        if number % 3 == 0:
            for name in ("image", "file", "file_urls"):
                case.body.pop(name, None)
            case.body["file_url"] = PHOTO
            if "app_id" in case.body:
                case.body |= {"app_id": "face-avatar", **CHEAP}
                if case.media_type == "multipart/form-data":
                    case.body.pop("webhook_url")
    return case


def is_valid(name: str, value: Any) -> bool:
    if name == "webhook_url":
        return isinstance(value, str)
    return isinstance(value, int | float) and not isinstance(value, bool)


def send(service: Service, operation: Any, mode: GenerationMode, cases: int) -> collections.Counter[int]:
    """So many cases of one route; the statuses of their answers. Raises: what schemathesis finds."""
    statuses: collections.Counter[int] = collections.Counter()
    headers = {"Authorization": service.client.headers["Authorization"]}

    @settings(
        max_examples=cases,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        case = with_bounds(case, sum(statuses.values()))
        answer = case.call(base_url=service.url, headers=headers, timeout=REQUEST_TIMEOUT_S)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # a route without parameters has no case that is not valid
        check()
    return statuses


def operations(description: dict[str, Any], mode: GenerationMode) -> Iterator[Any]:
    description = copy.deepcopy(description)
    if mode is GenerationMode.NEGATIVE:  # schemathesis fails at the bytes of files when it looks for what is not valid
        for route in description["paths"].values():
            for operation in route.values():
                form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data")
                if form:
                    fields = form["schema"]["properties"]
                    form["schema"]["properties"] = {name: field for name, field in fields.items() if not is_file(field)}
    for result in schemathesis.openapi.from_dict(description).get_all_operations():
        yield result.ok()


def is_file(field: dict[str, Any]) -> bool:
    """Whether a field of a form is a file, or several."""
    return "binary" in (field.get("format"), field.get("items", {}).get("format"))


@pytest.mark.parametrize(
    "wanted", [pytest.param(250, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.long)]
)
@pytest.mark.filterwarnings("ignore:::hypothesis", "ignore:::schemathesis")
def test_every_answer_is_one_that_the_description_names(
    service: Service, description: dict[str, Any], wanted: int
) -> None:
    routes = [(route, mode) for mode in GenerationMode for route in operations(description, mode)]
    parts = sum(SHARES.get(route.path, 1) for route, _ in routes)
    found: dict[str, collections.Counter[int]] = {}
    for route, mode in routes:
        cases = math.ceil(wanted * PLANNED * SHARES.get(route.path, 1) / parts)
        found[f"{route.label} {mode.value}"] = send(service, route, mode, cases)
    for name, statuses in found.items():
        print(f"{name}: {dict(statuses)}")
    sent = sum(statuses.total() for statuses in found.values())
    assert sent >= wanted, found
    assert service.client.get("/readyz").status_code == 200


def test_operations_have_ids_of_their_own_and_summaries_in_words_not_names_of_functions() -> None:
    paths = json.loads(surface.openapi())["paths"]
    operations = [(method, each) for methods in paths.values() for method, each in methods.items()]
    ids = [operation["operationId"] for _, operation in operations]
    assert len({each.lower() for each in ids}) == len(ids) > 20
    for method, operation in operations:
        assert re.fullmatch("[A-Za-z_]+", operation["operationId"])
        assert not operation["operationId"].endswith(f"_{method}")
        assert operation["summary"] != operation["summary"].title()
        assert operation["description"]


def test_the_description_is_a_schema_of_every_body_and_answer(description: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, route in description["paths"].items():
            for method, operation in route.items():
                bodies = operation.get("requestBody", {}).get("content", {})
                for kind, body in bodies.items():
                    Draft202012Validator.check_schema(body["schema"])
                    assert kind in ("application/json", "multipart/form-data") or (path, kind) == LINES_OF_JSON, path
                for status, answer in operation["responses"].items():
                    assert re.fullmatch(r"[2-5]\d\d", status), (path, method)
                    if status[0] in "45":
                        of_error = "/OpenAIErrorBody" if path.startswith("/v1/") else "/Envelope"
                        assert answer["content"]["application/json"]["schema"]["$ref"].endswith(of_error), path
    assert description["paths"].keys() >= {"/getImageToImage", "/api/v1/verify", "/api/v1/faces"}
    assert description_of(description, "seed")["maximum"] == MAX_SEED


def description_of(description: dict[str, Any], field: str) -> dict[str, Any]:
    body = description["paths"]["/getImageToImage"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    kinds: list[dict[str, Any]] = body["properties"][field]["anyOf"]
    return next(kind for kind in kinds if "maximum" in kind)
