"""Which paths a module is called with, and where its result goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.trainer_calls.call import local, placed, target
from provision.errors import ConfigError
from provision.settings import make_settings


def test_paths_of_this_machine_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert local("a.jsonl, /b") == "/tmp/a.jsonl,/b"
    assert local("hf://datasets/o/n") == "hf://datasets/o/n"
    assert placed(None, "ROWS", "a") == "/tmp/a"


def test_a_path_on_a_host_is_named_in_full() -> None:
    hosts: Any = object()
    assert placed(hosts, "ROWS", "~/a,/b") == "~/a,/b"
    with pytest.raises(ConfigError, match=r"ROWS: found a\.jsonl, expected a path on the hosts"):
        placed(hosts, "ROWS", "a.jsonl")


def test_a_result_overwrites_nothing(tmp_path: Path) -> None:
    given = make_settings({}, {"output": str(tmp_path / "new")}, tmp_path)
    assert target(given, None) == tmp_path / "new"
    (tmp_path / "new").mkdir()
    assert target(given, None) == tmp_path / "new"
    (tmp_path / "new" / "mine").touch()
    with pytest.raises(ConfigError, match=r"--output: found .*/new, which is not empty"):
        target(given, None)
    # invoke.yaml's output is a folder on the hosts
    configured = make_settings({"output": "/data/out"}, {}, tmp_path)
    assert target(configured, tmp_path / "run") == tmp_path / "run"
    with pytest.raises(ConfigError, match="--output: found nothing"):
        target(configured, None)
