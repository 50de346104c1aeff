"""ready.py as it runs on a host: real files, real programs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import provision.onhost
from provision.preflight.rows import read_rows_program

PATH = Path(provision.onhost.__file__).parent / "ready.py"
ROOT = Path(provision.onhost.__file__).parents[2]


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """The script, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    spec = importlib.util.spec_from_file_location("ready", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_that_can_be_made_is_writable_and_stays_unmade(ready, tmp_path):
    before = sorted(tmp_path.iterdir())
    answer = ready.folder(str(tmp_path / "a" / "b"))
    assert answer["nearest"] == str(tmp_path)
    assert answer["free"] > 0
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_below_a_file_or_a_pseudo_file_system_is_not(ready, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "error" in ready.folder(str(tmp_path / "file" / "out"))
    assert "error" in ready.folder("/proc/zerofleet/out")


def make_model(folder, weights=b"w" * 1000, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_model_folder_has_config_weights_and_a_digest(ready, tmp_path):
    folder = make_model(tmp_path / "m", dtype="bfloat16", text_config={"hidden_size": 64})
    answer = ready.model(str(folder))
    assert (answer["bytes"], answer["dtype"], answer["hidden_size"]) == (1000, "bfloat16", 64)
    assert answer["config"]["hidden_size"] == 64
    assert "text_config" not in answer["config"]
    assert set(answer["digest"]["files"]) == {"config.json", "model.safetensors"}
    assert ready.model(str(tmp_path / "nothing")) == {"error": "no such folder"}
    assert ready.model(str(tmp_path)) == {"error": "no config.json in it"}


def test_the_digest_of_a_model_is_of_names_and_bytes_not_of_places_or_readmes(ready, tmp_path):
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "deep" / "other")
    (other / "README.md").write_text("another text")
    digest = ready.model(str(one))["digest"]["sha256"]
    assert ready.model(str(other))["digest"]["sha256"] == digest
    (other / "model.safetensors").write_bytes(b"v" * 1000)
    assert ready.model(str(other))["digest"]["sha256"] != digest


def test_git_lfs_pointers_are_not_weights(ready, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    answer = ready.model(str(make_model(tmp_path / "m", pointer)))
    assert "git-lfs pointer" in answer["error"]


def test_a_hub_name_is_looked_for_in_the_cache(ready, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert ready.model("Qwen/Qwen3-0.6B") == {"hub": True, "cached": False}
    root = tmp_path / "models--Qwen--Qwen3-0.6B"
    make_model(root / "snapshots" / "abc", b"o" * 500)
    chosen = make_model(root / "snapshots" / "def")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("def")
    answer = ready.model("Qwen/Qwen3-0.6B")
    assert answer["cached"]
    assert answer["digest"] == ready.model(str(chosen))["digest"]


def test_data_of_two_homes_has_one_digest(ready, tmp_path, monkeypatch):
    found = []
    for home in ("one", "two"):
        monkeypatch.setenv("HOME", str(tmp_path / home))
        folder = tmp_path / home / "data" / "more"
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text("{}\n")
        (folder / "notes.txt").write_text(home)
        found.append(ready.data("~/data"))
    assert found[0] == found[1]
    assert found[0]["files"].keys() == {"data/more/a.jsonl"}
    assert "No such file" in ready.data("~/nothing.jsonl")["error"]


def test_hub_data_is_looked_for_in_the_cache(ready, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "error" in ready.data("hf://datasets/owner/rows")
    root = tmp_path / "datasets--owner--rows"
    (root / "snapshots" / "abc" / "train").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    rows = root / "snapshots" / "abc" / "train" / "a.jsonl"
    rows.write_text("{}\n")
    found = ready.data("hf://datasets/owner/rows/train")
    assert found["sha256"] == ready.data(str(rows.parent))["sha256"]
    assert found["count"] == 1


def test_the_digest_of_a_large_file_is_kept_until_it_changes(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "LARGE", 100)
    monkeypatch.setattr(ready.time, "time", lambda: 4e9)
    path = tmp_path / "large"
    path.write_bytes(b"a" * 100)
    digest = ready.Digests("x", {"large": str(path)}).file(str(path))
    (kept,) = (tmp_path / "home" / ".zerofleet" / "seen").glob("*.json")
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps({**record, "found": "kept"}))
    assert ready.Digests("x", {"large": str(path)}).file(str(path)) == "kept"
    path.write_bytes(b"a" * 100)  # the same bytes at another time: looked at anew
    assert ready.Digests("x", {"large": str(path)}).file(str(path)) == digest


def test_rows_are_read_by_the_trainers_own_reader(ready, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"conversations": [}\n')
    answer = ready.answers({"data": str(data), "rows": read_rows_program(ROOT)})
    assert answer["rows"]["problem_count"] == 1
    assert answer["rows"]["problems"][0]["line"] == 1
    assert answer["data"]["count"] == 1


PROVE = """
import os
def prove(wanted):
    open(os.environ["HOME"] + "/asked", "a").write("x")
    if wanted.get("bad"):
        raise SystemExit("op cpu_adam does not load")
    return {}
"""


@pytest.fixture
def environment(tmp_path):
    """An environment's folder; its Python is this one."""
    python = tmp_path / "home" / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    library = tmp_path / "home" / "env" / "lib" / "python3.11" / "site-packages" / "torch" / "lib"
    library.mkdir(parents=True)
    (library / "libtorch.so").write_bytes(b"1")
    return python, library / "libtorch.so"


def test_ops_are_loaded_once_for_what_is_installed(ready, environment, tmp_path):
    python, library = environment
    asked = tmp_path / "home" / "asked"
    assert ready.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert ready.prove(PROVE, str(python), {"ops": []}) == {"loads": True, "seen": True}
    assert asked.read_text() == "x"
    library.write_bytes(b"22")
    assert ready.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert asked.read_text() == "xx"
    (library.parents[1] / "version.py").write_text("__version__ = '2.99.1'")
    assert ready.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert asked.read_text() == "xxx"


def test_ops_that_do_not_load_say_why_every_time(ready, environment):
    python, _ = environment
    for _ in range(2):
        answer = ready.prove(PROVE, str(python), {"bad": True})
        assert answer == {"error": "op cpu_adam does not load"}
    missing = ready.prove(PROVE, "~/no/bin/python", {})
    assert "No such file" in missing["error"]


def test_a_lock_in_the_extensions_folder_is_named(ready, tmp_path):
    lock = tmp_path / "home" / ".cache" / "torch_extensions" / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    assert ready.stale_locks() == []
    lock.touch()
    assert [found["path"] for found in ready.stale_locks()] == [str(lock)]


def test_the_cpu_is_timed(ready):
    assert 0 < ready.cpu_seconds() < 1


def test_only_what_is_asked_is_answered(ready, tmp_path):
    answer = ready.answers({"folders": [str(tmp_path)]})
    assert set(answer) == {"cpu_seconds", "folders", "logout", "locks"}
    json.dumps(answer)
