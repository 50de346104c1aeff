"""envs.py as it runs on a host: what is there, what uses it; what is in use is never removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.onhost.processes import read_boot_id, read_identity
from provision.script import read_onhost

WHEEL, LOCK, MODEL, SHARD = ("%064x" % number for number in range(1, 5))


@pytest.fixture
def root(tmp_path):
    """A host with two environments and half a third, a run that ended, a pushed folder."""
    root = tmp_path / ".zerofleet"
    for name in ("aa", "bb", "half"):
        (root / "envs" / name / "bin").mkdir(parents=True)
        (root / "envs" / name / "data").write_bytes(b"x" * 100_000)
        (root / "envs" / name / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    for name in ("aa", "bb"):
        (root / "envs" / name / "complete.json").write_text('{"torch": "2.13.0+cpu", "at": 1.0}')
    (root / "current").symlink_to("envs/bb")
    for sha256, name, text in (
        (WHEEL, "x.whl", "wheel"),
        (LOCK, "requirements.txt", f"x==1 --hash=sha256:{WHEEL} --hash=sha256:{'f' * 64}\n"),
        (MODEL, "manifest", f"{SHARD}  model.safetensors\n"),
        (SHARD, "model.safetensors", "weights"),
    ):
        (root / "store" / sha256).mkdir(parents=True)
        (root / "store" / sha256 / name).write_text(text)
    (root / "store" / WHEEL / "y.whl.partial").write_text("half")
    (root / "history.jsonl").write_text('{"env": "bb"}\n{"env": "b')
    return root


@pytest.fixture
def ask(root):
    def run(*args):
        done = subprocess.run(
            [sys.executable, "-c", read_onhost("envs"), *args],
            env={**os.environ, "HOME": str(root.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        if args[0] != "list":
            return done.returncode, done.stderr
        return json.loads(done.stdout.partition("<<")[2].rpartition(">>")[0])

    return run


def plan_run(root, name, env, **record):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    argv = [f"{root}/envs/{env}/bin/python", "--model", f"{root}/store/{MODEL}/m"]
    (folder / "plan.json").write_text(json.dumps({"run": name, "argv": argv}))
    if record:
        (folder / "record.json").write_text(json.dumps({"boot_id": read_boot_id(), **record}))
    return folder


def test_all_that_is_there(ask):
    found = ask("list")
    assert found["current"] == "bb"
    assert {e["name"]: e["complete"] for e in found["environments"]} == {
        "aa": True,
        "bb": True,
        "half": False,
    }
    assert 100_000 <= found["environments"][0]["bytes"] < 150_000
    assert found["history"] == [{"env": "bb"}]
    assert {e["sha256"]: e["names_also"] for e in found["store"]}[LOCK] == [WHEEL]
    assert {e["sha256"]: e["names_also"] for e in found["store"]}[MODEL] == [SHARD]
    assert found["bytes"] > 300_000


def test_what_has_two_names_counts_once(ask, root):
    before = ask("list")["bytes"]
    os.link(root / "envs" / "aa" / "data", root / "envs" / "bb" / "also")
    assert ask("list")["bytes"] - before < 50_000


def test_a_host_with_nothing(tmp_path, root, ask):
    root.rename(tmp_path / "elsewhere")
    assert ask("list") == {
        "there": False,
        "current": None,
        "environments": [],
        "store": [],
        "runs": {"names": [], "bytes": 0, "alive": []},
        "history": [],
        "held": None,
        "bytes": 0,
    }


@pytest.mark.parametrize("who", ["supervisor", "torchrun"])
def test_a_run_uses_its_environment_as_long_as_a_process_of_its_record_lives(ask, root, who):
    me = read_identity(os.getpid())
    plan_run(root, "r1", "aa", **{"supervisor": None, "torchrun": None, who: me})
    plan_run(root, "r2", "half", supervisor={**me, "start_time": 1}, torchrun=None)
    found = ask("list")
    used = {e["name"]: e["used_by"] for e in found["environments"]}
    assert used == {"aa": ["run r1"], "bb": [], "half": []}
    assert {e["sha256"]: e["used_by"] for e in found["store"]}[MODEL] == ["run r1"]
    assert found["runs"]["alive"] == ["r1"]
    code, said = ask("remove", json.dumps({"envs": ["aa", "bb", "half"], "store": [MODEL[:64]]}))
    assert code == 1
    assert said == f"envs/aa: in use; envs/bb: in use; store/{MODEL}: in use\n"
    assert sorted(path.name for path in (root / "envs").iterdir()) == ["aa", "bb"]


def test_a_run_that_is_about_to_start_counts_for_an_hour(ask, root):
    folder = plan_run(root, "r1", "aa")
    assert ask("list")["runs"]["alive"] == ["r1"]
    old = time.time() - 4000
    os.utime(folder / "plan.json", (old, old))
    assert ask("list")["runs"]["alive"] == []


def test_any_process_of_an_environment_keeps_it(ask, root):
    python = root / "envs" / "aa" / "bin" / "python"
    argv = [str(python), "-S", "-c", "input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        while Path(f"/proc/{process.pid}/cmdline").read_bytes()[:1] == b"":
            pass
        (used,) = ask("list")["environments"][0]["used_by"]
        assert used == f"process {process.pid} (python -S -c input())"
        code, said = ask("undeploy", '{"runs": true}')
        assert code == 1
        assert f"process {process.pid}" in said
        process.communicate(b"\n")
    assert (root / "current").is_symlink()


def test_remove(ask, root):
    code, said = ask("remove", json.dumps({"envs": ["aa"], "store": [WHEEL[:64]]}))
    assert (code, said) == (0, "")
    assert sorted(path.name for path in (root / "envs").iterdir()) == ["bb", "half"]
    assert not (root / "store" / WHEEL).exists()
    assert (root / "store" / SHARD / "model.safetensors").exists()


def test_what_an_interrupted_removal_left_goes_too(ask, root):
    (root / "envs" / "aa").rename(root / "envs" / ".removing-aa.1")
    assert "aa" not in [e["name"] for e in ask("list")["environments"]]
    ask("remove", json.dumps({"envs": [], "store": []}))
    assert not (root / "envs" / ".removing-aa.1").exists()
    assert not (root / "store" / WHEEL / "y.whl.partial").exists()
    assert (root / "store" / WHEEL / "x.whl").exists()


def test_what_a_push_writes_to_right_now_stays(ask, root):
    with (root / "store" / WHEEL / "y.whl.partial").open():
        ask("remove", json.dumps({"envs": [], "store": []}))
        assert (root / "store" / WHEEL / "y.whl.partial").exists()
        _, said = ask("remove", json.dumps({"envs": [], "store": [WHEEL]}))
        assert said == f"store/{WHEEL}: in use\n"
    assert (root / "store" / WHEEL / "x.whl").exists()


def test_undeploy_leaves_nothing(ask, root, tmp_path):
    (tmp_path / "kept").write_text("the user's")
    (tmp_path / ".cache" / "zerofleet").mkdir(parents=True)
    folder = plan_run(root, "r1", "aa")
    (folder / "exit.json").write_text("{}")
    code, said = ask("undeploy", '{"runs": false}')
    assert (code, said) == (1, "runs: r1\n")
    assert ask("undeploy", '{"runs": true}') == (0, "")
    # A cache of builds that this user made here stays: no build was sent here.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "kept"]


def test_undeploy_follows_a_link_to_another_disk(ask, root, tmp_path):
    root.rename(tmp_path / "disk")
    root.symlink_to(tmp_path / "disk")
    assert ask("undeploy", '{"runs": true}') == (0, "")
    assert list(tmp_path.iterdir()) == []
