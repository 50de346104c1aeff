"""Stop with a checkpoint when a launcher knows that time is nearly up, or is asked to stop the run.

It names a file in $ZEROFLEET_PAUSE_FILE, and makes it, empty, to ask; global rank 0 looks for it
after every step, and after an evaluation. Then one rank of each host writes ``saving step N`` into
its host's file, all ranks save a checkpoint together, the files say ``step N``, and every rank ends
with 0. While a long evaluation goes on the file is touched, so that who asks can wait for its end.

A file and no signal: a signal would end a rank that has not come to its first step, and what Slurm
sends reaches every process of a job step. A run that has no such file is spared all of this.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

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
        self._stop_if_asked(args, state, control)
        if self.step is not None:
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The same where it was asked in an evaluation: a step's save comes after that, unless the
        metric alone decides on it.
        """
        if args.save_strategy != SaveStrategy.BEST:
            self._stop_if_asked(args, state, control)

    def on_prediction_step(self, args: Any, *_: Any, **kwargs: Any) -> None:
        """Let who asks know that this goes on."""
        if self.file and args.process_index == 0:
            with contextlib.suppress(OSError):
                os.utime(self.file)

    def _stop_if_asked(self, args: Any, state: Any, control: Any) -> None:
        if self.file is None or state.global_step >= state.max_steps:
            return  # the last step's weights are saved anyway
        asked = args.process_index == 0 and self.file.exists()
        if _rank_0_says(asked, args.device):
            self.step = state.global_step
            control.should_save = control.should_training_stop = True
            self._write(args, f"saving step {self.step}\n")

    def conclude(self, args: Any) -> None:
        """Tell who asked, on each host, that all ranks have saved. OSError where that fails."""
        self._write(args, f"step {self.step}\n")

    def _write(self, args: Any, said: str) -> None:
        if self.file and args.local_process_index == 0:
            self.file.write_text(said)


def _rank_0_says(mine: bool, device: torch.device) -> bool:
    if not dist.is_initialized():
        return mine
    flag = torch.tensor([int(mine)], device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())
