import os
import stat
from pathlib import Path

import pytest

from serve_app.backends import private_folder
from serve_app.backends.private_folder import ensure_private_folder, short_folder
from serve_app.local_ray import (
    FOLDER,
    MAX_FOLDER_PATH,
    RAY_TOKEN_FILE,
    StartError,
    _private_environment,
    local_ray,
    ray_folder,
)

SOCKET = "session_2026-12-31_23-59-59_999999_4194304/sockets/dash_MetricsHead"  # the longest that Ray makes
LONGEST_SOCKET_PATH = 107  # on Linux


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / ("long" * 20)
    folder.mkdir(mode=0o700)
    return folder


def sessions(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / FOLDER).glob("session_*"))


def make_sessions(data_dir: Path, *names: str) -> None:
    for name in names:
        (data_dir / FOLDER / f"session_{name}" / "logs").mkdir(parents=True)


@pytest.mark.parametrize("uid", [0, 4294967294])
def test_sockets_have_room_whatever_the_path_of_the_data_directory(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert len(os.fsencode(short_folder(Path("/data" * 50)) / FOLDER)) <= MAX_FOLDER_PATH
    assert MAX_FOLDER_PATH + len(f"/{SOCKET}") <= LONGEST_SOCKET_PATH


def test_rays_folder_is_in_the_data_directory_and_a_short_way_to_it_ends_with_the_service(data_dir: Path) -> None:
    with ray_folder(data_dir) as folder:
        assert len(os.fsencode(folder)) <= MAX_FOLDER_PATH
        assert folder.resolve() == (data_dir / FOLDER).resolve()
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        with ray_folder(data_dir) as same:
            assert same == folder
        assert folder.exists()
    assert not folder.parent.exists()


def test_only_the_logs_of_the_last_session_are_kept(data_dir: Path) -> None:
    make_sessions(data_dir, "2026-01-01", "2026-01-02", "2026-01-03")
    with ray_folder(data_dir):
        assert sessions(data_dir) == ["session_2026-01-03"]


def test_no_session_is_deleted_while_another_service_uses_the_data_directory(data_dir: Path) -> None:
    with ray_folder(data_dir):
        make_sessions(data_dir, "2026-01-01", "2026-01-02")
        with ray_folder(data_dir):
            assert sessions(data_dir) == ["session_2026-01-01", "session_2026-01-02"]


def test_a_short_way_that_another_user_laid_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_folder, "TEMPORARY", tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    short_folder(data_dir).symlink_to(mine)  # to a folder of ours, for now
    owner = os.lstat

    def owned_by_another(path: Path) -> os.stat_result:
        status = list(owner(path))
        status[stat.ST_UID] += path == short_folder(data_dir)
        return os.stat_result(status)

    monkeypatch.setattr(Path, "lstat", owned_by_another)
    with pytest.raises(PermissionError, match="another user"):
        ensure_private_folder(short_folder(data_dir))
    with pytest.raises(StartError, match=r"data directory cannot be used.*another user"), local_ray(data_dir, {}):
        pass
    assert list(mine.iterdir()) == []


def test_an_empty_token_file_is_refused(data_dir: Path) -> None:
    (data_dir / RAY_TOKEN_FILE).touch()
    with pytest.raises(StartError, match="empty"), local_ray(data_dir, {}):
        pass


@pytest.mark.parametrize("asked", [None, "1"])
def test_ray_reports_its_use_only_where_it_is_asked_to(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if asked is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", asked)
    assert _private_environment(data_dir)["RAY_USAGE_STATS_ENABLED"] == (asked or "0")
