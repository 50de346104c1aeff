"""trainer/process.py: what a user and torchrun are told when a rank can't go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANK = """
import sys
from trainer.errors import RequestError
from trainer.process import run_rank
def main():
    if sys.argv[1] == "asked":
        raise RequestError("--model m: no such folder")
    if sys.argv[1] == "broke":
        raise KeyError("broke")
run_rank(main)
"""


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("asked", 1, "--model m: no such folder"),
        ("broke", 1, "KeyError: 'broke'"),
        ("well", 0, None),
    ],
)
def test_a_request_that_can_not_be_honoured_is_one_line(
    how: str, code: int, message: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "error.json"
    done = subprocess.run(
        [sys.executable, "-c", RANK, how],
        env={**os.environ, "TORCHELASTIC_ERROR_FILE": str(file)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    if how == "asked":
        assert done.stderr.splitlines()[-1] == f"trainer: {message}"
    assert ("Traceback" in done.stderr) is (how == "broke")
    if message is None:
        assert not file.exists()
    else:
        written = json.loads(file.read_text())["message"]
        assert written["message"] == message
        assert ("Traceback" in written["extraInfo"]["py_callstack"]) is (how == "broke")


def test_an_error_file_that_can_not_be_written_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "error.json"
    for how, said in (("asked", "trainer: --model m: no such folder"), ("broke", "KeyError")):
        done = subprocess.run(
            [sys.executable, "-c", RANK, how],
            env={**os.environ, "TORCHELASTIC_ERROR_FILE": str(file)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert said in done.stderr.splitlines()[-1]
        assert "FileNotFoundError" not in done.stderr
