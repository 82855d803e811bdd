"""One process per folder."""

import errno

import pytest

from dassl.utils import lock, sole_user_of


def test_a_folder_has_one_user(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0)
    folder = str(tmp_path / "new" / "run")
    with sole_user_of(folder), pytest.raises(ValueError, match="is in use"), sole_user_of(folder):
        pass
    with sole_user_of(folder):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, capsys):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with sole_user_of(str(tmp_path)):
        assert "let no other run use this folder" in capsys.readouterr().out
