"""place.py as it runs on a host: hashed there, then renamed; never half a file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provision.script import read_onhost


@pytest.fixture
def place(tmp_path):
    def run(*args, given=None):
        done = subprocess.run(
            [sys.executable, "-c", read_onhost("place"), *args],
            input=json.dumps(given),
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


def test_a_link_to_a_disk_of_the_host_is_followed_before_the_folder_is_there(place, tmp_path):
    (tmp_path / ".zerofleet").symlink_to(tmp_path / "disk" / "zerofleet")
    place("folders", ".zerofleet/store/ab/x.whl")
    assert (tmp_path / "disk/zerofleet/store/ab").is_dir()
    assert (tmp_path / "disk/zerofleet").stat().st_mode & 0o077 == 0


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


def store(tmp_path, content: bytes, name: str) -> str:
    sha = hashlib.sha256(content).hexdigest()
    path = tmp_path / ".zerofleet" / "store" / sha / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return sha


def test_a_folder_is_made_of_the_stores_files_and_takes_no_room(place, tmp_path):
    first, second = store(tmp_path, b"one", "whatever"), store(tmp_path, b"two", "x")
    text = f"{first}  a b.txt\n{second}  sub/ü\n{second}  again\n"
    digest = store(tmp_path, text.encode(), "manifest")
    assert place("look", given={"path": f".zerofleet/store/{digest}/m", "sha256s": [first, "0"]})[
        "held"
    ] == [first]
    made = Path(place("tree", digest, "m")["path"])
    assert made == tmp_path / ".zerofleet" / "store" / digest / "m"
    assert (made / "a b.txt").read_bytes() == b"one"
    assert (made / "sub" / "ü").samefile(made / "again")
    assert place("tree", digest, "m")["path"] == str(made)  # and once more
    looked = place("look", given={"path": f"~/.zerofleet/store/{digest}/m", "sha256s": [first]})
    assert looked == {"there": True, "held": [], "path": str(made)}


def test_a_folder_whose_making_was_interrupted_is_made_anew(place, tmp_path):
    digest = store(tmp_path, (store(tmp_path, b"1", "x") + "  f\n").encode(), "manifest")
    half = tmp_path / ".zerofleet" / "store" / digest / "m.partial"
    half.mkdir()
    (half / "f").write_bytes(b"old")
    assert (Path(place("tree", digest, "m")["path"]) / "f").read_bytes() == b"1"
    assert not half.exists()


def test_a_folder_whose_files_are_others_now_holds_the_stores_again(place, tmp_path):
    """A push --check that was interrupted: the file came anew, the folder has the rotten one."""
    sha = store(tmp_path, b"1", "x")
    digest = store(tmp_path, f"{sha}  a/f\n{sha}  g\n".encode(), "manifest")
    made = Path(place("tree", digest, "m")["path"])
    (made / "a" / "f").unlink()
    (made / "a" / "f").write_bytes(b"rotten")
    (made / "g").unlink()
    place("tree", digest, "m")
    assert (made / "a" / "f").read_bytes() == (made / "g").read_bytes() == b"1"
    assert sorted(path.name for path in made.rglob("*")) == ["a", "f", "g"]


def test_half_a_file_is_not_held(place, tmp_path):
    sha = store(tmp_path, b"1", "x.partial")
    assert place("look", given={"path": "none", "sha256s": [sha]})["held"] == []
