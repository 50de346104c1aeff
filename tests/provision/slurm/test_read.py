"""What Slurm says (22.05, recorded) and what a run left, as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.launch.runs import KnownRun
from provision.slurm.jobs import UNASKED, SlurmJob, parse_job
from provision.slurm.nodes import parse_nodes
from provision.slurm.read import (
    choose_record,
    job_of,
    jobs_of,
    make_nodes,
    read_record,
    read_records,
)

JOB = (
    "JobId=12 JobName=zerofleet-sft UserId=ml(1000) GroupId=ml(1000) MCS_label=N/A Priority=1 "
    "Nice=0 Account=(null) QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=1 "
    "Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:01:12 TimeLimit=00:10:00 "
    "NodeList={nodes} BatchHost=node1 NumNodes=2 NumCPUs=4\n"
)
NODE = (
    "NodeName=node1 Arch=x86_64 CoresPerSocket=1 CPUAlloc=2 CPUEfctv=2 CPUTot=2 CPULoad=3.51 "
    "AvailableFeatures=(null) Gres={gres} NodeAddr=10.77.0.2 NodeHostName=node1 Version=22.05.8 "
    "RealMemory=4000 AllocMem=0 State=MIXED ThreadsPerCore=1 Partitions=debug\n"
)
FIRST = {
    "run": "r1",
    "nnodes": 2,
    "nproc_per_node": 2,
    "what": "trainer.sft",
    "deepspeed": "zero2.json",
    "model": "/m",
    "output": "/s/r1/output",
    "run_dir": "/s/r1",
    "by": "ml",
    "started_at": 100.0,
    "stopping": False,
    "stop_asked_at": None,
    "exit": None,
    "progress": {"step": 5, "total_steps": 10, "loss": [2.0, 1.0]},
}


def failed(rank: int) -> dict[str, Any]:
    return {
        "node_rank": rank,
        "state": "failed",
        "started_at": 1.0,
        "ended_at": 2.0,
        "ranks": [{"local_rank": 0, "rank": 2 * rank, "state": "failed", "exit": 1}],
        "first_failure": {
            "rank": 2 * rank,
            "local_rank": 0,
            "at": 1.5,
            "reason": "ValueError: no",
            "lines": [],
        },
        "jit_compiled": [],
        "loss": None,
    }


def run(state: str, exits: Any = (None, None)) -> KnownRun:
    job = parse_job("12", JOB.format(state=state, reason="None", nodes="node[1-2]"))
    return KnownRun(run="r1", nodes=make_nodes(FIRST, job, ("node1", "node2"), exits))


def test_a_job() -> None:
    job = parse_job("12", JOB.format(state="PENDING", reason="Resources", nodes="(null)"))
    assert str(job) == "Slurm job 12: PENDING (Resources), restarted 2 times"
    assert job.waits
    job = parse_job("12", JOB.format(state="RUNNING", reason="None", nodes="node[1-2]"))
    assert "RUNNING on node[1-2], 00:01:12 of 00:10:00" in str(job)


def test_ranks_are_counted_through_over_the_nodes() -> None:
    nodes = run("RUNNING").nodes
    assert [(n["node_rank"], n["first_rank"]) for n in nodes.values()] == [(0, 0), (1, 2)]
    assert list(nodes) == ["node1", "node2"]


@pytest.mark.parametrize(
    ("slurms", "ours"),
    [
        ("PENDING", "never started"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("COMPLETED", "finished"),
        ("CANCELLED", "stopped"),
        ("TIMEOUT", "lost"),
        ("NODE_FAIL", "lost"),
        ("OUT_OF_MEMORY", "lost"),
        ("unknown", "lost"),
    ],
)
def test_a_runs_state_by_slurms(slurms: str, ours: str) -> None:
    assert run(slurms).state == ours


def test_a_ranks_pace_is_its_nodes() -> None:
    pace = [
        {"rank": rank, "step": 5, "forward_seconds": 1.0 + rank, "host_bytes": 1, "device_bytes": 0}
        for rank in range(4)
    ]
    job = parse_job("12", JOB.format(state="RUNNING", reason="None", nodes="node[1-2]"))
    nodes = make_nodes({**FIRST, "pace": pace}, job, ("node1", "node2"), (None, None))
    found = KnownRun(run="r1", nodes=nodes).paces
    assert [(one.rank, one.host) for one in found] == [
        (0, "node1"), (1, "node1"), (2, "node2"), (3, "node2"),
    ]  # fmt: skip


def test_a_failure_is_named_as_over_ssh() -> None:
    ended = run(
        "FAILED", (failed(0) | {"state": "stopped", "first_failure": None}, failed(1))
    ).ended
    assert ended is not None
    assert str(ended.first_failure) == "node2: rank 2 (local_rank 0): ValueError: no"
    assert ended.exit_code == 5


def test_an_exit_of_before_is_none_of_an_attempt_that_runs() -> None:
    assert run("RUNNING", (failed(0), None)).ended is None


def test_a_runs_job_is_the_latest_whoever_submitted_it(tmp_path: Path) -> None:
    runs = tmp_path / ".zerofleet" / "runs"
    (runs / "r1").mkdir(parents=True)
    (runs / "r1" / "job.sbatch").touch()
    assert read_records(tmp_path) == {}  # --file made it, and nobody has submitted it
    (runs / "r1" / "attempt-0").mkdir()
    (runs / "r1" / "attempt-0" / "job").write_text("7\n")
    assert read_records(tmp_path) == {"r1": runs / "r1"}
    assert job_of(runs / "r1") == "7"
    for submitted_at, job in ((1.0, "7"), (4e9, "12")):
        record = {"job": "12", "run": "r1", "submitted_at": submitted_at}
        (runs / "r1" / "slurm.json").write_text(json.dumps(record))
        assert job_of(runs / "r1") == job
    assert jobs_of(runs / "r1") == ("7", "12")
    assert read_record(tmp_path, "7") == runs / "r1"


def test_which_run_is_meant() -> None:
    records = {name: Path(name) for name in ("20261121-1-sft-aaaa", "20261121-2-sft-bbbb")}
    jobs = dict(zip(records, (("7",), ("11", "12")), strict=True))
    assert choose_record(records, jobs, "12") == Path("20261121-2-sft-bbbb")
    assert choose_record(records, jobs, "11") == Path("20261121-2-sft-bbbb")  # it was resumed
    assert choose_record(records, jobs, "20261121-1") == Path("20261121-1-sft-aaaa")
    assert choose_record(records, jobs, "2") is None  # no job's number, and no beginning of an id
    assert choose_record(records, jobs, "aaaa") == Path("20261121-1-sft-aaaa")
    assert choose_record(records, jobs, "last") == Path("20261121-2-sft-bbbb")
    assert choose_record(records, jobs, "1999") is None
    with pytest.raises(ConfigError, match="2 that it could be"):
        choose_record(records, jobs, "20261121")


def test_a_job_that_slurm_can_not_be_asked_of_is_unknown_or_as_it_ended() -> None:
    job = SlurmJob(job="12", state=UNASKED)
    assert KnownRun(run="r1", nodes=make_nodes(FIRST, job, (), (None, None))).state == "unknown"
    exits = [{**failed(rank), "state": "finished", "first_failure": None} for rank in (0, 1)]
    assert KnownRun(run="r1", nodes=make_nodes(FIRST, job, (), exits)).state == "finished"


@pytest.mark.parametrize(
    ("gres", "slots"), [("gpu:8", " slots=8"), ("gpu:a100:4(S:0-1)", " slots=4"), ("(null)", "")]
)
def test_a_node_as_a_line_of_a_hosts_file(gres: str, slots: str) -> None:
    (node,) = parse_nodes(NODE.format(gres=gres))
    assert node.line().startswith(f"node1{slots}  # mixed, 2 CPUs, 4 GiB")
    assert node.address == "10.77.0.2"
