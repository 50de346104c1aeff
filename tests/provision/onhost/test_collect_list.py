"""The files of a run, by their hashes: run as it is on a host."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from provision.script import read_onhost


def listed(*args: str) -> list[dict[str, object]]:
    argv = [sys.executable, "-c", read_onhost("collect"), "list", *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    text = done.stdout.strip().removeprefix("ZEROFLEET<<").removesuffix(">>ZEROFLEET")
    files: list[dict[str, object]] = json.loads(text)["files"]
    return files


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name in ("checkpoint-2/a.pt", "deep/checkpoint-3/b", "checkpoint-x/c", "adapter"):
        (path := tmp_path / "output" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "output"


def test_every_file_with_its_hash_and_links_left_out(output: Path) -> None:
    (output / "link").symlink_to(output / "adapter")
    files = listed(str(output), str(output.parent / "none"))
    names = ["adapter", "checkpoint-2/a.pt", "checkpoint-x/c", "deep/checkpoint-3/b"]
    assert [file["path"] for file in files] == [str(output / name) for name in names]
    digest = hashlib.sha256(b"adapter").hexdigest()
    assert files[0] == {"path": str(output / "adapter"), "size": 7, "sha256": digest}


def test_checkpoints_may_stay(output: Path) -> None:
    files = listed("--no-checkpoints", str(output))
    names = ["adapter", "checkpoint-x/c", "deep/checkpoint-3/b"]
    assert [file["path"] for file in files] == [str(output / name) for name in names]
