"""Runs over two real hosts: torchrun, DeepSpeed and gloo for real, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun, ZfStart

QUICK = ["--set", "max_steps=2", "--set", "gradient_accumulation_steps=1"]
TRAIN = ["train", "--json"]
ENDLESS = [*TRAIN, "--set", "max_steps=100000"]


def wait_until(found: Callable[[], object], seconds: float = 400) -> object:
    """The first true value; a test's own bound, not a measure of speed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")


def newest_run(fleet: Fleet, known: set[Path], train: subprocess.Popen[str]) -> Path:
    """Node 0's folder of a run that was not known, once training made a step."""
    runs = fleet.hosts[0].home / ".zerofleet" / "runs"

    def look() -> Path | None:
        if train.poll() is not None:
            pytest.fail(f"train ended: {train.communicate()[1][-3000:]}")
        for run in set(runs.glob("*")) - known:
            metrics = run / "metrics.jsonl"
            if metrics.exists() and '"step"' in metrics.read_text():
                return run
        return None

    return wait_until(look)  # type: ignore[return-value]


def runs_of(fleet: Fleet) -> set[Path]:
    return set((fleet.hosts[0].home / ".zerofleet" / "runs").glob("*"))


def alive_below(run: str) -> list[str]:
    """Processes of a run, by its name in their environment or arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"ZEROFLEET_RUN={run}".encode() in text:
            found.append(process.name)
    return found


# Each stage by itself: tests/trainer/test_matrix.py. Here: how it gets to the hosts, and back.
@pytest.mark.parametrize(("zero", "offload"), [("1", "none"), ("3", "all")])
def test_a_stage_trains_and_brings_its_adapter(
    deployed: Fleet, zf_run: ZfRun, zero: str, offload: str
) -> None:
    args = ["train", "--zero", zero, "--offload", offload, *QUICK, "--json"]
    done = zf_run(args, deployed.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["state"] == "finished"
    assert [r["host"] for r in answer["ranks"]] == ["node1", "node2"]
    assert answer["first_failure"] is None
    assert answer["jit_compiled"] == []
    assert (Path(answer["adapter"]) / "adapter_model.safetensors").is_file()
    assert f"ZeRO-{zero}" in done.stderr


#: Rows of each objective, as many as make a few batches for two ranks.
ROWS = {
    "orpo": [
        {"prompt": f"What is {n} plus 1?", "chosen": f"It is {n + 1}.", "rejected": "Who knows?"}
        for n in range(16)
    ],
    "pretrain": [
        {"text": f"One more than {n} is {n + 1}, and two more is {n + 2}."} for n in range(99)
    ],
}


@pytest.mark.parametrize(
    ("objective", "launcher", "figure"),
    [
        ("orpo", "torchrun", "log_odds"),
        ("pretrain", "deepspeed", None),
    ],
)
def test_another_objective_trains_over_both_hosts(
    deployed: Fleet,
    zf_run: ZfRun,
    tmp_path: Path,
    objective: str,
    launcher: str,
    figure: str | None,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[objective]))
    args = [*TRAIN, "--recipe", objective, "--data", str(rows), "--launcher", launcher, *QUICK]
    done = zf_run(
        [*args, "--set", "block_size=64"] if objective == "pretrain" else args, deployed.folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["state"] == "finished"
    assert [(r["host"], r["state"]) for r in answer["ranks"]] == [
        ("node1", "finished"),
        ("node2", "finished"),
    ]
    run = deployed.hosts[0].home / ".zerofleet" / "runs" / answer["run"]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    begin = events[0]
    assert (begin["world_size"], begin["zero_stage"], begin["rows"] > 1) == (2, 2, True)
    steps = [event for event in events if event["event"] == "step"]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["loss"] > 0 for step in steps)
    assert figure is None or all(figure in step for step in steps)


def test_a_rank_that_dies_ends_the_run_everywhere_and_is_named(
    deployed: Fleet, zf_start: ZfStart
) -> None:
    known = runs_of(deployed)
    train = zf_start(ENDLESS, deployed.folder)
    run = newest_run(deployed, known, train)
    other = deployed.hosts[1].home / ".zerofleet" / "runs" / run.name / "record.json"
    torchrun = json.loads(other.read_text())["torchrun"]["pid"]
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    out, err = train.communicate(timeout=400)
    assert train.returncode == 5, err[-3000:]
    answer = json.loads(out)
    assert answer["state"] == "failed"
    assert answer["first_failure"]["host"] == "node2"
    assert answer["first_failure"]["rank"] == 1
    assert "SIGKILL" in answer["first_failure"]["reason"]
    assert alive_below(run.name) == []


def test_ctrl_c_stops_the_run_on_every_host(deployed: Fleet, zf_start: ZfStart) -> None:
    known = runs_of(deployed)
    train = zf_start(ENDLESS, deployed.folder)
    run = newest_run(deployed, known, train)
    os.kill(train.pid, signal.SIGINT)
    out, err = train.communicate(timeout=400)
    assert train.returncode == 130, err[-3000:]
    answer = json.loads(out)
    assert (answer["ok"], answer["state"]) == (False, "stopped")
    assert answer["first_failure"] is None
    assert alive_below(run.name) == []


def test_a_run_outlives_its_controller(deployed: Fleet, zf_start: ZfStart) -> None:
    known = runs_of(deployed)
    train = zf_start([*TRAIN, "--set", "max_steps=6"], deployed.folder)
    run = newest_run(deployed, known, train)
    train.kill()
    train.communicate()
    wait_until((run / "exit.json").exists)
    assert json.loads((run / "exit.json").read_text())["state"] == "finished"
    wait_until(lambda: not alive_below(run.name))


def test_an_error_of_the_trainer_is_told_with_its_own_words(deployed: Fleet, zf_run: ZfRun) -> None:
    done = zf_run(["train", "--set", "no_such_flag=1", "--json"], deployed.folder)
    assert done.returncode == 5, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["state"] == "failed"
    assert "no_such_flag" in json.dumps(answer["first_failure"])


# The last one here: it takes a host away, and ``deployed`` starts both again for the next module.
def test_a_host_that_goes_away_is_named_and_the_others_are_stopped(
    deployed: Fleet, zf_start: ZfStart
) -> None:
    known = runs_of(deployed)
    train = zf_start(ENDLESS, deployed.folder)
    newest_run(deployed, known, train)
    deployed.hosts[1].server.terminate()  # a power cut: everything on it ends, its sshd too
    out, err = train.communicate()
    assert train.returncode == 5, err[-3000:]
    answer = json.loads(out)
    assert answer["first_failure"]["host"] == "node2"
    assert answer["first_failure"]["rank"] is None
    assert "node2" in answer["lost"]
    assert {rank["host"] for rank in answer["ranks"]} == {"node1"}
