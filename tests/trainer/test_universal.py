"""trainer/universal.py, export.py: two ranks' shards go on as one, and become plain weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.errors import RequestError
from trainer.export import export
from trainer.universal import convert

#: A test trains twice, in processes of its own.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
FLAGS = {
    "train_file_dir": ROOT / "examples" / "conversations.jsonl",
    "deepspeed": ROOT / "zero_configs" / "zero2.json",
    "use_peft": "false",
    "bf16": "false",
    "model_max_length": "64",
    "max_steps": "4",
    "save_steps": "2",
    "learning_rate": "1e-3",
    "lr_scheduler_type": "constant",
    "warmup_steps": "0",
    "report_to": "none",
}


Run = Callable[..., dict[int, float]]


@pytest.fixture(scope="module")
def run(ranks: Callable[..., str | None]) -> Run:
    """``run(n, folder, **flags)``: the loss of each step; RuntimeError where it failed."""

    def run(n: int, folder: Path, **flags: Any) -> dict[int, float]:
        argv = [w for name, v in {**FLAGS, **flags}.items() for w in (f"--{name}", str(v))]
        if failed := ranks("sft", argv, n, folder):
            raise RuntimeError(failed)
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return {event["step"]: event["loss"] for event in events if event["event"] == "step"}

    return run


@pytest.fixture(scope="module")
def split(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, run: Run
) -> tuple[Path, dict[int, float]]:
    """A run of two ranks, each a host with folders of its own: (its folder, its losses)."""
    folder = tmp_path_factory.mktemp("split")
    output = folder / "rank{rank}"
    more = {"output_dir": output, "token_cache": folder / "tokens", "model_name_or_path": tiny}
    losses = run(2, folder / "run", gradient_accumulation_steps=1, **more)
    return folder, losses


def test_one_rank_goes_on_where_two_were(
    split: tuple[Path, dict[int, float]],
    tiny: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    folder, before = split
    mine, theirs = (folder / f"rank{rank}" / "checkpoint-2" for rank in (0, 1))
    again = {
        "output_dir": tmp_path / "one",
        "token_cache": folder / "tokens",
        "model_name_or_path": tiny,
        "gradient_accumulation_steps": 2,
    }
    with pytest.raises(RuntimeError, match="rank 0: exit 1"):
        run(1, tmp_path / "refused", resume_from_checkpoint=mine, **again)
    said = (tmp_path / "refused" / "rank0.log").read_text()
    assert "was saved by 2 ranks, this run has 1" in said
    assert "invoke export RUN/checkpoint-2 --universal" in said
    with pytest.raises(RequestError, match="the shards of 1 ranks are here, of 2"):
        convert(mine, tmp_path / "universal")
    found = convert(mine, tmp_path / "universal", theirs)
    assert found == {"step": 2, "zero_stage": 2, "saved_by": 2}
    after = run(1, tmp_path / "one run", resume_from_checkpoint=tmp_path / "universal", **again)
    assert sorted(after) == [3, 4]
    assert after == pytest.approx({n: before[n] for n in after}, abs=1e-4)


def test_the_shards_become_the_weights_that_were_saved(
    split: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    folder, _ = split
    mine, theirs = (folder / f"rank{rank}" / "checkpoint-4" for rank in (0, 1))
    with pytest.raises(RequestError, match="each host keeps the shards of its own ranks"):
        export(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = export(mine, tmp_path / "out", others=theirs)
    assert (found["adapter"], found["dtype"]) == (False, "float32")
    saved = AutoModelForCausalLM.from_pretrained(folder / "rank0").state_dict()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert saved.keys() == exported.keys()
    assert all(torch.equal(saved[name].float(), exported[name].float()) for name in saved)
    with pytest.raises(RequestError, match="is not empty"):
        export(mine, tmp_path / "out", others=theirs)
