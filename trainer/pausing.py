"""Stop with a checkpoint when a launcher knows that time is nearly up.

It names a file in $ZEROFLEET_PAUSE_FILE, and makes it, empty, to ask; global rank 0 looks for it
after every step. Once all ranks have saved a checkpoint together, rank 0 writes ``step N`` into the
file, and every rank ends with 0.

A file and no signal: a signal would end a rank that has not come to its first step, and what Slurm
sends reaches every process of a job step. A run that has no such file is spared all of this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

PAUSE_FILE = "ZEROFLEET_PAUSE_FILE"


class Pause(TrainerCallback):
    """Looks for ``file``; ``step`` is the step that the run paused at, else None."""

    def __init__(self, file: str | None) -> None:
        self.file = Path(file) if file else None
        self.step: int | None = None

    @classmethod
    def of_environ(cls) -> Pause:
        """The one that the launcher wants."""
        return cls(os.environ.get(PAUSE_FILE))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs on every rank. Saving at a step that only some ranks stop at would never end."""
        if self.file is None or state.global_step >= state.max_steps:
            return  # the last step's weights are saved anyway
        asked = args.process_index == 0 and self.file.exists()
        if _rank_0_says(asked, args.device):
            self.step = state.global_step
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def conclude(self, rank: int) -> None:
        """Tell who asked that all ranks have saved. OSError when the file can't be written."""
        if rank == 0 and self.file:
            self.file.write_text(f"step {self.step}\n")


def _rank_0_says(mine: bool, device: torch.device) -> bool:
    if not dist.is_initialized():
        return mine
    flag = torch.tensor([int(mine)], device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())
