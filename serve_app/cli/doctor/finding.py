"""What a check found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail`: the service will not work like this. No text of it ever holds a secret."""

    check: str
    state: State
    reason: str
    remedy: str = ""


def ok(check: str, reason: str) -> Finding:
    return Finding(check, "ok", reason)


def warn(check: str, reason: str, remedy: str) -> Finding:
    return Finding(check, "warn", reason, remedy)


def fail(check: str, reason: str, remedy: str) -> Finding:
    return Finding(check, "fail", reason, remedy)
