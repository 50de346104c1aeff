"""Stop with a checkpoint when told that time is nearly up: SIGUSR1, as schedulers send it.

Slurm sends it so many seconds before a job's limit (``sbatch --signal``). A rank that gets it only
notes it; at the end of the step all ranks agree, save one checkpoint together, and end with PAUSED.
Any rank may be the one that was told: schedulers tell some ranks a step earlier than others.
"""

from __future__ import annotations

import signal
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

#: The exit code of a rank that saved and stopped: EX_TEMPFAIL, "try again later"
#: (https://man7.org/linux/man-pages/man3/sysexits.h.3head.html).
PAUSED = 75


class Pause(TrainerCallback):
    """Whether this run was told to pause; ``step`` is the step it paused at, else None."""

    def __init__(self) -> None:
        self.asked = False
        self.step: int | None = None

    def listen(self) -> None:
        """From now on SIGUSR1 asks; before, it would end the process."""
        signal.signal(signal.SIGUSR1, self._ask)

    def _ask(self, _number: int, _frame: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs on every rank. Saving at a step that only some ranks stop at would never end."""
        if not _any_rank(self.asked, args.device) or state.global_step >= state.max_steps:
            return  # the last step's weights are saved anyway
        self.step = state.global_step
        control.should_save = control.should_training_stop = True
        control.should_evaluate = False


def _any_rank(mine: bool, device: torch.device) -> bool:
    if not dist.is_initialized():
        return mine
    flag = torch.tensor([int(mine)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
