"""JSON bodies, read as the ingress reads them."""

import pytest

from serve_app.api import body as bodies
from serve_app.api.body import MAX_STRUCTURE, _read_json
from serve_app.errors import InvalidRequestError


@pytest.mark.parametrize(
    "bomb", [b"[" + b"[]," * MAX_STRUCTURE + b"[]]", b'{"a":' * (MAX_STRUCTURE + 1), b"[" * MAX_STRUCTURE * 2]
)
def test_a_body_with_more_structure_than_any_request_has_is_not_parsed(
    bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "from_json", lambda *_args, **_options: pytest.fail("it was parsed"))
    with pytest.raises(InvalidRequestError, match="not valid"):
        _read_json(bomb)


def test_a_prompt_may_be_made_of_commas() -> None:
    prompt = "," * 2000
    assert (
        _read_json(b'{"prompt": "%s", "negative_prompt": "%s"}' % (prompt.encode(), prompt.encode()))["prompt"]
        == prompt
    )
