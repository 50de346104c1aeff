"""What can break while ranks on four hosts work together, and what is left, and said, after it.

Each case: the event, seconds until every torchrun and rank of the run is gone from every host, and
the first failure by name. The bounds asserted are wide, for a machine of two busy cores; the real
figures are printed. A thinned matrix runs by default; all of it with

    ZEROFLEET_CHAOS=all ./zf test integration -k chaos
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision.launch.failure import RunOutcome
from tests.integration.chaos.conftest import PORT, Chaos

Figure = Callable[[float, RunOutcome | str], None]
#: Seconds. The aim is 10 on hosts of their own; here four hosts share two cores with other tests.
BOUND = 60.0
#: Less than torchrun's own 30.
SOON = 28.0
EVERYBODY = (1, 2, 3, 4)


def others(number: int) -> tuple[int, ...]:
    return tuple(n for n in EVERYBODY if n != number)


def named(outcome: RunOutcome, host: str, *words: str, rank: int | None = None) -> None:
    """The first failure is this host's, and of this rank, and says so."""
    first = outcome.first_failure
    assert first, outcome
    assert (first.host, first.rank) == (host, rank), str(outcome)
    assert all(word in first.reason for word in words), first.reason
    assert not first.symptom
    assert outcome.exit_code == 5


@pytest.mark.parametrize("number", [3, 1])
def test_a_rank_raises(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.file(number, f"raise-{number - 1}").touch()
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, f"node{number}", f"ValueError: boom on rank {number - 1}", rank=number - 1)


@pytest.mark.parametrize("number", [2, 1])
def test_a_rank_is_killed(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.signal(number, "rank", "SIGKILL")
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, f"node{number}", "killed by signal 9 (SIGKILL)", rank=number - 1)


@pytest.mark.parametrize("how", ["raises", "is killed"])
def test_one_of_two_ranks_ends_and_the_other_heeds_no_sigterm(
    chaos: Chaos, figure: Figure, how: str
) -> None:
    """torchrun waits 30 s for that one, and says nothing; nor do ranks that hang, as NCCL's do."""
    chaos.nproc = 2
    chaos.start()
    chaos.until_stepping()
    for number in EVERYBODY:
        chaos.file(number, "deaf").touch()
    deadline = time.monotonic() + BOUND
    heed_no_more = [(n, r) for n in EVERYBODY for r in (2 * n - 2, 2 * n - 1)]
    while not all(chaos.file(n, f"deaf-{rank}").exists() for n, rank in heed_no_more):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == "raises":
        chaos.file(3, "raise-5").touch()
    else:
        os.kill(chaos.ranks(3)[1], signal.SIGKILL)
    took = chaos.until_gone(EVERYBODY, SOON)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    first = outcome.first_failure
    assert first
    if how == "raises":
        named(outcome, "node3", "ValueError: boom on rank 5", rank=5)
    else:
        assert first.rank in (4, 5), str(outcome)
        named(outcome, "node3", "killed by signal 9 (SIGKILL)", rank=first.rank)


@pytest.fixture
def confined() -> Iterator[Callable[[int, int], None]]:
    """``confined(pid, size)``: a process that may take so many more bytes of memory."""
    made: list[Path] = []

    def confine(pid: int, size: int) -> None:
        old = Path("/sys/fs/cgroup/memory")
        root, name = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
        group = root / f"zerofleet-test-{pid}"
        try:
            group.mkdir()
            made.append(group)
            (group / name).write_text(str(size))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            pytest.skip(f"needs root over the control group of memory ({error})")

    yield confine
    for group in made:
        group.rmdir()


def test_a_rank_out_of_memory(
    chaos: Chaos, figure: Figure, confined: Callable[[int, int], None]
) -> None:
    chaos.start()
    chaos.until_stepping()
    (pid,) = chaos.ranks(2)
    confined(pid, 128 << 20)
    chaos.file(2, "grow-1").touch()
    took = chaos.until_gone(EVERYBODY, BOUND + 30)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, "node2", "killed by signal 9 (SIGKILL)", "want of memory", rank=1)


def test_a_rank_is_stopped_and_hangs_all_others(chaos: Chaos, figure: Figure) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.signal(3, "rank", "SIGSTOP")
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, "node3", "rank 2", "was stopped by a signal", rank=2)


@pytest.mark.parametrize("number", [3, 1])
def test_a_host_without_power(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.host(number).off()
    took = chaos.until_gone(others(number), BOUND)
    outcome = chaos.outcome(others(number), **{f"node{number}": "no connection any more"})
    figure(took, outcome)
    named(outcome, f"node{number}", "lost: ", "heard nothing of it for 5.0 s")


@pytest.mark.parametrize("number", [2, 1])
def test_a_link_is_cut(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.host(number).cut()
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, f"node{number}")


def drop(chaos: Chaos, number: int, way: str, rule: str = "drop") -> None:
    """Drop what goes ``in`` or ``out`` of a host, all of it unless the rule says otherwise."""
    chain = f"add chain inet chaos {way} {{ type filter hook {way}put priority 0; }}"
    rules = f"add table inet chaos\n{chain}\nadd rule inet chaos {way} meta oifname != lo {rule}\n"
    chaos.host(number).run(["nft", "-f", "-"], given=rules.replace("oifname", f"{way[0]}ifname"))


@pytest.mark.parametrize(("number", "way"), [(4, "in"), (4, "out"), (1, "in"), (1, "out")])
def test_a_link_is_cut_in_one_direction(
    chaos: Chaos, figure: Figure, number: int, way: str
) -> None:
    chaos.start()
    chaos.until_stepping()
    drop(chaos, number, way)
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    named(outcome, f"node{number}")


def test_a_fifth_of_all_packets_lost_is_survived(chaos: Chaos, figure: Figure) -> None:
    chaos.start()
    chaos.until_stepping()
    for number in EVERYBODY:
        drop(chaos, number, "in", "numgen random mod 100 < 20 drop")
    before, begun = chaos.step(1), time.monotonic()
    time.sleep(40)
    assert chaos.step(1) > before
    figure(time.monotonic() - begun, f"survived {chaos.step(1) - before} steps")
    assert all(chaos.supervise("state", number)["state"] == "running" for number in EVERYBODY)


@pytest.mark.parametrize("who", ["supervisor", "torchrun"])
def test_a_supervisor_or_torchrun_is_killed(chaos: Chaos, figure: Figure, who: str) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.signal(2, who, "SIGKILL")
    took = chaos.until_gone(EVERYBODY, BOUND)
    if who == "torchrun":
        outcome = chaos.outcome(EVERYBODY)
        named(outcome, "node2", "torchrun: killed by signal 9")
    else:
        outcome = chaos.outcome(others(2), node2="the supervisor died before the run ended")
        first = outcome.first_failure
        assert first
        assert first.host == "node2", str(outcome)
    figure(took, outcome)


def test_a_port_taken_after_preflight_is_named(chaos: Chaos, figure: Figure) -> None:
    chaos.plan()
    listen = (
        "import socket, sys, os, time; s = socket.socket(); s.bind(('', int(sys.argv[1])));"
        "s.listen(); os.fork() and os._exit(0); [os.close(i) for i in range(3)]; time.sleep(600)"
    )
    chaos.host(1).run(["python3", "-c", listen, str(PORT)])
    begun = time.monotonic()
    answers = [chaos.supervise("start", number) for number in EVERYBODY]
    chaos.until_gone(EVERYBODY, BOUND)
    took = time.monotonic() - begun
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome)
    assert "master_port 29640 is taken here" in answers[0]["error"]
    named(outcome, "node1", "master_port 29640 is taken here by another process")


def test_a_node_that_never_starts_is_named(chaos: Chaos, figure: Figure) -> None:
    chaos.limits = {"start_within": 14.0}
    begun = time.monotonic()
    chaos.start(1, 2, 4)
    chaos.until_gone((1, 2, 4), 60)
    took = time.monotonic() - begun
    outcome = chaos.outcome((1, 2, 4))
    figure(took, outcome)
    named(outcome, "node3", "node3 (node_rank 2) never heard of within 14 s")
    assert "waiting for node3 (node_rank 2) at 10.77.0.3 UDP port 29640" in chaos.log(1)


@pytest.mark.parametrize("number", [3])
def test_a_slow_host_is_waited_for(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start(*others(number))
    time.sleep(12)
    chaos.start(number)
    chaos.until_stepping()
    assert f"waiting for node{number} (node_rank {number - 1})" in chaos.log(1)
    chaos.file(1, "finish").touch()
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, "finished")
    assert outcome.state == "finished", str(outcome)


@pytest.mark.parametrize("number", [4])
def test_a_stop_on_one_host_stops_all(chaos: Chaos, figure: Figure, number: int) -> None:
    chaos.start()
    chaos.until_stepping()
    chaos.supervise("stop", number)
    took = chaos.until_gone(EVERYBODY, BOUND)
    outcome = chaos.outcome(EVERYBODY)
    figure(took, outcome.state)
    assert (outcome.state, outcome.first_failure) == ("stopped", None), str(outcome)
    assert outcome.exit_code == 0
    by = chaos.exits((1,))["node1"]["stopped_by"]
    assert (by["kind"], by["host"]) == ("asked", f"node{number}")


def test_two_runs_side_by_side(chaos: Chaos, figure: Figure) -> None:
    other = Chaos(cluster=chaos.cluster, python=chaos.python, run="other", port=PORT + 5)
    chaos.start()
    other.start()
    chaos.until_stepping()
    other.until_stepping()
    before = {number: set(chaos.ranks(number)) for number in EVERYBODY}
    chaos.supervise("stop", 1)
    chaos.exits(EVERYBODY)
    other.until_stepping(other.step(1) + 20)
    assert all(len(set(chaos.ranks(n)) & before[n]) == 1 for n in EVERYBODY)
    other.supervise("stop", 2)
    took = other.until_gone(EVERYBODY, BOUND)
    figure(took, "the other run went on")
    assert other.outcome(EVERYBODY).state == "stopped"
