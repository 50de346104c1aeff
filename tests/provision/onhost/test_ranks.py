from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.onhost.processes import read_exit_code, read_moved_bytes
from provision.onhost.ranks import Ranks

PLAN = {"first_rank": 4, "nproc_per_node": 2}
Begin = Callable[[int], "subprocess.Popen[bytes]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a rank, whose torchrun this process is."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(local_rank: int) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "RANK": str(4 + local_rank), "LOCAL_RANK": str(local_rank)}
        argv = [sys.executable, "-c", "print(flush=True); input()"]
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen(argv, env=environ, stdin=pipe, stdout=pipe))
        assert begun[-1].stdout
        begun[-1].stdout.readline()
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(str(tmp_path), PLAN, os.getpid(), limit=5.0)


def ended(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """It has ended, and nobody has reaped it."""
    process.send_signal(number)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def fails(ranks: Ranks, local_rank: int, words: str) -> None:
    folder = Path(ranks.run_dir, "ranks", "none_x", "attempt_0", str(local_rank))
    folder.mkdir(parents=True)
    said: dict[str, Any] = {"message": words, "extraInfo": {"timestamp": "1000"}}
    (folder / "error.json").write_text(json.dumps({"message": said}))


def test_ranks_that_work_have_not_failed(ranks: Ranks, begin: Begin) -> None:
    begin(0)
    begin(1)
    assert ranks.read_failed(0.0) is None
    assert ranks.any
    assert ranks.read_moved() > 0


def test_a_rank_that_nobody_has_reaped_says_how_it_ended(ranks: Ranks, begin: Begin) -> None:
    begin(0)
    second = begin(1)
    ranks.read_failed(0.0)
    ended(second)
    found = ranks.read_failed(0.1)
    assert found
    reason = "killed by signal 9 (SIGKILL)"
    assert found == {"rank": 5, "local_rank": 1, "reason": reason, "symptom": False}
    assert ranks.closing


def test_who_has_a_ranks_pid_later_is_no_rank(ranks: Ranks, begin: Begin) -> None:
    first, other = begin(0), begin(1)
    ranks.read_failed(0.0)
    ranks.known[other.pid]["start_time"] -= 1
    ended(other)
    assert ranks.read_failed(2.0) is None
    third = begin(1)
    ranks.read_failed(4.0)
    ranks.known[third.pid]["start_time"] -= 1
    ranks.kill()
    assert first.wait(120) == -signal.SIGKILL
    third.communicate(b"\n")
    assert third.returncode == 0


def test_a_rank_that_has_finished_has_not_failed(ranks: Ranks, begin: Begin) -> None:
    begin(0)
    second = begin(1)
    ranks.read_failed(0.0)
    second.communicate(b"\n")
    assert read_exit_code(second.pid) is None
    assert ranks.read_failed(2.0) is None


def test_torchruns_word_that_it_ends_the_others(ranks: Ranks, begin: Begin) -> None:
    first, second = begin(0), begin(1)
    ranks.read_failed(0.0)
    log = Path(ranks.run_dir, "node.log")
    line = f"W1122 01:38:21.392000 4044 api.py:1028] Sending process {first.pid} closing signal"
    log.write_text(f"[rank 1] {line}\nSending process 1 closing signal SIGTERM\n{line}")
    second.kill()
    second.wait()
    assert ranks.read_failed(2.0) is None  # a rank's, no rank of this node, half a line
    with log.open("a") as file:
        file.write(" SIGTERM\n")
    assert ranks.read_failed(2.5) is None  # once a second
    found = ranks.read_failed(2.6, at_once=True)
    assert found
    assert (found["rank"], found["symptom"], ranks.closing) == (5, True, True)
    ranks.kill()
    assert first.wait(120) == -signal.SIGKILL


def test_an_error_counts_once_its_rank_has_ended_or_does_not(ranks: Ranks, begin: Begin) -> None:
    begin(0)
    begin(1)
    fails(ranks, 1, "ValueError: boom")
    assert ranks.read_failed(0.0) is None  # it may be caught
    assert ranks.read_failed(4.0) is None
    found = ranks.read_failed(6.0)
    assert found
    assert (found["rank"], found["reason"], found["symptom"]) == (5, "ValueError: boom", False)
    assert not ranks.closing  # so torchrun has to be told


def test_a_rank_that_ended_before_it_was_seen(ranks: Ranks, begin: Begin) -> None:
    begin(0)
    fails(ranks, 1, "ValueError: boom")
    found = ranks.read_failed(0.0)
    assert found
    assert found["rank"] == 5


def test_what_is_not_known_of_a_process_moves_nothing() -> None:
    assert read_moved_bytes(1 << 30) == 0
    assert read_exit_code(1 << 30) is None
    assert read_exit_code(os.getpid()) is None
