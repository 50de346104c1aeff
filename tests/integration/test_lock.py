"""Parity and the drift lock on deployed hosts: what a user sees when one of them changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


#: Both hosts of the demo are this machine, each with a home of its own.
ONE_MACHINE = ("node2", "same machine", "note")


@pytest.fixture(scope="module")
def ask(deployed: Fleet, zf_run: ZfRun):
    """A command's object, and what is not ok in it: (host, subject, level)."""

    def run(*args: str, code: int = 0) -> tuple[dict[str, Any], set[tuple[str, str, str]]]:
        done = zf_run([*args, "--json"], deployed.folder)
        assert done.returncode == code, done.stderr
        answer = json.loads(done.stdout)
        odd = {(f["host"], f["subject"], f["level"]) for f in answer.get("findings", [])}
        return answer, {each for each in odd if each[2] != "ok"}

    return run


@pytest.fixture(scope="module")
def lock(ask, deployed: Fleet) -> Iterator[Path]:
    """The drift lock of these hosts, written by the command; gone after the tests."""
    path = deployed.folder / "zerofleet.lock.json"
    plan = ask("lock", "--dry-run")[0]["plan"]
    assert {step["host"] for step in plan["phases"][0]["steps"]} >= {"node1", "node2"}
    assert not path.exists()
    assert ask("lock")[0]["lock"] == str(path)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def switch_node2_off(deployed: Fleet):
    """Call it, and node2 has no environment in use until the test is over."""
    current = deployed.hosts[1].home / ".zerofleet" / "current"
    aside = current.with_name("current-aside")
    yield lambda: current.rename(aside)
    if aside.is_symlink():
        aside.rename(current)


def test_equal_hosts_are_equal_and_their_lock_says_so_again(ask, lock):
    written = lock.read_bytes()
    assert ask("lock")[0]["changes"] == []
    assert lock.read_bytes() == written
    assert json.loads(written)["hosts"]["node1"]["environment.torch"].startswith("2.")
    answer, odd = ask("parity", "--locked")
    assert odd == {ONE_MACHINE}
    subjects = {f["subject"] for f in answer["findings"]}
    assert {"environment.lock", "environment.wheel", "environment.torch", "drift"} <= subjects


def test_a_host_that_changed_is_named_and_a_run_is_refused(ask, lock, switch_node2_off, tmp_path):
    values = json.loads(lock.read_text())
    values["hosts"]["node1"]["kernel"] = "6.1.0-18-amd64"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(values))
    held_to = ("--lock-file", str(other))
    switch_node2_off()
    odd = ask("parity", "--locked", "--allow-drift", "kernel", *held_to, code=1)[1]
    assert ("node1", "kernel", "note") in odd
    assert ("node2", "environment.lock", "error") in odd
    assert not {each for each in odd if each[2] == "error" and each[1] == "kernel"}

    answer, odd = ask("train", "--dry-run", *held_to, code=1)
    assert {("node1", "kernel", "error"), ("node2", "environment.lock", "error")} <= odd
    (kernel,) = (f for f in answer["findings"] if f["subject"] == "kernel")
    assert kernel["expected"].startswith("6.1.0-18-amd64, as locked 20")
    assert "--allow-drift kernel" in kernel["remedy"]
    assert "plan" not in answer


def test_what_can_not_be_held_to_is_refused_before_a_host_is_asked(ask, tmp_path):
    broken = tmp_path / "lock.json"
    broken.write_text("<<<<<<< HEAD\n")
    held_to = ("--lock-file", str(broken))
    assert ask("train", "--dry-run", *held_to, code=2)[0]["error"]["what"] == str(broken)
    broken.unlink()
    assert ask("parity", "--locked", *held_to, code=2)[0]["error"]["found"] == "no such file"
    assert "did you mean" in ask("parity", "--allow-drift", "kernl", code=2)[0]["error"]["remedy"]
