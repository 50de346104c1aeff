"""An environment holds what its lock says, or it is refused: with real metadata in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provision.onhost import prove as onhost
from provision.onhost.prove import compare_versions
from provision.script import parse_answer, read_onhost

LOCKED = {"type-a": "1.0", "deepspeed": "0.19.8+torch2.13"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The site-packages of an environment that holds LOCKED, and pip."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name, version in (("Type_A", "1.0"), ("deepspeed", LOCKED["deepspeed"]), ("pip", "23.2")):
        add(folder, name, version)
    return folder


def add(folder, name, version):
    info = folder / f"{name.lower()}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def refusal(capsys, wanted):
    with pytest.raises(SystemExit):
        compare_versions(wanted)
    return capsys.readouterr().err


def test_what_the_lock_says_passes_and_venvs_own_pip_with_it(site):
    compare_versions(LOCKED)


def test_another_version_is_named(site, capsys):
    assert "type-a 1.0 (1.1)" in refusal(capsys, {**LOCKED, "type-a": "1.1"})


def test_a_distribution_that_is_not_there_is_named(site, capsys):
    assert "no torch" in refusal(capsys, {**LOCKED, "torch": "2.13.0"})


def test_one_that_the_lock_does_not_have_is_named(site, capsys):
    add(site, "vllm", "9.9")
    assert "vllm 9.9 (not in the lock)" in refusal(capsys, LOCKED)


def test_a_locked_pip_has_to_be_that_one(site, capsys):
    assert "pip 23.2 (24.0)" in refusal(capsys, {**LOCKED, "pip": "24.0"})


#: As much of torch and DeepSpeed as is asked of them where the wheel has no op.
PACKAGES = {
    "torch/__init__.py": "from . import version\n__version__ = '2.13.0'\n",
    "torch/version.py": "cuda = None\n",
    "deepspeed/__init__.py": "__version__ = '0.19.8'\n",
    "deepspeed/ops/__init__.py": "",
    "deepspeed/ops/op_builder/__init__.py": "",
    "deepspeed/ops/op_builder/all_ops.py": "ALL_OPS = {}\n",
    "deepspeed/ops/op_builder/builder.py": "class OpBuilder: pass\n",
}
WANTED = {"name": "aa", "torch": "2.13.0", "accelerator": "cpu", "ops": [], "wheel": "w"}


def test_only_who_is_to_record_it_writes_to_the_environment(python_with):
    python = python_with(PACKAGES)
    complete = Path(python).parents[1] / "complete.json"

    def prove(**more):
        asked = json.dumps({**WANTED, "wheel_sha256": "0", **more})
        argv = [python, "-E", "-c", read_onhost("prove"), asked]
        return subprocess.run(argv, capture_output=True, text=True)

    done = prove(record=False)
    assert parse_answer("node1", done.stdout, done.stderr) == {"loads": True}
    assert not complete.exists()
    assert prove(record=True).returncode == 0
    assert json.loads(complete.read_text())["torch"] == "2.13.0"
    assert "built for 2.99" in prove(torch="2.99").stderr


def test_what_completes_an_environment_is_on_the_disk_before_it_can_be_put_to_use(
    tmp_path, monkeypatch
):
    """Not every file system keeps the order of a rename and of what is synced after it: btrfs."""
    complete, synced = tmp_path / "complete.json", []
    for name in ("sync_all", "sync_folder"):
        monkeypatch.setattr(onhost, name, lambda path: synced.append((path, complete.exists())))
    monkeypatch.setattr(onhost.sys, "prefix", str(tmp_path))
    onhost.write_record({"lock": "aa"})
    assert synced == [(str(tmp_path), False), (str(tmp_path), True)]
