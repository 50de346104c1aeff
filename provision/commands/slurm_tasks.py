"""``invoke slurm``: the run that train would start over SSH, as a Slurm job."""

from __future__ import annotations

from provision.commands.flags import SLURM, TRAIN, WHEEL, command
from provision.settings import Settings
from provision.show import Answer


@command(
    *TRAIN, *WHEEL, *SLURM, "model", "data", "output", "master_port", "script", "code", "env",
    "launcher", "python", "accelerator", "file", "submit", "dry_run",
)  # fmt: skip
def slurm(out: Answer, s: Settings) -> None:
    """Write a run as a Slurm job file, or submit it; --dry-run has Slurm look at it first."""
    from provision.commands.queueing import apply_slurm

    apply_slurm(out, s)
