"""switch.py as it runs on a host: a link replaced in one step, and what was is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from provision.script import read_onhost


@pytest.fixture
def root(tmp_path):
    root = tmp_path / ".zerofleet"
    for name in ("aa", "bb", "half"):
        (root / "envs" / name).mkdir(parents=True)
        if name != "half":
            (root / "envs" / name / "complete.json").write_text("{}")
    (root / "lock").write_text('{"user": "ana", "host": "login1", "token": "t1"}')
    return root


@pytest.fixture
def switch(root):
    def run(command, **wanted):
        return subprocess.run(
            [sys.executable, "-c", read_onhost("switch"), command, json.dumps(wanted)],
            env={**os.environ, "HOME": str(root.parent), "ZEROFLEET_LOCK": "t1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def history(root):
    return [json.loads(line) for line in (root / "history.jsonl").read_text().splitlines()]


def test_the_link_and_the_history_follow_each_switch(root, switch):
    for name in ("aa", "bb", "bb"):
        assert switch("use", name=name, what="deploy").returncode == 0
    assert str((root / "current").readlink()) == "envs/bb"
    lines = history(root)
    assert [(line["was"], line["env"]) for line in lines] == [(None, "aa"), ("aa", "bb")]
    assert lines[1]["by"] == "ana@login1"
    assert switch("leave", what="back").returncode == 0
    assert not os.path.lexists(root / "current")
    assert [history(root)[-1][key] for key in ("was", "env", "what")] == ["bb", None, "back"]


def test_an_incomplete_environment_is_never_put_to_use(root, switch):
    switch("use", name="aa", what="deploy")
    done = switch("use", name="half", what="deploy")
    assert (done.returncode, done.stderr) == (1, "envs/half is not complete\n")
    assert str((root / "current").readlink()) == "envs/aa"
    assert len(history(root)) == 1


def test_what_a_power_cut_left_is_gone_past(root, switch):
    (root / "current.new").symlink_to("envs/half")
    (root / "history.jsonl").write_text('{"env": "aa", "wa')
    assert switch("use", name="bb", what="deploy").returncode == 0
    assert str((root / "current").readlink()) == "envs/bb"
    assert json.loads((root / "history.jsonl").read_text().splitlines()[1])["env"] == "bb"


def test_where_nothing_can_be_written_nothing_changes(root, switch):
    switch("use", name="aa", what="deploy")
    (root / "history.jsonl").unlink()
    (root / "history.jsonl").mkdir()
    done = switch("use", name="bb", what="deploy")
    assert (done.returncode, done.stderr) == (1, f"{root}/history.jsonl: Is a directory\n")
    assert str((root / "current").readlink()) == "envs/aa"
