from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.push import pushed as module
from provision.push.pushed import read_pushed


@pytest.fixture
def read(tmp_path):
    return lambda path: read_pushed(path, tmp_path / "cache", lambda _: None)


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "a model ü"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"w" * 5000)
    (folder / "sub" / "copy").write_bytes(b"w" * 5000)
    return folder


def test_a_folders_digest_is_that_of_what_is_in_it(read, model, tmp_path):
    first = read(model)
    other = tmp_path / "elsewhere" / model.name
    (other / "sub").mkdir(parents=True)
    for name in ("sub/copy", "weights", "config.json"):  # made in another order, at another time
        (other / name).write_bytes((model / name).read_bytes())
        os.utime(other / name, (1, 1))
    assert read(other).digest == first.digest
    (other / "weights").rename(other / "renamed")
    assert read(other).digest != first.digest
    assert first.path == f"~/.zerofleet/store/{first.digest}/a model ü"
    assert first.size == 10002


def test_the_manifest_is_one_that_sha256sum_checks(read, model):
    found = read(model)
    assert hashlib.sha256(found.manifest.encode()).hexdigest() == found.digest
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "-"], cwd=model, input=found.manifest,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.count(": OK") == 3, done


def test_what_is_there_twice_travels_once(read, model):
    puts = read(model).puts
    assert sorted(put.size for put in puts if put.source) == [2, 5000]
    (manifest,) = [put for put in puts if put.content]
    assert manifest.target.endswith("/manifest")


def test_a_file_is_named_by_its_own_digest(read, model):
    found = read(model / "weights")
    assert found.digest == hashlib.sha256(b"w" * 5000).hexdigest()
    assert [put.target for put in found.puts] == [f".zerofleet/store/{found.digest}/weights"]


def test_what_is_unchanged_is_not_hashed_again(read, model, monkeypatch):
    first = read(model)
    hashed = []
    real = module._read_sha256
    monkeypatch.setattr(module, "_read_sha256", lambda p: hashed.append(p.name) or real(p))
    monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))  # as if the files were older
    read(model)  # written so lately that the first time kept nothing
    assert sorted(hashed) == ["config.json", "copy", "weights"]
    assert read(model) == first
    assert len(hashed) == 3
    (model / "weights").write_bytes(b"v" * 5000)
    assert read(model).digest != first.digest
    assert hashed[3:] == ["weights"]


def test_links_to_files_travel_as_files(read, model):
    (model / "link").symlink_to(model / "weights")
    assert "  link\n" in read(model).manifest


@pytest.mark.parametrize("odd", ["line\nend", "back\\slash", os.fsdecode(b"\xff")])
def test_odd_names_are_refused(read, model, odd):
    (model / odd).write_text("x")
    with pytest.raises(ConfigError, match="a name with control characters, a backslash, or not"):
        read(model)


def test_what_is_no_file_is_refused(read, model, tmp_path):
    with pytest.raises(ConfigError, match="no such file or folder here"):
        read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="an empty folder"):
        read(tmp_path / "empty")
    (model / "folder link").symlink_to(model / "sub")
    with pytest.raises(ConfigError, match="a link to a folder"):
        read(model)
    (model / "folder link").unlink()
    os.mkfifo(model / "pipe")
    with pytest.raises(ConfigError, match="no file that can be read"):
        read(model)
