"""The answers to what no route takes."""

from unittest.mock import MagicMock

import pytest
from starlette.testclient import TestClient

from serve_app.api.app import build_http
from serve_app.settings import Settings


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/tasks/7", "DELETE, GET"),
        ("POST", "/api/v1/tasks/7/events", "GET"),
        ("GET", "/getImageToImage", "POST"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("BREW", "/api/v1/faces", "POST"),
    ],
)
def test_a_wrong_method_is_told_all_that_the_path_takes(method: str, path: str, allowed: str) -> None:
    answer = TestClient(build_http(MagicMock(), MagicMock(), Settings(), MagicMock())).request(method, path)
    assert (answer.status_code, answer.json()["error"]) == (405, "Method Not Allowed")
    assert answer.json()["error_data"]["accepted"] == allowed
    assert answer.headers["allow"] == allowed
