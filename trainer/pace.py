"""Each rank's own pace and memory: JSON lines in $ZEROFLEET_RUN_DIR/pace/rank<N>.jsonl.

One line for each logging step, written by every rank for itself: nobody waits for anybody, and of a
run that hangs every rank has said how far it came. The keys (only ever added):

    rank, step, at    the optimizer step it has finished, and when (seconds since 1970)
    forward_seconds   in the model's forward pass, by step: a whole step takes all ranks equally
                      long, because they wait for one another in the backward pass. Under ZeRO-3
                      the forward pass waits for the others' parameters, too
    host_bytes        of this process, resident now
    device_bytes      of its GPU, taken by torch now; null without one

Without ZEROFLEET_RUN_DIR nothing is written.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from trainer.lean import Trainer
from trainer.metrics import RUN_DIR


class Stopwatch:
    """Seconds between ``start`` and ``stop``, summed. On a GPU by its own clock: no wait for it."""

    def __init__(self, *, cuda: bool) -> None:
        self._cuda = cuda
        self._since: Any = None
        self._pairs: list[tuple[Any, Any]] = []

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        """Begin a stretch."""
        self._since = self._now()

    def stop(self) -> None:
        """End it."""
        if self._since is not None:
            self._pairs.append((self._since, self._now()))
            self._since = None

    def take(self) -> float:
        """The sum so far, which then starts anew. Loggers have waited for the GPU before."""
        pairs, self._pairs = self._pairs, []
        if not self._cuda:
            return sum(end - begin for begin, end in pairs)
        if pairs:
            pairs[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1000


class Pace(TrainerCallback):
    """Times the model's forward passes in training, and writes a line at each logging step."""

    def __init__(self, trainer: Trainer) -> None:
        folder = os.environ.get(RUN_DIR)
        self._rank = trainer.args.process_index
        self._file = Path(folder) / "pace" / f"rank{self._rank}.jsonl" if folder else None
        self._trainer = trainer
        self._cuda = trainer.args.device.type == "cuda"
        self._watch = Stopwatch(cuda=self._cuda)
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen to what will train: by now that is the engine."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._step = state.global_step
        model = self._trainer.model_wrapped
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, model: torch.nn.Module, _inputs: Any) -> None:
        if model.training:
            self._watch.start()

    def _end(self, model: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        self._watch.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """A line, where training logs its loss."""
        made = state.global_step - self._step
        if self._file is None or "loss" not in (logs or {}) or made <= 0:
            return
        self._step = state.global_step
        line = {
            "rank": self._rank,
            "step": state.global_step,
            "at": time.time(),
            "forward_seconds": self._watch.take() / made,
            "host_bytes": resident_bytes(),
            "device_bytes": torch.cuda.memory_reserved() if self._cuda else None,
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def resident_bytes() -> int:
    """Of this process (proc(5), statm)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
