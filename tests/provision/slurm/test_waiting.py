"""provision/slurm/waiting.py: jobs that would wait for ever, as Slurm 22.05 said of them."""

from __future__ import annotations

import pytest

from provision.slurm.waiting import never_starts

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
