"""Runs locust as a separate process: its monkey-patched standard library is incompatible with Ray."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.load.shapes import ShapeName

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 60  # for the requests in flight when the time is over
OVERTIME_S = 60  # allowance beyond that for locust to start and to end
WRONG_EXIT_CODE = 1  # the locustfile's, where an answer was wrong
LOG_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Load:
    """Maximum number of users and duration; the same seed gives each user the same requests."""

    users: int
    seconds: int
    seed: int
    shape: ShapeName = "steady"


@dataclass(frozen=True, slots=True)
class Records:
    """The files that locust writes while it runs."""

    answers: Path
    counts: Path

    @classmethod
    def within(cls, folder: Path) -> "Records":
        """Paths in an existing folder; locust creates the files, so one may be missing afterwards."""
        return cls(folder / "answers.jsonl", folder / "users.jsonl")


@dataclass(frozen=True, slots=True)
class LoadEnd:
    """How the load test ended; `problem` is empty unless locust itself failed."""

    interrupted: bool = False
    problem: str = ""


def run_load(load: Load, url: str, token: str, records: Records, report: Callable[[str], None]) -> LoadEnd:
    """Run the load against a service; every answer is written on arrival, and an interrupt ends it at once."""
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))]
    command += ["--headless", "--only-summary", "--loglevel", "WARNING", "--host", url, "--shape", load.shape]
    command += ["--record", str(records.answers), "--counts", str(records.counts)]
    command += ["--users", str(load.users), "--spawn-rate", str(load.users), "--seed", str(load.seed)]
    command += ["--run-time", f"{load.seconds}s", "--stop-timeout", f"{STOP_TIMEOUT_S}s"]
    environment = os.environ | {"FACE_AVATAR_TOKEN": token}
    with tempfile.TemporaryFile("w+") as log:
        # Its own session: ctrl-C on the terminal reaches only this process, which then ends locust.
        locust = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(locust, load, report)
        except KeyboardInterrupt:
            return LoadEnd(interrupted=True)
        except subprocess.TimeoutExpired:
            return LoadEnd(problem="locust did not end")
        finally:
            locust.kill()  # nothing is lost: every answer is already on disk
            locust.wait()
        if locust.returncode in (0, WRONG_EXIT_CODE):
            return LoadEnd()
        log.seek(0)
        return LoadEnd(problem=f"locust ended with {locust.returncode}: {log.read()[-LOG_CHARS:]}")


def _wait(locust: subprocess.Popen[bytes], load: Load, report: Callable[[str], None]) -> None:
    """Raises: subprocess.TimeoutExpired."""
    started = time.monotonic()
    limit_s = load.seconds + STOP_TIMEOUT_S + OVERTIME_S
    while (passed_s := time.monotonic() - started) < limit_s:
        late = " (waiting for the last answers)" if passed_s > load.seconds else ""
        report(f"{load.shape}, {load.users} users, {load.seconds} s: {passed_s:.0f} s{late}")
        try:
            locust.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return
    raise subprocess.TimeoutExpired(locust.args, limit_s)
