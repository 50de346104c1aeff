"""The thinned bench/matrix.py: real ranks, every ZeRO stage, equal losses and equal logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_training_comes_out_right() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bench.matrix", "--thin", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
    )
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(rows) >= 6, result.stderr
    assert not {row["case"]: row["wrong"] for row in rows if row["wrong"]}
    assert {"zero0", "zero1", "zero2", "zero3"} <= {row["case"].split(",")[1] for row in rows}
    assert result.returncode == 0
