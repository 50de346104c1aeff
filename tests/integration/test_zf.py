"""zf with the real lock and the real pip, on a fresh copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def copy(tmp_path: Path, checkout: Path) -> Path:
    """What git knows of the checkout, in a path with a space."""
    root = tmp_path / "my check out"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (checkout / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / name, root / name)
    return root


def test_two_first_starts_at_once_then_plain_invoke(copy: Path, tmp_path: Path) -> None:
    environ = {
        **os.environ, "ZEROFLEET_PYTHON": sys.executable,
        "PIP_TARGET": str(tmp_path / "astray"), "PIP_USER": "1", "PYTHONPATH": "",
    }  # fmt: skip
    starts = [
        subprocess.Popen(
            [str(copy / "zf"), "--list"], cwd=tmp_path, env=environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [(*start.communicate(timeout=800), start.returncode) for start in starts]
    assert [code for _, _, code in said] == [0, 0], said
    assert all("deploy" in out for out, _, _ in said)
    assert sum(err.count("making") for _, err, _ in said) == 1
    assert not (tmp_path / "astray").exists()

    # The activated environment's own `invoke`: its first line must survive the space.
    activated = 'set -e; cd "$1"; . .venv/bin/activate; invoke --list'
    argv = ["sh", "-c", activated, "sh", str(copy)]
    plain = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert plain.stdout == said[0][0], plain.stderr
