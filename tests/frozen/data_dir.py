"""The data directory of an earlier version, as it would lie here had its service ended a moment ago."""

import json
import os
import re
import tarfile
import time
from pathlib import Path
from typing import Any

from tests.frozen.surface import FROZEN

ARCHIVE = FROZEN / "data_dir.tar.gz"
FACTS = FROZEN / "data_dir.json"  # what was in it: tokens, tasks and what clients were told of them
LOG_FOLDER = "broker/appendonlydir"
MOMENT = re.compile(rb"(?<![\w.-])(\d{10})(\d{3})?(?!\w)")  # unix seconds, or milliseconds
BEFORE_S, AFTER_S = 24 * 3600, 100 * 24 * 3600  # of the end of the service: what lies within is a moment
CERTIFIED_S = 3650 * 24 * 3600  # the certificates in it are not made anew


def unpack(data_dir: Path) -> dict[str, Any]:
    """Put the directory there, and give what was in it; every moment of its records is as long ago as it was then.

    Results and records live for a day and a queued task for an hour, so without that nothing would be left of them.
    """
    facts: dict[str, Any] = json.loads(FACTS.read_text())
    passed_s = int(time.time()) - facts["ended_at"]
    assert 0 <= passed_s < CERTIFIED_S, "this machine's clock is before the archive was made, or years after it"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(data_dir, filter="data")
    for path in (data_dir / LOG_FOLDER).glob("*.aof"):
        path.write_bytes(later(path.read_bytes(), facts["ended_at"], passed_s))
    for path in data_dir.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime + passed_s,) * 2)
    return facts


def later(log: bytes, ended_at: int, passed_s: int) -> bytes:
    """An append-only file whose moments are so much later: times to live, times in records, ids of messages.

    All keep their number of digits, and with it the lengths that the file gives.
    """

    def moved(found: re.Match[bytes]) -> bytes:
        seconds, rest = int(found[1]), found[2] or b""
        is_moment = ended_at - BEFORE_S < seconds < ended_at + AFTER_S
        return b"%d%s" % (seconds + passed_s, rest) if is_moment else found[0]

    return MOMENT.sub(moved, log)
