"""Bytes on a raw connection to the whole edge: proxy, ingress and parsers. Nothing fails, and nothing hangs."""

import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.service import Service

CASES = 1500
QUIET_S = 0.2  # without a byte: the client then ends its side
CLOSED_S = 10.0
STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)

METHODS = b"GET|POST|PUT|DELETE|HEAD|OPTIONS|get|BREW|CONNECT|PRI|G\0T|".split(b"|")
TARGETS = [
    b"/healthz",
    b"/getImageToImage",
    b"/api/v1/faces",
    b"/api/v1/verify",
    b"/api/v1/apps",
    b"/openapi.json",
    b"/api/v1/tasks/%00",
    b"/api/v1/tasks/" + b"a" * 3000,
    b"/api/v1/images/%2e%2e/x.png",
    b"/x?" + b"a=%zz&" * 100,
    b"*",
    b"//",
    b"/\xff\xfe",
    b"http://elsewhere/healthz",
    b"elsewhere:443",
    b"/a b",
    b"",
]
VERSIONS = b"HTTP/1.1|HTTP/1.1|HTTP/1.1|HTTP/1.0|HTTP/2.0|HTTP/1.10|HTP/1.1|".split(b"|")
HEADERS = [
    b"Host: service",
    b"Host: ",
    b"Host: a\r\nHost: b",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Expect: 100-continue",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 5, 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Type: application/json",
    b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: multipart/form-data",
    b"Content-Encoding: gzip",
    b"Last-Event-ID: \xc3\x28",
    b"Accept: \0",
    b"Cookie: " + b"a=b; " * 500,
    b"X: " + b"y" * 9000,
    b" folded",
    b"No colon",
    b": empty",
    b"Serve-Multiplexed-Model-Id: x",
    b"Idempotency-Key: " + b"k" * 300,
    b"X-Request-ID: \x7f",
]
BODIES = [
    b"",
    b"hello",
    b"{}",
    b'{"app_id": "none"}',
    b"[" * 400,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
    b"fffffffffffffffff\r\n",
    b"-1\r\n",
    b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\xff\r\n--x--\r\n',
]

REQUESTS = st.builds(
    lambda method, target, version, lines, body: b"\r\n".join(
        [b" ".join([method, target, version]), *lines, b"", body]
    ),
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS),
    st.sampled_from(VERSIONS),
    st.lists(st.sampled_from(HEADERS), max_size=6),
    st.sampled_from(BODIES) | st.binary(max_size=40),
)
# Where something else is put in, instead of how many bytes.
CHANGES = st.tuples(
    st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\n", b"\0", b" "])
)


def changed(sent: bytes, changes: Sequence[tuple[float, int, bytes]]) -> bytes:
    for place, dropped, added in changes:
        at = round(place * len(sent))
        sent = sent[:at] + added + sent[at + dropped :]
    return sent


def exchanged(url: str, sent: bytes) -> bytes:
    """What is answered until the service closes. Raises: TimeoutError where it does not, after its client has ended."""
    parts = urlsplit(url)
    answer = b""
    with socket.create_connection((parts.hostname or "", parts.port or 80), CLOSED_S) as connection:
        try:
            connection.sendall(sent)
            for quiet_s in (QUIET_S, CLOSED_S):
                connection.settimeout(quiet_s)
                try:
                    while part := connection.recv(65536):
                        answer += part
                except TimeoutError:
                    if quiet_s == CLOSED_S:
                        raise
                    connection.shutdown(socket.SHUT_WR)
                else:
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass  # it refused before everything was sent
    return answer


@pytest.mark.slow
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=1, max_size=3), st.lists(CHANGES, max_size=3), st.booleans())
def test_whatever_bytes_come_nothing_fails_and_nothing_hangs(
    service: Service, requests: list[bytes], changes: list[tuple[float, int, bytes]], known: bool
) -> None:
    sent = changed(b"".join(requests), changes)
    if known:
        sent = sent.replace(
            b"\r\n", b"\r\n" + f"Authorization: {service.client.headers['authorization']}\r\n".encode(), 1
        )
    statuses = [int(status) for status in STATUS.findall(exchanged(service.url, sent))]
    assert all(status < 500 or status == 503 for status in statuses), (statuses, sent)


@pytest.mark.slow
def test_the_service_works_after_all_that(service: Service) -> None:
    assert service.client.get("/readyz").status_code == 200
