"""A model really learns: after a few passes over 50 rows it says each of them by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bench.matrix import Train
from trainer.sample import answer, load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
#: Fifty questions, of which none is answered by another's answer.
ROWS = [
    (f"What is the word for {n}?", f"It is {chr(97 + n % 26)}{n * 7919 % 997}.") for n in range(50)
]


def test_fifty_rows_are_learned_by_heart(tiny: Path, tmp_path: Path, ranks: Train) -> None:
    data = tmp_path / "rows.jsonl"
    lines = (json.dumps({"instruction": asked, "output": said}) for asked, said in ROWS)
    data.write_text("\n".join(lines))
    flags = {
        "model_name_or_path": tiny,
        "train_file_dir": data,
        "output_dir": tmp_path / "out",
        "use_peft": "false",
        "bf16": "false",
        "activation_checkpointing": "false",
        "model_max_length": 64,
        "num_train_epochs": 30,
        "per_device_train_batch_size": 10,
        "gradient_accumulation_steps": 1,
        "learning_rate": "5e-3",
        "weight_decay": 0,
        "save_strategy": "no",
        "logging_steps": 50,
        "report_to": "none",
    }
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    assert ranks("sft", argv, 1, tmp_path) is None
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert events[-1]["loss_first"] > 5
    assert events[-1]["loss_last"] < 0.05
    # A base model that got a chat format: its own end of text is another token than a turn's end.
    kept = tmp_path / "out" / "generation_config.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "eos_token_id": 0}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", eos_token="<|endoftext|>")
    tokenizer.save_pretrained(tmp_path / "out")
    model, tokenizer = load(tmp_path / "out")
    for asked, said in ROWS[::12]:
        assert answer(model, tokenizer, asked, max_new_tokens=24) == said
