"""inputs.py as it runs on a host: real files, the trainer's real reader."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from provision.onhost import inputs
from provision.onhost.programs import ask_reader
from provision.preflight.rows import read_rows_program

CHECKOUT = Path(__file__).parents[3]
#: One file of rows, loaded by ``datasets`` from two folders, then saved with save_to_disk.
SAVED = CHECKOUT / "tests" / "facts" / "datasets"


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    """A home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def make_model(folder, weights=b"w" * 1000, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_model_folder_has_config_weights_and_a_digest(tmp_path):
    folder = make_model(tmp_path / "m", dtype="bfloat16", text_config={"hidden_size": 64})
    answer = inputs.model(str(folder))
    assert (answer["bytes"], answer["dtype"], answer["hidden_size"]) == (1000, "bfloat16", 64)
    assert answer["config"]["hidden_size"] == 64
    assert "text_config" not in answer["config"]
    assert set(answer["digest"]["files"]) == {"config.json", "model.safetensors"}
    assert inputs.model(str(tmp_path / "nothing")) == {"error": "no such folder"}
    assert inputs.model(str(tmp_path)) == {"error": "no config.json in it"}


def test_the_digest_of_a_model_is_of_names_and_bytes_not_of_places_or_readmes(tmp_path):
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "deep" / "other")
    (other / "README.md").write_text("another text")
    digest = inputs.model(str(one))["digest"]["sha256"]
    assert inputs.model(str(other))["digest"]["sha256"] == digest
    (other / "model.safetensors").write_bytes(b"v" * 1000)
    assert inputs.model(str(other))["digest"]["sha256"] != digest


def test_what_was_pushed_is_held_against_its_own_digest(tmp_path):
    """On one host, too; a folder by its manifest, a file by its place."""
    folder = make_model(tmp_path / "m")
    made = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    store = tmp_path / "home" / ".zerofleet" / "store"
    (store / "ff").mkdir(parents=True)
    (store / "ff" / "manifest").write_text("".join(f"{made[n]}  {n}\n" for n in sorted(made)))
    pushed = folder.rename(store / "ff" / "m")
    (store / made["config.json"]).mkdir()
    row = store / made["config.json"] / "row"
    row.write_bytes((pushed / "config.json").read_bytes())
    assert inputs.model(str(pushed))["digest"]["rotten"] == []
    assert inputs.data({"files": {"row": str(row)}})["rotten"] == []
    (pushed / "model.safetensors").write_bytes(b"v" * 1000)
    row.write_bytes(b"rotten")
    assert inputs.model(str(pushed))["digest"]["rotten"] == ["model.safetensors"]
    assert inputs.data({"files": {"row": str(row)}})["rotten"] == ["row"]
    (store / "ff" / "manifest").unlink()
    assert len(inputs.model(str(pushed))["digest"]["rotten"]) == 2
    assert inputs.model(str(make_model(tmp_path / "own")))["digest"]["rotten"] == []


def test_git_lfs_pointers_are_not_weights(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    answer = inputs.model(str(make_model(tmp_path / "m", pointer)))
    assert "git-lfs pointer" in answer["error"]


def test_a_hub_name_is_looked_for_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert inputs.model("Qwen/Qwen3-0.6B") == {"hub": True, "cached": False}
    root = tmp_path / "models--Qwen--Qwen3-0.6B"
    make_model(root / "snapshots" / "abc", b"o" * 500)
    chosen = make_model(root / "snapshots" / "def")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("def")
    answer = inputs.model("Qwen/Qwen3-0.6B")
    assert answer["cached"]
    assert answer["digest"] == inputs.model(str(chosen))["digest"]


@pytest.fixture
def data():
    """The digests of data files that a host answers with."""

    def ask(paths, objective="sft"):
        program = read_rows_program(CHECKOUT)
        return inputs.data(ask_reader("files", paths, objective, program, sys.executable))

    return ask


def test_data_of_two_homes_has_one_digest(data, tmp_path, monkeypatch):
    found = []
    for home in ("one", "two"):
        monkeypatch.setenv("HOME", str(tmp_path / home))
        folder = tmp_path / home / "data" / "more"
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text("{}\n")
        (folder / "notes.txt").write_text(home)
        found.append(data("~/data/"))
    assert found[0] == found[1]
    assert found[0]["files"].keys() == {"~/data/more/a.jsonl"}
    assert "no such file" in data("~/nothing.jsonl")["error"]
    assert data("~/data", "pretrain")["count"] == 2


def test_equal_rows_that_were_saved_twice_have_one_digest(data, tmp_path, monkeypatch):
    # Beside the rows datasets.save_to_disk writes down where they came from.
    states, found = [], []
    for home in ("one", "two"):
        monkeypatch.setenv("HOME", str(SAVED / home))
        states.append((SAVED / home / "data" / "state.json").read_text())
        found.append(data("~/data"))
    assert states[0] != states[1]
    assert found[0] == found[1]
    assert found[0]["files"].keys() == {"~/data/data-00000-of-00001.arrow"}


def test_files_of_one_name_in_two_folders_both_count(data, tmp_path):
    both = [tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl"]
    for path in both:
        path.parent.mkdir()
        path.write_text("{}\n")
    before = data(", ".join(map(str, both)))
    assert set(before["files"]) == set(map(str, both))
    both[0].write_text("{ }\n")
    assert data(", ".join(map(str, both)))["sha256"] != before["sha256"]


def test_hub_data_is_looked_for_in_the_cache(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "hf download" in data("hf://datasets/owner/rows")["error"]
    root = tmp_path / "datasets--owner--rows"
    (root / "snapshots" / "abc" / "train").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    rows = root / "snapshots" / "abc" / "train" / "a.jsonl"
    rows.write_text("{}\n")
    name = "hf://datasets/owner/rows/train"
    found = data(name)
    assert found["files"].keys() == {f"{name}/a.jsonl"}
    # Another commit of the same rows, a later README say, is the same data.
    (root / "snapshots" / "abc").rename(root / "snapshots" / "def")
    (root / "refs" / "main").write_text("def")
    assert data(name) == found


def test_the_digest_of_a_large_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LARGE", 100)
    monkeypatch.setattr(inputs.time, "time", lambda: 4e9)
    path = tmp_path / "large"
    path.write_bytes(b"a" * 100)
    digest = inputs.Digests("x", {"large": str(path)}).file(str(path))
    (kept,) = (tmp_path / "home" / ".zerofleet" / "seen").glob("*.json")
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps({**record, "found": "kept"}))
    assert inputs.Digests("x", {"large": str(path)}).file(str(path)) == "kept"
    path.write_bytes(b"a" * 100)  # the same bytes at another time: looked at anew
    assert inputs.Digests("x", {"large": str(path)}).file(str(path)) == digest
