"""hold.py as it runs on a host: a lock that lives exactly as long as whoever took it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision.deploy.hold import Hold
from provision.deploy.switch import use_step
from provision.findings import Report
from provision.onhost import hold as onhost
from provision.script import read_onhost
from provision.steps import Phase, Run

ANA = {"user": "ana", "host": "login1", "what": "deploy abc", "token": "t1"}
BEN = {"user": "ben", "host": "login2", "what": "clean", "token": "t2"}


class Holder:
    """A controller's conversation with hold.py on this machine, with a home of its own."""

    def __init__(self, home: Path, *args: str, program: str | None = None, token: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program or read_onhost("hold"), *args],
            env={**os.environ, "HOME": str(home), "ZEROFLEET_LOCK": token},
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
        self.process.wait(timeout=120)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(*args, **how):
        started.append(Holder(tmp_path, *args, **how))
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


@pytest.fixture
def silent(start):
    """Ana's controller, that fell silent: her lock is nobody's, and her connection still stands."""
    program = read_onhost("hold")
    assert "SILENCE = 40.0" in program
    silent = start("take", json.dumps(ANA), program=program.replace("SILENCE = 40.0", "SILENCE=.2"))
    assert silent.answer() == {"held": None}
    assert silent.process.wait(timeout=120) == 0  # its stdin is still open
    return silent


@pytest.mark.usefixtures("silent")
def test_a_silent_controller_is_gone(start):
    assert start("read").answer() == {"held": None}
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def switch(home, token, name):
    """A controller's switch to an environment, as it is carried out: its last words."""
    step = use_step("node1", name, "deploy", "all have it")
    (step,) = Hold(report=Report(), token=token).fenced(Phase(name="switch", steps=(step,))).steps
    assert isinstance(step.do, Run)
    done = subprocess.run(
        step.do.argv,
        env={**os.environ, "HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stderr.strip()


@pytest.fixture
def current(tmp_path):
    for name in ("anas", "bens"):
        (tmp_path / ".zerofleet" / "envs" / name).mkdir(parents=True)
        (tmp_path / ".zerofleet" / "envs" / name / "complete.json").touch()
    return tmp_path / ".zerofleet" / "current"


@pytest.mark.usefixtures("silent")
def test_who_slept_too_long_switches_no_more(start, tmp_path, current):
    gone = "the lock here is this command's no more (did its machine sleep?)"
    assert switch(tmp_path, "t1", "anas") == f"{gone}; nobody has it"
    assert start("take", json.dumps(BEN)).answer() == {"held": None}
    assert switch(tmp_path, "t2", "bens") == ""
    assert switch(tmp_path, "t1", "anas") == f"{gone}; ben@login2 has it: clean"
    assert current.readlink() == Path("envs/bens")
    assert switch(tmp_path, "", "anas").startswith(gone)


def test_who_was_killed_and_followed_by_nobody_may_come_to_its_end(start, tmp_path, current):
    """Its record is there still, and nobody else's: its switch was under way."""
    first = start("take", json.dumps(ANA))
    first.answer()
    first.process.kill()
    first.process.wait()
    assert switch(tmp_path, "t1", "anas") == ""
    assert current.readlink() == Path("envs/anas")


AT_WORK = """
from provision.onhost.converse import reply
from provision.onhost.hold import share
share()
reply({"shares": True})
import sys
sys.stdin.read()
"""


def test_nobody_takes_it_before_the_last_command_of_its_holder_ended(start):
    """Its controller was killed, and what it had begun on the host goes on there."""
    first = start("take", json.dumps(ANA))
    first.answer()
    # As the scripts of onhost/ reach a host: with what they import.
    parts = read_onhost("switch").rpartition("exec(compile(")[0]
    removing = start(program=parts + AT_WORK, token="t1")
    assert removing.answer() == {"shares": True}
    first.end()
    assert start("read").answer() == {"held": None}
    at_once = read_onhost("hold").replace("in range(20)", "in range(1)")  # no second to wait
    held = start("take", json.dumps(BEN), program=at_once).answer()["held"]
    assert held["user"] == "ana"
    removing.end()
    assert start("take", json.dumps(BEN)).answer() == {"held": None}


def test_another_that_comes_between_has_it(tmp_path, monkeypatch):
    """flock(2) lets go of a lock before it takes it as another kind."""
    monkeypatch.setattr(onhost, "LOCK", str(tmp_path / "lock"))
    ours, theirs = (os.open(onhost.LOCK, os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(theirs, fcntl.LOCK_EX)
    onhost.write_record(theirs, BEN)
    assert not onhost.is_shared(ours, "t1")
    assert onhost.is_shared(theirs, "t2")
    assert not onhost.is_shared(ours, "t1")
    assert onhost.is_shared(ours, "t2")


def test_a_record_is_written_in_place_so_that_a_full_disk_has_room_for_it(start, tmp_path):
    first = start("take", json.dumps(ANA))
    first.answer()
    size = (tmp_path / ".zerofleet/lock").stat().st_size
    first.end()
    assert (tmp_path / ".zerofleet/lock").stat().st_size == size == onhost.RECORD
    assert start("read").answer() == {"held": None}


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
