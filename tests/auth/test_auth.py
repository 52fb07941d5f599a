import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app.backends.secrets import ensure_token, renew_token, sha256, signing_key


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_token_that_only_its_owner_reads(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    token = (tmp_path / "token").read_text().strip()
    assert len(token) >= 43  # 256 bits
    assert {mode(tmp_path / name) for name in ("token", "token.sha256")} == {0o600}
    assert (tmp_path / "token.sha256").read_text().strip() == sha256(token)


def test_the_next_start_keeps_the_token(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    before = (tmp_path / "token").read_text()
    ensure_token(tmp_path)
    assert (tmp_path / "token").read_text() == before


def test_a_renewed_token_is_another_one(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    before = (tmp_path / "token").read_text()
    renew_token(tmp_path)
    assert (tmp_path / "token").read_text() != before
    assert (tmp_path / "token.sha256").read_text().strip() == sha256((tmp_path / "token").read_text().strip())


def test_an_empty_token_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        ensure_token(tmp_path)


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: signing_key(tmp_path), range(64)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]
