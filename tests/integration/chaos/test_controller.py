"""A run whose controller is killed, cut off, interrupted or shut out while the hosts work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision.launch.failure import RunOutcome
from provision.launch.nodes import RUNS
from tests.integration.chaos.conftest import AHEAD, Chaos
from tests.integration.chaos.test_chaos import BOUND, EVERYBODY
from tests.integration.cluster.cluster import CONTROLLER
from tests.integration.faults.conftest import Hosts, Said, read_said

#: Seconds. A bound of the tests' own: whole runs, on cores that other tests use too.
WITHIN = 300.0
pytestmark = pytest.mark.timeout(900)
Figure = Callable[[float, RunOutcome | str], None]
TRAIN = ("train", "--code", "code", "--script", "code/rank.py")


@pytest.fixture
def attached(desk: Hosts, chaos: Chaos) -> Iterator[subprocess.Popen[str]]:
    """``invoke train``, which watches the run that it has started; ``chaos`` is that run."""
    begun = time.time()
    train = desk.start(*TRAIN)
    until_there(chaos, train, begun)
    chaos.until_stepping()
    yield train
    if train.poll() is None:
        train.kill()
    train.communicate()


def until_there(chaos: Chaos, train: subprocess.Popen[str], begun: float, but: str = "") -> None:
    """Wait until train has put a run on the first host, ``but`` that one."""
    folder = chaos.host(1).path(f"~/{RUNS}")
    while train.poll() is None:
        for run in folder.glob("*-script-*"):
            new = run.name != but and run.stat().st_mtime >= begun
            if new and (run / "record.json").exists():
                chaos.adopt(run.name)
                return
        if time.time() > begun + WITHIN:
            train.kill()
        time.sleep(0.05)
    raise AssertionError(train.communicate()[1][-3000:])


def finish(chaos: Chaos) -> None:
    """Let the ranks end their work."""
    chaos.file(1, "finish").touch()


def goes_on(chaos: Chaos) -> None:
    """Every rank makes steps from now on."""
    chaos.until_stepping(max(chaos.step(number) for number in EVERYBODY) + 20)


def attach(desk: Hosts, chaos: Chaos) -> Said:
    """What somebody else is told who watches the run to its end."""
    process = desk.start("attach", chaos.run)
    time.sleep(3)
    finish(chaos)
    return read_said(process, WITHIN)


def finished(said: Said) -> None:
    assert said.code == 0, said.stderr[-3000:]
    assert (said.answer["state"], said.answer["first_failure"]) == ("finished", None)
    assert [rank["host"] for rank in said.answer["ranks"]] == [f"node{n}" for n in EVERYBODY]


def test_the_controller_is_killed(
    desk: Hosts, chaos: Chaos, attached: subprocess.Popen[str], figure: Figure
) -> None:
    attached.kill()
    attached.communicate()
    goes_on(chaos)
    said = attach(desk, chaos)
    finished(said)
    assert "<h2>Hosts</h2>" in Path(said.answer["report"]).read_text()
    figure(chaos.until_gone(EVERYBODY, BOUND), "went on; attach: finished")


def test_a_script_begins_again_after_a_failure(desk: Hosts, chaos: Chaos, figure: Figure) -> None:
    begun = time.time()
    train = desk.start(*TRAIN, "--retries", "1")
    until_there(chaos, train, begun)
    chaos.until_stepping()
    first, failed = chaos.run, time.time()
    chaos.file(3, "raise-2").touch()
    until_there(chaos, train, failed, but=first)
    chaos.until_stepping()
    took = time.time() - failed
    finish(chaos)
    said = read_said(train, WITHIN)
    finished(said)
    assert said.answer["resumed_from"] == first != said.answer["run"]
    figure(took, "failed; on all hosts again")


def controllers_link(chaos: Chaos, *rules: str) -> None:
    """Drop what the controller sends and is sent; hosts hear one another as before."""
    chaos.cluster.run(["nft", "flush", "ruleset"])
    for rule in rules:
        for way in ("input", "output"):
            chain = f"add chain inet cut {way} {{ type filter hook {way} priority 0; }}"
            chaos.cluster.run(["nft", f"add table inet cut; {chain}"])
            chaos.cluster.run(["nft", f"add rule inet cut {way} {rule} drop"])


def test_the_controllers_link_is_cut(
    desk: Hosts, chaos: Chaos, attached: subprocess.Popen[str], figure: Figure
) -> None:
    controllers_link(chaos, f"ip saddr {CONTROLLER}", f"ip daddr {CONTROLLER}")
    begun = time.monotonic()
    try:
        lost = read_said(attached, WITHIN)
        took = time.monotonic() - begun
        goes_on(chaos)
    finally:
        controllers_link(chaos)
    assert lost.code == 5
    assert lost.answer["state"] == "lost"
    said = attach(desk, chaos)
    finished(said)
    figure(took, lost.stderr[-1500:])


def test_the_controllers_link_to_one_host_is_cut(
    desk: Hosts, chaos: Chaos, attached: subprocess.Popen[str], figure: Figure
) -> None:
    address = chaos.host(3).address
    controllers_link(chaos, f"ip saddr {address}", f"ip daddr {address}")
    try:
        time.sleep(60)  # longer than it takes to give up a host that nobody hears of
        goes_on(chaos)
    finally:
        controllers_link(chaos)
    finish(chaos)
    said = read_said(attached, WITHIN)
    finished(said)
    (line,) = [line for line in said.stderr.splitlines() if "trying again" in line]
    figure(chaos.until_gone(EVERYBODY, BOUND), line)


def test_ssh_is_restarted_while_attached(
    chaos: Chaos, attached: subprocess.Popen[str], figure: Figure
) -> None:
    host = chaos.host(2)
    (server,) = host.run(["pgrep", "-o", "-x", "sshd"]).split()
    sessions = [pid for pid, line in host.commands().items() if line.startswith("sshd: root")]
    assert sessions
    host.run(["kill", "-HUP", server])  # it starts itself anew: sshd(8)
    for pid in sessions:
        os.kill(pid, signal.SIGKILL)
    goes_on(chaos)
    finish(chaos)
    took = chaos.until_gone(EVERYBODY, BOUND)
    finished(read_said(attached, WITHIN))
    figure(took, "went on; finished, and told so")


def interrupt(train: subprocess.Popen[str]) -> None:
    train.send_signal(signal.SIGINT)


def test_ctrl_c(chaos: Chaos, attached: subprocess.Popen[str], figure: Figure) -> None:
    interrupt(attached)
    took = chaos.until_gone(EVERYBODY, BOUND)
    said = read_said(attached, WITHIN)
    assert said.code == 130
    assert (said.answer["state"], said.answer["first_failure"]) == ("stopped", None)
    (line,) = [line for line in said.stderr.splitlines() if "Ctrl-C" in line]
    figure(took, line)


def test_ctrl_c_twice(chaos: Chaos, attached: subprocess.Popen[str], figure: Figure) -> None:
    interrupt(attached)
    time.sleep(0.5)
    interrupt(attached)
    took = chaos.until_gone(EVERYBODY, BOUND)
    out, err = attached.communicate(timeout=WITHIN)
    assert attached.returncode == 130, err[-3000:]
    assert "\nTraceback" not in err  # the ranks have theirs, behind their names
    assert json.loads(out)["exit"] == 130
    outcome = chaos.outcome(EVERYBODY)
    assert outcome.state == "stopped", str(outcome)
    figure(took, err.splitlines()[-1])


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_ctrl_c_during_start(desk: Hosts, chaos: Chaos, figure: Figure, after: float) -> None:
    begun = time.time()
    train = desk.start(*TRAIN)  # at the port of the one before, which some hosts never began
    until_there(chaos, train, begun)
    time.sleep(after)
    interrupt(train)
    _, err = train.communicate(timeout=WITHIN)
    took = chaos.until_gone(EVERYBODY, BOUND)
    assert train.returncode == 130, err[-3000:]
    assert "\nTraceback" not in err  # the ranks have theirs, behind their names
    figure(took, err.splitlines()[-1])


def records(chaos: Chaos) -> set[str]:
    """The runs that a supervisor has begun, on any host."""
    found = (chaos.host(n).path(f"~/{RUNS}").glob("*/record.json") for n in EVERYBODY)
    return {path.parent.name for paths in found for path in paths}


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=lambda by: by.name)
def test_nothing_stands_by_without_its_controller(
    desk: Hosts, chaos: Chaos, figure: Figure, by: signal.Signals
) -> None:
    """It ends while hosts are checked, and torchrun is imported there in the meantime."""
    before = records(chaos)
    train = desk.start(*TRAIN)
    deadline = time.monotonic() + WITHIN
    while not all(any(AHEAD in c for c in chaos.left(n).values()) for n in EVERYBODY):
        assert train.poll() is None, train.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    train.send_signal(by)
    took = chaos.until_gone(EVERYBODY, BOUND)
    train.communicate(timeout=WITHIN)
    assert records(chaos) == before
    figure(took, "no run was begun, and nothing stands by")
