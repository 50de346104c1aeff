"""trainer/sft.py under a real torchrun: two ranks over gloo, on CPU, every ZeRO configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.matrix import Train
from trainer.engine import requested_zero

ROOT = Path(__file__).parents[2]
ZERO = ROOT / "zero_configs"
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def flags(tiny: Path, folder: Path, **more: Any) -> list[str]:
    """The trainer's flags: 16 rows a step, all that it writes in folder."""
    settings = {
        "model_name_or_path": tiny,
        "train_file_dir": ROOT / "examples",
        "output_dir": folder / "out",
        "model_max_length": 192,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": "2e-2",
        "save_strategy": "no",
        **more,
    }
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def torchrun(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A run of the trainer on two ranks, as the launcher starts it."""
    # --standalone: torchrun chooses a port and keeps it; one chosen here could be taken until then.
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environ = {"ZEROFLEET_RUN_DIR": str(folder), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, "-m", "trainer.sft", *argv],
        env={**os.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )


def said(result: subprocess.CompletedProcess[str]) -> str:
    """What a failed run said: the rank's own error comes before torchrun's summary."""
    lines = [line for line in result.stderr.splitlines() if "Warning" not in line]
    return f"exit {result.returncode}\n" + "\n".join(lines[-60:])


def events(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The run's record, by event."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        found.setdefault(event["event"], []).append(event)
    return found


def shared_memory() -> set[str]:
    """What DeepSpeed's ranks of one host, started by torchrun alone, share by name."""
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_localhost_*"
    return {path.name for path in Path("/dev/shm").glob(name)}


# The other files of zero_configs/ train in test_matrix.py, and over hosts in test_train.py.
@pytest.mark.parametrize("name", ["zero1_offload", "zero2_offload", "zero3_offload"])
def test_lora_trains_and_saves_with(name: str, tiny: Path, tmp_path: Path, ranks: Train) -> None:
    config = ZERO / f"{name}.json"
    argv = flags(tiny, tmp_path, deepspeed=config)
    if name == "zero3_offload":
        before = shared_memory()
        result = torchrun(argv, tmp_path)
        assert result.returncode == 0, said(result)
        assert "FutureWarning: `torch.distributed" not in result.stderr
        assert shared_memory() <= before
    else:
        assert ranks("sft", argv, 2, tmp_path) is None
    record = events(tmp_path)
    asked = requested_zero(json.loads(config.read_text()))
    (begin,), steps, (end,) = record["begin"], record["step"], record["end"]
    assert (begin["zero_stage"], begin["offload"]) == (asked.stage, asked.offload)
    assert begin["optimizer"] == ("DeepSpeedCPUAdam" if asked.offload else "AdamW")
    assert bool(begin["cpu_adam_so"]) == bool(asked.offload)
    base = AutoModelForCausalLM.from_pretrained(tiny)
    frozen = base.num_parameters()
    lora = PeftModel.from_pretrained(base, tmp_path / "out")
    b_weights = [p for n, p in lora.named_parameters() if "lora_B" in n]
    assert len(b_weights) == 14
    assert all(p.count_nonzero() for p in b_weights)
    trained = sum(p.numel() for n, p in lora.named_parameters() if "lora_" in n)
    assert begin["trainable_parameters"] == trained
    assert begin["parameters"] == trained + frozen
    assert (begin["total_steps"], begin["world_size"], begin["effective_batch"]) == (4, 2, 16)
    assert [s["step"] for s in steps] == [1, 2, 3, 4]
    assert all(s["grad_norm"] > 0 for s in steps)
    assert steps[0]["tokens"] < steps[3]["tokens"] < 16 * 4 * 192
    assert end["loss_first"] == steps[0]["loss"]
    # ln(1024) is 6.93 for a model that knows nothing: a loss counted twice would stand out.
    assert 6.5 < end["loss_first"] < 8
    assert end["loss_last"] < end["loss_first"] - 0.1
    assert record["saved"][0]["output"] == str(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_full_zero3_saves_whole_weights(tiny: Path, tmp_path: Path, ranks: Train) -> None:
    argv = flags(
        tiny, tmp_path, deepspeed=ZERO / "zero3.json", use_peft="false",
        validation_file_dir=ROOT / "examples", max_eval_samples=5,
    )  # fmt: skip
    assert ranks("sft", argv, 2, tmp_path) is None
    before, after = (
        load_file(tiny / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    assert any((before[k] != after[k]).any() for k in before)
    assert all(torch.isfinite(v).all() for v in after.values())
    record = events(tmp_path)
    assert record["begin"][0]["trainable_parameters"] == record["begin"][0]["parameters"]
    assert record["eval"][0]["loss"] < record["step"][0]["loss"]


def test_zero_that_is_not_active_stops_the_run(tiny: Path, tmp_path: Path, ranks: Train) -> None:
    config = json.loads((ZERO / "zero2.json").read_text())
    # DeepSpeed takes both and does something else: stage 2 has no parameter offload.
    config["zero_optimization"].update(stage=2, offload_param={"device": "cpu"})
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config))
    error = ranks("sft", flags(tiny, tmp_path, deepspeed=path), 1, tmp_path)
    asked = "asked for ZeRO-2 (optimizer states: on the device, parameters: offloaded to cpu)"
    assert f"{asked}, but active is ZeRO-2" in str(error)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_checkpoint_that_is_not_there_stops_the_run(
    tiny: Path, tmp_path: Path, ranks: Train
) -> None:
    argv = flags(
        tiny, tmp_path, deepspeed=ZERO / "zero2.json", resume_from_checkpoint=tmp_path
    )  # fmt: skip
    error = ranks("sft", argv, 1, tmp_path)
    assert "no checkpoint.json: it was not saved to its end" in str(error)


def test_a_folder_that_holds_a_run_is_not_written_into(
    tiny: Path, tmp_path: Path, ranks: Train
) -> None:
    (tmp_path / "out" / "checkpoint-7").mkdir(parents=True)
    error = ranks("sft", flags(tiny, tmp_path, deepspeed=ZERO / "zero2.json"), 1, tmp_path)
    assert "has checkpoint-7 of an earlier run there: name another folder" in str(error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-7"]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(
    tiny: Path, tmp_path: Path, ranks: Train
) -> None:
    # The first step throws every weight beyond what fp32 can hold.
    argv = flags(
        tiny, tmp_path, learning_rate="1e38", warmup_steps=0, bf16="false", use_peft="false"
    )  # fmt: skip
    error = ranks("sft", argv, 2, tmp_path)
    assert "the loss of step 2 is nan, first in batch 1 of 2 on rank 0, batch 1 of 2 on rank 1" in (
        str(error)
    )


def test_weights_that_are_no_numbers_are_not_saved(
    tiny: Path, tmp_path: Path, ranks: Train
) -> None:
    # The only step's loss is of the weights before it: what it did to them shows in no loss.
    more = {"learning_rate": "1e39", "warmup_steps": 0, "bf16": "false", "use_peft": "false"}
    for name, strategy in (("steps", "steps"), ("result", "no")):
        argv = flags(
            tiny, tmp_path / name, max_steps=1, save_steps=1, save_strategy=strategy, **more
        )
        error = ranks("sft", argv, 1, tmp_path / name)
        assert "after step 1 the weight model.embed_tokens.weight is no number" in str(error)
        assert not list((tmp_path / name / "out").rglob("*.safetensors"))


def test_ranks_with_other_rows_do_not_train(tiny: Path, tmp_path: Path, ranks: Train) -> None:
    for rank, rows in ((0, "First."), (1, "Other.")):
        (tmp_path / str(rank)).mkdir()
        row = json.dumps({"instruction": "What?", "output": rows})
        (tmp_path / str(rank) / "rows.jsonl").write_text(f"{row}\n" * 16)
    argv = flags(tiny, tmp_path, train_file_dir=tmp_path / "{rank}", token_cache=tmp_path / "kept")
    error = str(ranks("sft", argv, 2, tmp_path))
    assert "the ranks' tokens differ: rank 0 " in error
    assert "bring the same data" in error
