"""The result of a check, and its remedy."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail`: the service cannot work like this. The texts never contain secrets."""

    check: str
    state: State
    reason: str
    remedy: str = ""


def ok(check: str, reason: str) -> Finding:
    """A check that passed; it needs no remedy."""
    return Finding(check, "ok", reason)


def warn(check: str, reason: str, remedy: str) -> Finding:
    """A problem with which the service works; `remedy` says what to do."""
    return Finding(check, "warn", reason, remedy)


def fail(check: str, reason: str, remedy: str) -> Finding:
    """A problem with which the service cannot work; `remedy` says what to do."""
    return Finding(check, "fail", reason, remedy)
