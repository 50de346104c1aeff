"""hold.py as it runs on a host: a lock that lives exactly as long as whoever took it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision.onhost import hold as onhost
from provision.script import read_onhost

ANA = {"user": "ana", "host": "login1", "what": "deploy abc", "token": "t1"}
BEN = {"user": "ben", "host": "login2", "what": "clean", "token": "t2"}


class Holder:
    """A controller's conversation with hold.py on this machine, with a home of its own."""

    def __init__(self, home: Path, *args: str, program: str | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program or read_onhost("hold"), *args],
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> dict[str, object]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line[len("ZEROFLEET<<") :].rpartition(">>")[0])

    def tell(self, message: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """As its connection ends."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self.process.wait(timeout=20)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(*args, program=None):
        started.append(Holder(tmp_path, *args, program=program))
        return started[-1]

    yield run
    for holder in started:
        holder.end()


def test_the_second_is_told_who_the_first_is_and_gets_it_when_that_one_ends(start):
    first = start("take", json.dumps(ANA))
    assert first.answer() == {"held": None}
    held = start("take", json.dumps(BEN)).answer()["held"]
    assert {key: held[key] for key in ANA} == ANA
    assert held["process"]["pid"] == first.process.pid
    first.end()
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def test_a_killed_holder_holds_nothing_though_its_record_is_there(start, tmp_path):
    first = start("take", json.dumps(ANA))
    first.answer()
    assert start("read").answer()["held"]["user"] == "ana"
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert json.loads((tmp_path / ".zerofleet/lock").read_text())["user"] == "ana"
    assert start("read").answer() == {"held": None}
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def test_a_record_of_another_boot_names_nobody(start, tmp_path):
    first = start("take", json.dumps(ANA))
    first.answer()
    path = tmp_path / ".zerofleet/lock"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot_id": "another"}))
    assert start("read").answer() == {"held": None}


def test_a_silent_controller_is_gone(start):
    program = read_onhost("hold")
    assert "SILENCE = 40.0" in program
    silent = start("take", json.dumps(ANA), program=program.replace("SILENCE = 40.0", "SILENCE=.2"))
    assert silent.answer() == {"held": None}
    assert silent.process.wait(timeout=20) == 0  # its stdin is still open
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def test_a_lock_that_was_removed_is_no_longer_its_holders(start, tmp_path):
    first = start("take", json.dumps(ANA))
    first.answer()
    first.tell({"confirm": True})
    assert first.answer() == {"own": True}
    (tmp_path / ".zerofleet/lock").unlink()
    first.tell({"confirm": True})
    assert first.answer() == {"own": False}
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def test_a_host_that_cant_be_written_to_says_so(start, tmp_path):
    (tmp_path / ".zerofleet").write_text("in the way")
    answer = start("take", json.dumps(ANA)).answer()
    assert answer == {"error": f"{tmp_path}/.zerofleet/lock: File exists"}


def test_the_lock_is_of_the_file_that_the_path_names_now(tmp_path, monkeypatch):
    monkeypatch.setattr(onhost, "LOCK", str(tmp_path / "lock"))
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as file:
        assert onhost.is_own(file.fileno())
        (tmp_path / "lock").rename(tmp_path / "elsewhere")
        (tmp_path / "lock").touch()
        assert not onhost.is_own(file.fileno())
