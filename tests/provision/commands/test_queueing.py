"""Where a job's nodes find their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands.queueing import read_nodes_python


def test_the_environment_is_the_shared_folder_s_or_each_node_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shared = tmp_path / "home", tmp_path / "shared"
    monkeypatch.setenv("HOME", str(home))
    inner = Path(".zerofleet", "envs", "abc", "bin", "python")
    assert read_nodes_python(shared, "abc") == str(home / inner)
    assert read_nodes_python(home, "abc") == str(home / inner)
    (shared / inner).parent.mkdir(parents=True)
    (shared / inner).touch()
    assert read_nodes_python(shared, "abc") == str(shared / inner)
