"""Values that replicas of two versions of this package exchange while an application is updated."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

from deployments import types

KINDS = [kind for kind in vars(types).values() if is_dataclass(kind)]


def values(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in fields(value)]


def received(value: Any, state: list[Any]) -> Any:
    """What pickle makes of a value whose fields its sender has so."""
    make, arguments, *_ = value.__reduce_ex__(4)
    unpickled = make(*arguments)
    unpickled.__setstate__(state)
    return unpickled


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_the_sender_has_not_have_their_defaults_and_those_it_has_more_are_dropped(kind: Any) -> None:
    required = [field for field in fields(kind) if field.default is field.default_factory is MISSING]
    value = kind(*range(len(required)))
    assert values(received(value, values(value)[: len(required)])) == values(value)
    assert values(received(value, [*values(value), "unknown"])) == values(value)
