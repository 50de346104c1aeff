"""Which checkpoints of a host can be gone on from: asked as a host is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.script import parse_answer, read_onhost


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "checkpoint-4").mkdir()
    (made / "latest").write_text("global_step4")
    manifest = {"step": 4, "save": "s", "world_size": 2, "ranks": [0], "zero_stage": 2,
                "files": {"latest": {"size": 12, "sha256": "x"}}}  # fmt: skip
    (made / "checkpoint.json").write_text(json.dumps(manifest))
    return made


def asked(output: Path) -> dict[str, Any]:
    argv = [sys.executable, "-c", read_onhost("checkpoints"), "list", str(output)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return parse_answer("here", done.stdout)


def test_a_checkpoint_that_is_whole(folder: Path) -> None:
    (folder.parent / "checkpoint-x").mkdir()
    want = {"step": 4, "save": "s", "world_size": 2, "ranks": [0], "zero_stage": 2}
    assert asked(folder.parent) == {"checkpoints": {"4": want}, "torn": {}}
    assert asked(folder / "none") == {"checkpoints": {}, "torn": {}}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("checkpoint.json", None, "no checkpoint.json: it was not saved to its end"),
        ("checkpoint.json", '{"step": 4', "checkpoint.json can't be read"),
        ("checkpoint.json", "[]", "checkpoint.json can't be read"),
        ("latest", None, "latest is missing"),
        ("latest", "glob", "latest has 4 bytes of 12"),
    ],
)
def test_a_torn_one_says_why(folder: Path, name: str, text: str | None, why: str) -> None:
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    found = asked(folder.parent)
    assert found["checkpoints"] == {}
    assert found["torn"]["4"].startswith(why)
