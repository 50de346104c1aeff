"""`invoke slurm --submit` on a real Slurm: ranks, failures, lost nodes, and what is left behind."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.slurm.conftest import Desk, Job


@pytest.fixture
def mended(desk: Desk) -> Iterator[Desk]:
    """The desk; a node that lost its power has it again after the test, and no job is left."""
    yield desk
    desk.slurm.say("scancel", "--user=root")
    desk.slurm.mend()


def ranks_of(job: Job, attempt: int = 0) -> list[dict[str, Any]]:
    """What every rank of four said of itself; [] before all have."""
    files = [job.run_dir / f"attempt-{attempt}" / f"rank{rank}.json" for rank in range(4)]
    texts = [file.read_text() for file in files if file.exists()]
    return [json.loads(text) for text in texts] if len(texts) == 4 else []


def test_a_rank_that_raises_fails_the_job_and_is_named(mended: Desk) -> None:
    job = mended.script("raise")
    assert job.ended() == "FAILED", job.said()
    ranks = ranks_of(job)
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in ranks] == [
        ("0", "0"), ("1", "1"), ("2", "0"), ("3", "1"),
    ]  # fmt: skip
    first, second = job.nodes()
    assert [one["host"] for one in ranks] == [first, first, second, second]
    assert {(one["WORLD_SIZE"], one["MASTER_ADDR"]) for one in ranks} == {("4", first)}
    assert {one["gpus"] for one in ranks} == {"0,1"}
    said = job.log()
    assert f"first failure: {second}: rank 3 (local_rank 1): ValueError: " in said
    assert "the third of all ranks has had enough" in said
    assert job.shown()["ExitCode"] != "0:0"
    job.until(120, lambda: not job.left(), "gone from the nodes")

    status = mended.about("status", job.number)
    assert status.returncode == 5, status.stderr
    assert status.stdout.startswith(f"Slurm job {job.number}: FAILED (NonZeroExitCode) on node")
    assert f"first failure: {second}: rank 3 (local_rank 1): ValueError: " in status.stdout
    logs = mended.about("logs", job.number, "--rank=3").stdout.splitlines()
    assert {line.split(maxsplit=3)[:3] == [f"[{second}]", "[rank", "3]"] for line in logs} == {True}
    assert any("has had enough" in line for line in logs)


def test_a_cancelled_job_leaves_nothing_behind(mended: Desk) -> None:
    job = mended.script("wait", "--restarts=3", "--nodes=4", "--gpus=1")
    job.until(300, lambda: bool(ranks_of(job)), "started")
    assert [one["host"] for one in ranks_of(job)] == job.nodes()
    assert sorted(job.left()) == ["node1", "node2", "node3", "node4"]
    following = mended.left_running("logs", job.number, "-f")
    assert following.stdout
    first = following.stdout.readline()  # it has asked Slurm by now: of a job that runs
    assert first, following.communicate()
    status = json.loads(mended.about("status", job.number, "--json").stdout)
    assert (status["state"], status["slurm"]["state"]) == ("running", "RUNNING")
    assert list(status["nodes"]) == job.nodes()
    assert f"stop {job.run_dir.name} (Slurm job {job.number})" in stop_of(job, mended).stderr
    assert job.shown()["JobState"] == "CANCELLED"
    job.until(120, lambda: not job.left(), "gone from the nodes")
    assert stop_of(job, mended).stderr.endswith("nothing to do\n")
    said, told = following.communicate(timeout=240)
    assert following.returncode == 0, told
    assert f"[job] slurmstepd-{job.nodes()[0]}: error: *** JOB {job.number}" in said
    assert f"Slurm job {job.number}: CANCELLED" in told


def stop_of(job: Job, desk: Desk) -> subprocess.CompletedProcess[str]:
    """``invoke stop`` of a job, which was stopped then."""
    done = desk.about("stop", job.number)
    assert done.returncode == 0, done.stderr
    assert f"run {job.run_dir.name}: stopped" in done.stdout
    return done


def test_a_stopped_run_goes_on_as_another_job(mended: Desk) -> None:
    job = mended.script("wait", "--restarts=3")
    job.until(300, lambda: bool(ranks_of(job)), "started")
    refused = mended.about("resume", job.number)
    assert refused.returncode == 2
    assert f"found Slurm job {job.number}: RUNNING on node[1-2]" in refused.stderr
    found = json.loads(mended.invoke("hosts", f"--slurm={job.number}", "--json").stdout)["nodes"]
    assert [(one["name"], one["gpus"]) for one in found] == [("node1", 2), ("node2", 2)]
    stop_of(job, mended)

    done = mended.about("resume", job.number)
    assert done.returncode == 0, done.stderr
    again = replace(job, number=done.stdout.strip())
    assert again.number != job.number
    assert again.ended() == "COMPLETED", again.said()
    assert [one["RANK"] for one in ranks_of(again, 1)] == ["0", "1", "2", "3"]
    assert len(ranks_of(job, 0)) == 4  # what it said the first time is still there
    runs = json.loads(mended.about("runs", "--json").stdout)["runs"]
    assert {r["run"]: (r["state"], r["slurm"]["job"]) for r in runs}[job.run_dir.name] == (
        "finished", again.number,
    )  # fmt: skip


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_node_is_replaced_and_the_job_goes_on(lost: int, mended: Desk) -> None:
    """Node 0 runs the job file itself: there, only Slurm is left to put the job into the queue."""
    job = mended.script("wait", "--restarts=3")
    job.until(300, lambda: bool(ranks_of(job)), "started")
    nodes = job.nodes()
    gone = nodes.pop(lost)
    attached = mended.left_running("attach", job.number, f"--runs={mended.folder}/results")
    job.slurm.off(gone)
    since = time.monotonic()
    job.restarted()
    assert job.ended() == "COMPLETED", job.said()
    print(f"requeued and done {time.monotonic() - since:.0f} s after the power was cut")
    assert job.shown()["Restarts"] == "1"
    assert gone not in {one["host"] for one in ranks_of(job, 1)}
    assert len({one["host"] for one in ranks_of(job, 1)}) == 2
    job.until(120, lambda: not job.slurm.commands(nodes[0]), "gone from the node that was left")

    said, told = attached.communicate(timeout=240)
    assert attached.returncode == 0, told
    assert f"run {job.run_dir.name}: finished" in said
    for attempt in (0, 1):
        assert f"job {job.number} on {' '.join(job.nodes(attempt))}, meeting at" in told
    report = mended.about("report", job.number, f"--runs={mended.folder}/results")
    page = Path(report.stdout.strip())
    assert page.parent == mended.folder / "results" / job.run_dir.name
    assert job.nodes(1)[1] in page.read_text()
    assert (page.parent / "hosts" / job.nodes(1)[1] / "node.log").exists()
