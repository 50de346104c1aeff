"""``invoke slurm``: the run that train would start over SSH, as a Slurm job."""

from __future__ import annotations

from provision.commands.flags import SLURM, TRAIN, WHEEL, command
from provision.commands.help_texts import FOR_JOBS
from provision.commands.slurm.flag import apply_job
from provision.settings import Settings
from provision.show import Answer


@command(
    *TRAIN, *WHEEL, *SLURM, "model", "data", "output", "master_port", "script", "code", "env",
    "launcher", "python", "accelerator", "file", "submit", "dry_run", helps=FOR_JOBS,
)  # fmt: skip
def slurm(out: Answer, s: Settings) -> None:
    """Write a run as a Slurm job file, or submit it; --dry-run has Slurm check it first.

    Example: invoke slurm --nodes 4 --gpus 8 --model ./qwen3 --data ./chat.jsonl --submit
    """
    apply_job(out, s)


#: What tasks.py adds to its own.
TASKS = (slurm,)
