"""The files that browsers and programs load: the page, its modules, and the client that both share."""

import re
from unittest.mock import MagicMock

import pytest
from starlette.testclient import TestClient

from serve_app.api.app import build_http
from serve_app.api.playground import CLIENT, CLIENT_FILES, PAGE, policy
from serve_app.settings import Settings

ELSEWHERE = "https://app.example.org"
MODULES = sorted(path.name for path in PAGE.glob("*.js"))
HTTP = re.compile(r"\b(fetch\(|XMLHttpRequest|EventSource|WebSocket|sendBeacon)")


@pytest.fixture(scope="module")
def browser() -> TestClient:
    settings = Settings(cors={"origins": [ELSEWHERE]})
    return TestClient(build_http(MagicMock(), MagicMock(), settings, MagicMock()))


@pytest.mark.parametrize(("path", "media_type"), CLIENT_FILES.items())
def test_the_client_is_served_as_it_is_with_the_headers_of_the_page(
    browser: TestClient, path: str, media_type: str
) -> None:
    answer = browser.get(path, headers={"Origin": ELSEWHERE})
    assert answer.text == (CLIENT / path.lstrip("/")).read_text()
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["content-security-policy"] == policy(results_elsewhere=False)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == ELSEWHERE
    assert answer.headers["cache-control"] == browser.get("/").headers["cache-control"]
    assert browser.head(path).status_code == 200
    again = browser.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_elsewhere_may_not_load_it_unless_they_are_named(browser: TestClient) -> None:
    answer = browser.get("/client.js", headers={"Origin": "https://evil.test"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_speaks_http_through_the_client_alone() -> None:
    assert MODULES
    assert [name for name in MODULES if HTTP.search((PAGE / name).read_text())] == []
    assert 'from "/client.js"' in (PAGE / "app.js").read_text()
