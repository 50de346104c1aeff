"""Stop with a checkpoint when told that time is nearly up: by a file, or by SIGUSR1.

A launcher names the file in $ZEROFLEET_PAUSE_FILE, and makes it, empty, to ask; global rank 0 looks
for it. Once the checkpoint is saved by all ranks, rank 0 writes ``step N`` into it, and every rank
ends with 0. A file can ask a run that has not come to its first step; a signal would end that.

SIGUSR1 is what schedulers send (``sbatch --signal``). A rank notes it, and at the end of the step
all ranks agree: they are told at different times. With no file to tell, they end with PAUSED.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

#: The exit code of a rank that saved and stopped at a signal: EX_TEMPFAIL, "try again later"
#: (https://man7.org/linux/man-pages/man3/sysexits.h.3head.html).
PAUSED = 75
PAUSE_FILE = "ZEROFLEET_PAUSE_FILE"


class Pause(TrainerCallback):
    """Whether this run was told to pause; ``step`` is the step it paused at, else None."""

    def __init__(self, file: str | None) -> None:
        self.file = Path(file) if file else None
        self.asked = False
        self.step: int | None = None

    @classmethod
    def of_environ(cls) -> Pause:
        """One that hears of both from now on; before, SIGUSR1 would end the process."""
        pause = cls(os.environ.get(PAUSE_FILE))
        signal.signal(signal.SIGUSR1, pause._ask)
        return pause

    def _ask(self, _number: int, _frame: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs on every rank. Saving at a step that only some ranks stop at would never end."""
        if args.process_index == 0 and self.file and self.file.exists():
            self.asked = True
        if not _any_rank(self.asked, args.device) or state.global_step >= state.max_steps:
            return  # the last step's weights are saved anyway
        self.step = state.global_step
        control.should_save = control.should_training_stop = True
        control.should_evaluate = False

    def conclude(self, rank: int) -> int:
        """Tell who asked that all is saved; the exit code. Every rank calls this, after the save.

        Raises OSError when the file can't be written.
        """
        if not self.file:
            return PAUSED
        if rank == 0:
            self.file.write_text(f"step {self.step}\n")
        return 0


def _any_rank(mine: bool, device: torch.device) -> bool:
    if not dist.is_initialized():
        return mine
    flag = torch.tensor([int(mine)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
