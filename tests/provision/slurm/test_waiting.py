"""provision/slurm/waiting.py: jobs that would wait for ever, as Slurm 22.05 said of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.slurm.waiting import apply_queued, never_starts

NEVER = {
    "PartitionTimeLimit": "give less --time",
    "PartitionNodeLimit": "ask for less with --nodes",
    "Job's account not known, so it can't use this partition (paid allows physics)": "--account",
    "QOSMaxGRESPerJobLimit": "Slurm's own words",
    "InvalidQOS": "Slurm's own words",
}


@pytest.mark.parametrize("reason", NEVER)
def test_waiting_does_not_help(reason: str) -> None:
    error = never_starts(reason)
    assert error is not None
    assert f"it would wait for ever: {reason}" in str(error)
    assert NEVER[reason] in str(error)


@pytest.mark.parametrize(
    "reason", ["", "Priority", "Resources", "BeginTime", "QOSGrpGRES", "AssocGrpCpuLimit"]
)
def test_waiting_helps(reason: str) -> None:
    assert never_starts(reason) is None


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, and a Slurm that takes its job and would never start it."""
    says = {"sbatch": "13", "squeue": "PENDING|PartitionTimeLimit", "scancel": ""}
    for name, answer in says.items():
        line = f'echo "{name} $*" >>{tmp_path}/asked; echo "{answer}"'
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "job.sbatch").write_text("#!/bin/bash\n")
    return tmp_path / "r1"


@pytest.mark.parametrize("record", [None, '{"job": "12"}'])
def test_a_job_that_would_never_start_leaves_the_run_as_it_was(
    record: str | None, run_dir: Path
) -> None:
    if record:
        (run_dir / "slurm.json").write_text(record)
    before = {path.name: path.read_text() for path in run_dir.iterdir()}
    with pytest.raises(ConfigError, match="it would wait for ever: PartitionTimeLimit"):
        apply_queued(run_dir, "r1")
    assert (run_dir.parent / "asked").read_text().splitlines()[-1] == "scancel 13"
    assert {path.name: path.read_text() for path in run_dir.iterdir()} == before


def test_a_folder_that_was_made_for_it_goes_with_it(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match="PartitionTimeLimit"):
        apply_queued(run_dir, "r1", made=True)
    assert not run_dir.exists()
