"""S3's protocol on loopback."""

import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from serve_app.backends.object_store import Results, StoreSettings

BUCKET, PREFIX, REGION = "avatars", "eu/results", "eu-central-1"
ACCESS_KEY, SECRET_KEY = "AKIAOFTHETESTS", "secret-of-the-tests"
TTL_S = 600


class Gate:
    """Refuses what S3 refuses and moto lets pass: wrong signatures, and URLs that are out of date."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._credentials = Credentials(ACCESS_KEY, SECRET_KEY)
        self.clock = lambda: datetime.now(UTC)
        self.busy = 0  # requests to come that are answered with 503
        self.requests: list[str] = []  # those that passed: method and path

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        if self.busy:
            self.busy -= 1
            return _refusal(503, "SlowDown")(environ, start_response)
        if code := self._offence(request):
            return _refusal(403, code)(environ, start_response)
        self.requests.append(f"{request.method} {request.path}")
        return self._store(environ, start_response)

    def _offence(self, request: Request) -> str:
        query = dict(request.args)
        if "X-Amz-Signature" in query:
            signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if self.clock() > signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
                return "AccessDenied"
            signer = S3SigV4QueryAuth(self._credentials, "s3", REGION)
            given, headers, date = query["X-Amz-Signature"], query["X-Amz-SignedHeaders"], query["X-Amz-Date"]
        elif "Authorization" in request.headers:
            signer = S3SigV4Auth(self._credentials, "s3", REGION)
            fields = dict(part.split("=", 1) for part in request.headers["Authorization"].split(" ", 1)[1].split(", "))
            given, headers, date = fields["Signature"], fields["SignedHeaders"], request.headers["X-Amz-Date"]
        else:
            return "AccessDenied"
        return "" if hmac.compare_digest(_signature(signer, request, headers, date), given) else "SignatureDoesNotMatch"


def _signature(signer: Any, request: Request, signed_headers: str, date: str) -> str:
    """What botocore makes of the request, taken as it came over the wire but for the signature in its URL."""
    path, _, query = request.environ["RAW_URI"].partition("?")
    kept = "&".join(part for part in query.split("&") if part and not part.startswith("X-Amz-Signature="))
    headers = {name: request.headers[name] for name in signed_headers.split(";")}
    as_sent = AWSRequest(request.method, f"http://{request.host}{path}?{kept}", headers)
    as_sent.context["timestamp"] = date
    signature: str = signer.signature(signer.string_to_sign(as_sent, signer.canonical_request(as_sent)), as_sent)
    return signature


def _refusal(status: int, code: str) -> Response:
    return Response(f"<Error><Code>{code}</Code></Error>", status, content_type="application/xml")


class _SilentHandler(WSGIRequestHandler):
    def log(self, *_args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_SilentHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class S3:
    """An S3 with one empty bucket, and what its owner sees of it."""

    def __init__(self, endpoint: str, gate: Gate) -> None:
        self.endpoint, self.gate = endpoint, gate
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        self.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        gate.requests.clear()

    def keys(self) -> list[str]:
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def results(self, url: str = f"s3://{BUCKET}/{PREFIX}", ttl_s: int = TTL_S, **changes: str) -> Results:
        options = {
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }
        return opened(url, ttl_s=ttl_s, **(options | changes))

    def close(self) -> None:
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)
        self.client.delete_bucket(Bucket=BUCKET)
        self.client.close()


def opened(url: str, *, ttl_s: int = TTL_S, timeout_s: float = 10, **options: str) -> Results:
    settings = StoreSettings.model_validate({"url": url, "options": options, "timeout_s": timeout_s})
    return Results.open(settings, data_dir=Path("/nonexistent"), signing_key=b"key", ttl_s=ttl_s)
