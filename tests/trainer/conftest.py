"""These tests need the training environment (locks/train.lock, torch, deepspeed).

Run them in it from the repository: ``python -m pytest tests/trainer``. Offload needs DeepSpeed's
cpu_adam; without a prebuilt wheel DeepSpeed compiles it on first use, which takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from transformers import PreTrainedTokenizerFast

from trainer import tiny as tiny_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "examples" / "conversations.jsonl"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Many start Pythons that import torch, at the lowest priority beside other tests."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = tiny_model.make_tokenizer(str(EXAMPLES), 1024)
    tokenizer.save_pretrained(folder)
    tiny_model.make_model(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[..., str | None]]:
    """bench.forked.run_ranks, in a process that imported everything once for all tests."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.forked"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(objective: str, argv: list[str], ranks: int, folder: Path) -> str | None:
        asked = {"objective": objective, "argv": argv, "ranks": ranks, "folder": str(folder)}
        print(json.dumps(asked), file=server.stdin, flush=True)
        error: str | None = json.loads(server.stdout.readline())["error"]
        return error

    with server:  # closes its stdin, which ends it
        yield run


@pytest.fixture
def tokenizer(tiny: Path) -> PreTrainedTokenizerFast:
    """The tiny model's tokenizer, fresh for each test."""
    return PreTrainedTokenizerFast.from_pretrained(tiny)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write values as the lines of a .jsonl file."""

    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
