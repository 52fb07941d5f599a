"""Results in object stores: S3's protocol on loopback, and the signatures of all three without a network.

moto stores what it is sent, but checks no signature of a URL and no expiry. `Gate` does, with the reference signer that
botocore is: a request passes if botocore, given the same secret, would have signed it alike.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from obstore.store import AzureStore, GCSStore, S3Store

from serve_app.backends.object_store import PROBE, Results, photo_key, result_key, thumbnail_key
from serve_app.errors import NotFoundError, StoreError
from tests.support.object_stores import ACCESS_KEY, BUCKET, PREFIX, REGION, S3, SECRET_KEY, TTL_S, Gate, opened, served

TASK = "018f0000-0000-7000-8000-000000000000"
FIRST, THUMBNAIL = result_key(TASK, 0, "png"), thumbnail_key(TASK, 0)
GIVE_UP_S = 10  # what a store that is down may take, at the default settings


@pytest.fixture(autouse=True)
def no_cloud_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def s3() -> Iterator[S3]:
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    with served(gate) as endpoint:
        store = S3(endpoint, gate)
        yield store
        gate.busy = 0
        store.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose connections are taken and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def url_of(results: Results, key: str) -> str:
    [url] = asyncio.run(results.urls([key], "http://not-used"))
    return url


OPERATIONS: dict[str, Callable[[Results], Coroutine[Any, Any, Any]]] = {
    "put": lambda results: results.put(FIRST, b"picture"),
    "get": lambda results: results.get(FIRST),
    "delete": lambda results: results.delete([FIRST, THUMBNAIL]),
    "check": lambda results: results.check(),
}


def failure_of(operation: str, results: Results) -> StoreError:
    """The StoreError that the operation ends with, in time."""

    async def scenario() -> None:
        async with asyncio.timeout(GIVE_UP_S):
            await OPERATIONS[operation](results)

    with pytest.raises(StoreError) as raised:
        asyncio.run(scenario())
    return raised.value


def test_what_was_put_comes_back_until_it_is_deleted(s3: S3) -> None:
    async def scenario() -> None:
        results = s3.results()
        await results.put(FIRST, b"picture")
        assert await s3.results().get(FIRST) == b"picture"
        await results.delete([FIRST, THUMBNAIL])
        await results.delete([FIRST])
        with pytest.raises(NotFoundError):
            await results.get(FIRST)

    asyncio.run(scenario())


@pytest.mark.parametrize(("url", "folder"), [("", ""), ("/", ""), ("/eu/results", "eu/results/"), ("/eu/", "eu/")])
def test_files_lie_below_the_prefix_of_the_url(s3: S3, url: str, folder: str) -> None:
    asyncio.run(s3.results(f"s3://{BUCKET}{url}").put(FIRST, b"picture"))
    assert s3.keys() == [folder + FIRST]


def test_a_check_writes_its_probe_and_nothing_else(s3: S3) -> None:
    asyncio.run(s3.results().check())
    assert s3.keys() == [f"{PREFIX}/{PROBE}"]


def test_a_large_file_is_one_request_so_nothing_of_it_stays_when_it_fails(s3: S3) -> None:
    large = bytes(6 * 1024 * 1024)  # obstore takes several requests from 5 MiB on, unless told
    asyncio.run(s3.results().put(FIRST, large))
    assert s3.gate.requests == [f"PUT /{BUCKET}/{PREFIX}/{FIRST}"]
    assert asyncio.run(s3.results().get(FIRST)) == large


def test_clients_fetch_a_signed_url_from_the_store_without_credentials(s3: S3) -> None:
    results = s3.results()
    for key, data in ((FIRST, b"picture"), (THUMBNAIL, b"thumbnail")):
        asyncio.run(results.put(key, data))
    picture, thumbnail = (httpx.get(url) for url in asyncio.run(results.urls([FIRST, THUMBNAIL], "http://not-used")))
    assert (picture.status_code, picture.content) == (200, b"picture")
    assert (thumbnail.status_code, thumbnail.content) == (200, b"thumbnail")
    assert (picture.headers["Content-Type"], thumbnail.headers["Content-Type"]) == ("image/png", "image/webp")
    assert picture.headers["Cache-Control"] == "private"


def test_a_signed_url_holds_for_its_file_and_for_reading_only(s3: S3) -> None:
    results = s3.results()
    for key in (FIRST, photo_key(TASK)):
        asyncio.run(results.put(key, b"picture"))
    url = url_of(results, FIRST)
    assert httpx.get(url).status_code == 200
    assert httpx.get(url.replace(FIRST, photo_key(TASK))).status_code == 403
    assert httpx.get(url.partition("?")[0]).status_code == 403
    assert httpx.delete(url).status_code == 403
    assert httpx.put(url, content=b"mine").status_code == 403


def test_a_signed_url_ends_with_its_time(s3: S3) -> None:
    results = s3.results(ttl_s=60)
    asyncio.run(results.put(FIRST, b"picture"))
    url, signed = url_of(results, FIRST), datetime.now(UTC)
    s3.gate.clock = lambda: signed + timedelta(seconds=58)
    assert httpx.get(url).status_code == 200
    s3.gate.clock = lambda: signed + timedelta(seconds=61)
    assert httpx.get(url).status_code == 403


def test_a_busy_store_is_asked_again(s3: S3) -> None:
    s3.gate.busy = 2
    asyncio.run(s3.results().put(FIRST, b"picture"))
    assert s3.keys() == [f"{PREFIX}/{FIRST}"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_that_stays_busy_does_not_answer(s3: S3, operation: str) -> None:
    s3.gate.busy = 100
    failure_of(operation, s3.results())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_credentials_are_an_error_of_the_store(s3: S3, operation: str) -> None:
    failure_of(operation, s3.results(secret_access_key="another"))
    assert s3.gate.requests == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_absent_bucket_is_an_error_of_the_store_and_not_of_the_file(s3: S3, operation: str) -> None:
    failure_of(operation, s3.results("s3://another-bucket"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_dead_endpoint_is_an_error_soon(s3: S3, closed_port: int, operation: str) -> None:
    failure_of(operation, s3.results(endpoint=f"http://127.0.0.1:{closed_port}"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_endpoint_that_never_answers_is_an_error_once_the_time_is_over(silent_port: int, operation: str) -> None:
    results = opened(
        f"s3://{BUCKET}",
        timeout_s=0.3,
        endpoint=f"http://127.0.0.1:{silent_port}",
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
    )
    failure_of(operation, results)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_error_tells_clients_nothing_of_the_store_and_the_log_why(s3: S3, operation: str) -> None:
    error = failure_of(operation, s3.results("s3://another-bucket/hidden"))
    for secret in ("127.0.0.1", "another-bucket", "hidden", ACCESS_KEY, SECRET_KEY):
        assert secret not in f"{error} {error.data}"
    assert "NoSuchBucket" in str(error.__cause__)
    assert SECRET_KEY not in str(error.__cause__)


def test_what_the_options_leave_out_comes_from_the_environment(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    asyncio.run(opened(f"s3://{BUCKET}").put(FIRST, b"picture"))
    assert s3.keys() == [FIRST]


def test_options_of_the_http_client_are_options_too(s3: S3, closed_port: int) -> None:
    failure_of("put", s3.results(proxy_url=f"http://127.0.0.1:{closed_port}"))
    asyncio.run(s3.results(user_agent="face-avatar").put(FIRST, b"picture"))


def test_results_in_an_object_store_are_not_served_here(s3: S3) -> None:
    results = s3.results()
    assert not results.local
    with pytest.raises(NotFoundError):
        results.check_signature(FIRST, "1", "")


@pytest.mark.parametrize("url", [f"s3://{BUCKET}", f"gs://{BUCKET}", f"az://account/{BUCKET}"])
def test_options_that_no_store_knows_end_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="colour"):
        opened(url, colour="blue")


def test_a_time_that_no_store_signs_for_ends_the_start() -> None:
    with pytest.raises(ValueError, match="604800"):
        opened(f"s3://{BUCKET}", ttl_s=8 * 24 * 3600)


@pytest.mark.parametrize(
    ("url", "kind", "options"),
    [
        (f"s3://{BUCKET}/{PREFIX}", S3Store, {"bucket": BUCKET}),
        (f"gs://{BUCKET}/{PREFIX}", GCSStore, {"bucket": BUCKET}),
        (f"az://account/{BUCKET}/{PREFIX}", AzureStore, {"container_name": BUCKET, "account_name": "account"}),
    ],
)
def test_the_url_names_the_store(url: str, kind: type, options: dict[str, str]) -> None:
    store: Any = opened(url)._store
    assert type(store) is kind
    assert store.prefix == PREFIX
    assert options.items() <= store.config.items()


def test_a_url_of_google_cloud_storage_bears_a_signature_of_the_service_account() -> None:
    """The canonical request and the string to sign are those of "V4 signing process" in Google's documentation."""
    account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = account.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"private_key": pem.decode(), "private_key_id": "1", "client_email": "avatars@project.example"}
    url = urlsplit(url_of(opened(f"gs://{BUCKET}/{PREFIX}", service_account_key=json.dumps(key)), FIRST))
    query = dict(parse_qsl(url.query))
    assert (url.scheme, url.hostname, url.path) == (
        "https",
        "storage.googleapis.com",
        f"/{BUCKET}/{PREFIX}/{FIRST}",
    )
    assert query["X-Goog-Expires"] == str(TTL_S)
    email, scope = query["X-Goog-Credential"].split("/", 1)
    assert email == key["client_email"]

    signature = bytes.fromhex(query.pop("X-Goog-Signature"))
    canonical_query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))
    canonical = f"GET\n{url.path}\n{canonical_query}\nhost:{url.hostname}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signed = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
    account.public_key().verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_a_url_of_azure_bears_a_signature_of_the_account_key() -> None:
    """The string to sign is that of "Create a service SAS", version 2020-12-06 and later, in Azure's documentation."""
    secret = b"an account key of 32 bytes......"
    results = opened(f"az://account/{BUCKET}/{PREFIX}", account_key=base64.b64encode(secret).decode())
    url = urlsplit(url_of(results, FIRST))
    query = dict(parse_qsl(url.query))
    assert (url.scheme, url.hostname, url.path) == (
        "https",
        "account.blob.core.windows.net",
        f"/{BUCKET}/{PREFIX}/{FIRST}",
    )
    assert (query["sp"], query["sr"]) == ("r", "b")  # reading, of one blob
    assert datetime.fromisoformat(query["se"]) - datetime.fromisoformat(query["st"]) == timedelta(seconds=TTL_S)

    resource = f"/blob/account{url.path}"
    unset = [""] * 3  # identifier, addresses, protocol
    fields = [query["sp"], query["st"], query["se"], resource, *unset, query["sv"], query["sr"], *[""] * 7]
    expected = hmac.new(secret, "\n".join(fields).encode(), hashlib.sha256).digest()
    assert base64.b64decode(query["sig"]) == expected


def test_old_files_are_listed_by_the_keys_that_they_were_put_under(s3: S3) -> None:
    results = s3.results()

    async def older(age_s: float, folder: str | None = None) -> list[str]:
        return [key async for key in results.older(age_s, folder)]

    for key in (FIRST, THUMBNAIL, photo_key(TASK)):
        asyncio.run(results.put(key, b"bytes"))
    assert set(asyncio.run(older(-60))) == {FIRST, THUMBNAIL, photo_key(TASK)}
    assert asyncio.run(older(-60, "photos")) == [photo_key(TASK)]
    assert asyncio.run(older(60)) == []


def test_a_listing_that_fails_is_an_error_of_the_store(s3: S3) -> None:
    s3.gate.busy = 100
    with pytest.raises(StoreError):
        asyncio.run(anext(s3.results().older(0)))
