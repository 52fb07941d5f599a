"""Bodies of every malformed shape, over the whole HTTP application: each is refused, none is an internal error."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.schemas.requests import AvatarRequest
from tests.support.bodies import CODECS, app_without_apps
from tests.support.envelopes import KEYS

REFUSED = {404, 413, 415, 422}  # 404: a valid request, for an app that is not there
ROUTES = ["/getImageToImage", "/api/v1/faces", "/getImage"]
NAMES = st.sampled_from([*AvatarRequest.model_fields, "image", "refID", "file", "id", "unknown", ""])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["https://example.org/a.jpg", "data:image/png;base64,QUJD", "data:image/png;base64,!", "data:,%"])
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
JSON_TEXTS = st.dictionaries(NAMES, VALUES, max_size=6).map(lambda data: json.dumps(data).encode())
BROKEN = st.sampled_from(list(b'{}[]",:\\\x00\xff0eEn-.\xed\xf0'))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Client:
    """Posts to the application without a server; what would be an internal error is raised."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app_without_apps()), base_url="http://test")

    def post(self, route: str, body: bytes, kind: str) -> httpx.Response:
        answer = self._http.post(route, content=body, headers={"Content-Type": kind})
        return self._loop.run_until_complete(asyncio.wait_for(answer, 30))

    def close(self) -> None:
        self._loop.run_until_complete(self._http.aclose())
        self._loop.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def check_refused(client: Client, body: bytes, kind: str, route: str = ROUTES[0]) -> None:
    answer = client.post(route, body, kind)
    assert answer.status_code in REFUSED, (answer.status_code, answer.text)
    assert answer.json().keys() == KEYS


@QUICK
@given(body=JSON_TEXTS, at=st.integers(0, 200), byte=BROKEN, is_broken=st.booleans())
def test_json_of_any_shape_is_refused(client: Client, body: bytes, at: int, byte: int, is_broken: bool) -> None:
    broken = body[:at] + bytes([byte]) + body[at + 1 :] if is_broken else body
    check_refused(client, broken, "application/json")


HEADERS = st.sampled_from(
    [b"Content-Disposition: form-data", b"Content-Type: image/png", b"content-transfer-encoding: base64", b"X", b": a",
     b"Content-Disposition: form-data; name*=utf-8''a", b"Content-Disposition: form-data; name=\"a", b"\xff: \xff", b""]
)  # fmt: skip


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    name = draw(NAMES).encode()
    file = draw(
        st.sampled_from([b"", b"", b'; filename="a"', b"; filename=", b"; filename=\xff", b'; filename="C:\\a"'])
    )
    lines = draw(st.lists(HEADERS, max_size=10))
    lines.insert(draw(st.integers(0, len(lines))), b'Content-Disposition: form-data; name="%s"%s' % (name, file))
    value = draw(st.binary(max_size=30) | st.sampled_from([b"face-avatar", b"--x", b"\r\n--x", b"\r\n--x--", b"1e999"]))
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"]))
    return b"--x" + end + end.join(lines) + end * 2 + value + end


@QUICK
@given(pieces=st.lists(parts(), max_size=5), end=st.sampled_from([b"--x--\r\n", b"--x", b"", b"--x-", b"--x--more"]),
       cut=st.integers(0, 40), codec=st.sampled_from(CODECS))  # fmt: skip
def test_a_form_of_any_shape_is_refused(client: Client, pieces: list[bytes], end: bytes, cut: int, codec: str) -> None:
    body = b"".join(pieces) + end
    kind = f"multipart/form-data; boundary=x; charset={codec}"
    check_refused(client, body, kind)
    check_refused(client, body[: len(body) - cut], kind)


@QUICK
@given(body=st.binary(max_size=300) | JSON_TEXTS, kind=st.sampled_from(
    ["application/json", "multipart/form-data; boundary=x", 'multipart/form-data; boundary="', "text/plain", "a/b;;=",
     "multipart/form-data; boundary=x; boundary=y", "application/json; charset=utf-16", "APPLICATION/JSON;"]),
       route=st.sampled_from(ROUTES))  # fmt: skip
def test_any_bytes_under_any_content_type_are_refused(client: Client, body: bytes, kind: str, route: str) -> None:
    check_refused(client, body, kind, route)
