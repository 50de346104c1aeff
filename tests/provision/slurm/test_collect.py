"""A run's folder as a job of two attempts leaves it → what lies here of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.report import apply_report
from provision.slurm.collect import apply_results
from provision.slurm.jobs import SlurmJob
from provision.slurm.read import read_run
from provision.slurm.render import goes_on

PLAN = json.loads((Path(__file__).parents[2] / "facts" / "slurm" / "plan.json").read_text())
RUN = PLAN["run"]
DONE = SlurmJob(job="12", state="COMPLETED", nodes="node[2-3]")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / ".zerofleet" / "runs" / RUN
    plan = {**PLAN, "environ": {"ZEROFLEET_OUTPUT_DIR": f"{folder}/output"}}
    begin = {"event": "begin", "at": 1.0, "first_step": 0, "world_size": 4}
    write(
        folder,
        {
            "plan.json": json.dumps(plan),
            "job.sbatch": "#!/bin/bash\n",
            "job.log": "job 12 on node2 node3\n",
            "secrets.sh": "export HF_TOKEN=canary\n",
            "metrics.jsonl": json.dumps(begin) + "\n",
            "pace/rank3.jsonl": "{}\n",
            "output/adapter_model.safetensors": "weights",
            "output/checkpoint-5/rank_0.pt": "optimizer",
            "attempt-0/nodes": "node1\nnode2\n",
            "attempt-0/node0/node.log": "of before\n",
            "attempt-1/nodes": "node2\nnode3\n",
            "attempt-1/node0/node.log": "[rank 0] hello\n",
            "attempt-1/node1/node.log": "[rank 2] hello\n",
        },
    )
    for rank in (0, 1):
        ended = {
            "node_rank": rank,
            "state": "finished",
            "started_at": 1.0,
            "ended_at": 2.0,
            "ranks": [],
            "first_failure": None,
            "jit_compiled": [],
            "loss": None,
        }
        write(folder, {f"attempt-1/node{rank}/exit.json": json.dumps(ended)})
    return folder


def collected(run_dir: Path, folder: Path, *, checkpoints: bool = False) -> tuple[int, int]:
    run = read_run(run_dir, DONE)
    done = apply_results(run, run_dir, folder, lambda _: None, checkpoints=checkpoints)
    return done.came, done.kept


def test_it_lies_here_as_a_run_over_ssh_does(run_dir: Path, tmp_path: Path) -> None:
    here = tmp_path / "runs" / RUN
    assert collected(run_dir, here) == (7, 0)
    found = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    assert found == [
        "hosts/node2/exit.json",
        "hosts/node2/job.log",
        "hosts/node2/job.sbatch",
        "hosts/node2/metrics.jsonl",
        "hosts/node2/node.log",
        "hosts/node2/pace/rank3.jsonl",
        "hosts/node2/plan.json",
        "hosts/node3/exit.json",
        "hosts/node3/node.log",
        "hosts/node3/plan.json",
        "output/adapter_model.safetensors",
    ]
    assert (here / "hosts/node2/node.log").read_text() == "[rank 0] hello\n"
    plan = json.loads((here / "hosts/node3/plan.json").read_text())
    assert (plan["node_rank"], plan["first_rank"]) == (1, 2)
    page = apply_report(here).read_text()
    assert "finished" in page
    assert "node3" in page


def test_what_is_here_stays_and_what_changed_comes_again(run_dir: Path, tmp_path: Path) -> None:
    here = tmp_path / "runs" / RUN
    collected(run_dir, here)
    (here / "output/adapter_model.safetensors").write_text("half of")
    assert collected(run_dir, here) == (1, 6)
    assert (here / "output/adapter_model.safetensors").read_text() == "weights"
    assert collected(run_dir, here, checkpoints=True) == (1, 7)
    assert (here / "output/checkpoint-5/rank_0.pt").read_text() == "optimizer"


def test_a_job_that_never_started_has_no_logs(run_dir: Path, tmp_path: Path) -> None:
    for path in sorted(run_dir.glob("attempt-*/**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for attempt in run_dir.glob("attempt-*"):
        attempt.rmdir()
    here = tmp_path / "runs" / RUN
    run = read_run(run_dir, SlurmJob(job="12", state="PENDING"))
    apply_results(run, run_dir, here, lambda _: None)
    assert (here / "hosts" / "node0" / "job.sbatch").exists()
    assert not list(here.rglob("node.log"))


def test_the_runs_own_folder_is_no_place_to_collect_to(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match="the folder that the job itself writes to"):
        collected(run_dir, run_dir)


def test_a_job_file_that_goes_on_when_it_is_submitted_again() -> None:
    golden = Path(__file__).parent / "golden"
    assert goes_on((golden / "trainer.sbatch").read_text())
    assert not goes_on((golden / "script.sbatch").read_text())  # --restarts 0
