import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app.backends.secrets import ensure_data_dir, ensure_token, renew_token, sha256, signing_key


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


def test_a_data_directory_of_ours_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder_mode in (0o755, 0o777):
        data.mkdir(exist_ok=True)
        data.chmod(folder_mode)
        ensure_token(data)  # the second time with files of ours
        assert mode(data) == 0o700


def test_a_folder_of_others_that_is_no_data_directory_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "anothers").touch()
    with pytest.raises(PermissionError, match="no data directory"):
        ensure_token(tmp_path)
    assert mode(tmp_path) == 0o777
    tmp_path.chmod(0o700)
    ensure_token(tmp_path)


def test_a_data_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="another user"):
        ensure_data_dir(tmp_path)
    assert not (tmp_path / "token").exists()
