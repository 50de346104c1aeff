"""What is to blame for a node's end, by when it happened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from provision.onhost.ending import blame_until, node_exit, own_failure, read_failures, with_kernel
from provision.onhost.folder import read_lines

PLAN = {"nproc_per_node": 1, "first_rank": 0}


def test_an_error_written_after_the_stop_is_no_cause_though_its_file_is_a_tick_older(tmp_path):
    folder = tmp_path / "ranks" / "x" / "attempt_0" / "0"
    folder.mkdir(parents=True)
    error = folder / "error.json"
    error.write_text(json.dumps({"message": {"message": "boom", "extraInfo": {"timestamp": 99}}}))
    end = {"stopped_at": 100.0, "torchrun_ended_at": 103.0}
    for written, failed in ((99.995, []), (100.5, []), (99.9, [0])):
        os.utime(error, (written, written))
        assert list(read_failures(str(tmp_path), PLAN, blame_until(end))) == failed
    assert blame_until({**end, "stopped_at": None}) == 103.0


XID = "NVRM: Xid (PCI:0000:3b:00): %d, pid=7, name=python3, what it was"


def test_what_the_kernel_said_is_evidence_and_a_failed_gpu_is_named() -> None:
    failure = {"reason": "RuntimeError: CUDA error", "lines": ["a"], "symptom": False}
    found = with_kernel(dict(failure), [XID % 31])
    assert (
        found["reason"] == f"RuntimeError: CUDA error; meanwhile the GPU's driver said {XID % 31}"
    )
    assert found["lines"] == ["a", f"kernel: {XID % 31}"]
    assert with_kernel(dict(failure), [XID % 31, XID % 79])["reason"].endswith(XID % 79)
    assert with_kernel(dict(failure), []) == failure


@pytest.mark.parametrize(("number", "symptom"), [(79, False), (119, False), (43, True)])
def test_a_gpu_that_failed_is_the_cause_of_a_timeout_on_its_host(
    number: int, symptom: bool
) -> None:
    failure = {"reason": "DistBackendError: watchdog", "lines": [], "symptom": True}
    found = with_kernel(failure, [XID % number])
    assert found["symptom"] is symptom
    assert (f"Xid (PCI:0000:3b:00): {number}" in found["reason"]) is not symptom


def end_of(code: int, **more: Any) -> dict[str, Any]:
    """What a supervisor saw of a torchrun that ended by itself."""
    ended = {"code": code, "started_at": 0.0, "torchrun_ended_at": 9.0, "stopped_at": None}
    return {**ended, "oom_kills": 0, "left": [], **more}


def test_a_gpu_that_failed_is_named_where_its_rank_only_hung(tmp_path: Path) -> None:
    plan = {**PLAN, "run": "r", "node_rank": 0}
    cause = {"kind": "failed", "reason": "R", "at": 5.0, "host": "node2", "symptom": True}
    end = end_of(-9, stopped_at=5.0, cause=cause, own=False, kernel=[XID % 79])
    ended = node_exit(str(tmp_path), plan, end)
    assert ended["state"] == "failed"
    assert XID % 79 in ended["first_failure"]["reason"]
    assert not ended["first_failure"]["symptom"]
    for other in ({**cause, "symptom": False}, {**cause, "kind": "asked", "symptom": False}):
        assert node_exit(str(tmp_path), plan, {**end, "cause": other})["state"] == "stopped"
    assert node_exit(str(tmp_path), plan, {**end, "kernel": [XID % 31]})["state"] == "stopped"


WANT = "meanwhile the kernel ended 1 process(es) here for want of memory"


@pytest.mark.parametrize("code", [-9, 247])
def test_want_of_memory_is_told_of_a_launcher_that_was_killed(tmp_path: Path, code: int) -> None:
    failure = own_failure(str(tmp_path), PLAN, end_of(code, oom_kills=1))
    assert failure
    assert failure["reason"].endswith(WANT)
    unharmed = own_failure(str(tmp_path), PLAN, end_of(code))
    assert unharmed
    assert WANT not in unharmed["reason"]


def test_want_of_memory_is_told_of_a_dataloader_worker_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "ranks" / "x" / "attempt_0" / "0"
    folder.mkdir(parents=True)
    said = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. "
    error = {"message": {"message": said, "extraInfo": {"timestamp": 99}}}
    (folder / "error.json").write_text(json.dumps(error))
    end = end_of(1, oom_kills=1, torchrun_ended_at=float("inf"))
    failure = own_failure(str(tmp_path), PLAN, end)
    assert failure
    assert failure["reason"].endswith(WANT)


SUMMARY = """\
  time      : 1970-01-01_00:01:40
  host      : h
  rank      : 0 (local_rank: 0)
  exitcode  : %d (pid: 7)
"""


@pytest.mark.parametrize(
    ("code", "last", "symptom"),
    [
        (-9, "", False),
        (1, "ValueError: my bug", False),
        (1, "RuntimeError: [/p/gloo/pair.cc:1] Connection closed by peer [10.0.0.2]:1", True),
    ],
)
def test_a_loggers_lost_connection_makes_no_end_a_consequence(
    tmp_path: Path, code: int, last: str, symptom: bool
) -> None:
    (tmp_path / "node.log").write_text(SUMMARY % code)
    folder = tmp_path / "ranks" / "x" / "attempt_0" / "0"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_text(f"wandb: ERROR Connection reset by peer\n{last}\n")
    (failure,) = read_failures(str(tmp_path), PLAN, float("inf")).values()
    assert failure["symptom"] is symptom


def test_last_lines_are_what_a_rank_said_not_its_progress_bars(tmp_path):
    log = tmp_path / "stderr.log"
    bars = "".join(f"\r {n}%|████   | {n}/40 [00:01<00:02,  1.2it/s]" for n in range(40))
    warning = "/lib/torch/x.py:7: FutureWarning: `a` is deprecated\n  warnings.warn(\n"
    log.write_text(
        f"{warning}{bars}\nTraceback (most recent call last):\n  File x\nValueError: b\n"
    )
    assert read_lines(str(log)) == [
        "Traceback (most recent call last):",
        "  File x",
        "ValueError: b",
    ]
    log.write_text("  0%|  | 0/5 [00:00<?, ?it/s]\n")
    assert read_lines(str(log)) == ["  0%|  | 0/5 [00:00<?, ?it/s]"]
