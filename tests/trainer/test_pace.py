"""Each rank's own pace: what is written, when, and that evaluation does not count."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer import pace as pace_module
from trainer.metrics import RUN_DIR
from trainer.pace import Pace


class Slow(torch.nn.Module):
    """Takes as long as it is told, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0

    def forward(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Any:
    args = SimpleNamespace(process_index=3, device=torch.device("cpu"))
    model = Slow()
    clock = SimpleNamespace(perf_counter=lambda: model.now, time=lambda: model.now)
    monkeypatch.setattr(pace_module, "time", clock)
    return SimpleNamespace(args=args, model_wrapped=model)


def test_a_line_for_each_logging_step(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    pace, state = Pace(trainer), SimpleNamespace(global_step=10)
    pace.on_train_begin(trainer.args, state, None)
    for _ in range(4):
        trainer.model_wrapped(0.5)
        trainer.model_wrapped.now += 7.0  # the backward pass
    trainer.model_wrapped.eval()
    trainer.model_wrapped(30.0)
    state.global_step = 12
    pace.on_log(trainer.args, state, None, logs={"eval_loss": 1.0})
    pace.on_log(trainer.args, state, None, logs={"loss": 1.0})
    pace.on_log(trainer.args, state, None, logs={"loss": 1.0})  # transformers logs the last twice
    (line,) = (tmp_path / "pace" / "rank3.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["rank"], found["step"], found["device_bytes"]) == (3, 12, None)
    assert found["forward_seconds"] == 4 * 0.5 / 2
    assert found["host_bytes"] > 10**7


def test_without_a_run_folder_nothing_is_written(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_DIR, raising=False)
    monkeypatch.chdir(tmp_path)
    pace = Pace(trainer)
    pace.on_train_begin(trainer.args, SimpleNamespace(global_step=0), None)
    pace.on_log(trainer.args, SimpleNamespace(global_step=1), None, logs={"loss": 1.0})
    assert not list(tmp_path.iterdir())
    assert not trainer.model_wrapped._forward_hooks
