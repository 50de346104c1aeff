"""`invoke slurm --submit` on a real Slurm: ranks, failures, lost nodes, and what is left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
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
    return [json.loads(text) for text in texts] if len(texts) == 4 and all(texts) else []


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
    job.until(20, lambda: not job.left(), "gone from the nodes")


def test_a_cancelled_job_leaves_nothing_behind(mended: Desk) -> None:
    job = mended.script("wait", "--restarts=3", "--nodes=4", "--gpus=1")
    job.until(120, lambda: bool(ranks_of(job)), "started")
    assert [one["host"] for one in ranks_of(job)] == job.nodes()
    assert sorted(job.left()) == ["node1", "node2", "node3", "node4"]
    job.slurm.say("scancel", job.number)
    assert job.ended(60) == "CANCELLED"
    job.until(20, lambda: not job.left(), "gone from the nodes")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_node_is_replaced_and_the_job_goes_on(lost: int, mended: Desk) -> None:
    """Node 0 runs the job file itself: there, only Slurm is left to put the job into the queue."""
    job = mended.script("wait", "--restarts=3")
    job.until(120, lambda: bool(ranks_of(job)), "started")
    nodes = job.nodes()
    gone = nodes.pop(lost)
    job.slurm.off(gone)
    since = time.monotonic()
    job.restarted()
    assert job.ended() == "COMPLETED", job.said()
    print(f"requeued and done {time.monotonic() - since:.0f} s after the power was cut")
    assert job.shown()["Restarts"] == "1"
    assert gone not in {one["host"] for one in ranks_of(job, 1)}
    assert len({one["host"] for one in ranks_of(job, 1)}) == 2
    job.until(20, lambda: not job.slurm.commands(nodes[0]), "gone from the node that was left")
