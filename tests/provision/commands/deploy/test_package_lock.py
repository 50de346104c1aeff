"""Which lock of packages counts."""

from __future__ import annotations

from pathlib import Path

from provision.commands.deploy.package_lock import SHIPPED_LOCK, own_lock, read_lock_path
from provision.settings import make_settings


def test_the_projects_own_lock_counts_once_it_is_there(tmp_path: Path) -> None:
    s = make_settings({}, {"hosts": "rack/hosts.txt"}, tmp_path)
    assert read_lock_path(s) == SHIPPED_LOCK
    assert SHIPPED_LOCK.is_file()
    own_lock(s).parent.mkdir()
    own_lock(s).touch()
    assert read_lock_path(s) == tmp_path / "rack" / "zerofleet.env.lock"


def test_a_lock_that_is_named_counts_even_if_it_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "zerofleet.env.lock").touch()
    s = make_settings({"env_lock": "mine.lock"}, {}, tmp_path)
    assert read_lock_path(s) == own_lock(s) == tmp_path / "mine.lock"
