"""place.py as it runs on a host: hashed there, then renamed; never half a file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import provision.onhost

PATH = Path(provision.onhost.__file__).parent / "place.py"


@pytest.fixture
def place(tmp_path):
    def run(*args):
        done = subprocess.run(
            [sys.executable, str(PATH), *args],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.partition("<<")[2].partition(">>")[0])

    return run


def test_folders_are_made_below_home_and_private(place, tmp_path):
    answer = place("folders", ".zerofleet/store/ab/x.whl", f"{tmp_path}/b/stays")
    assert answer["targets"] == [f"{tmp_path}/.zerofleet/store/ab/x.whl", f"{tmp_path}/b/stays"]
    assert (tmp_path / ".zerofleet/store/ab").is_dir()
    assert (tmp_path / ".zerofleet").stat().st_mode & 0o077 == 0


def test_a_file_that_hashes_right_is_renamed_with_its_mode(place, tmp_path):
    (tmp_path / "x.partial").write_bytes(b"data")
    answer = place("files", "%s/x" % tmp_path, hashlib.sha256(b"data").hexdigest(), "600")
    assert answer["problems"] == []
    assert (tmp_path / "x").read_bytes() == b"data"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_a_file_that_does_not_is_removed_and_the_old_one_kept(place, tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x.partial").write_bytes(b"dat")
    answer = place("files", f"{tmp_path}/x", hashlib.sha256(b"data").hexdigest(), "644")
    assert "sha256" in answer["problems"][0]
    assert (tmp_path / "x").read_bytes() == b"old"
    assert not (tmp_path / "x.partial").exists()
