"""envs.py as it runs on a host: what is there, what uses it; what is in use is never removed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.onhost import envs
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
    (root / "lock").write_text(
        '{"token": "t1", "process": null, "boot_id": "", "user": "ana", "host": "x"}'
    )
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
            env={**os.environ, "HOME": str(root.parent), "ZEROFLEET_LOCK": "t1"},
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
    found = ask("list")
    assert found.pop("place").endswith(".zerofleet")
    assert found == {
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


@pytest.mark.parametrize(
    ("hostname", "ended", "alive"),
    [("another", False, ["r1"]), ("another", True, []), (socket.gethostname(), False, [])],
)
def test_a_run_of_another_host_of_a_shared_home_counts_until_it_ended(
    ask, root, hostname, ended, alive
):
    folder = plan_run(root, "r1", "aa", boot_id="of another boot", hostname=hostname)
    if ended:
        (folder / "exit.json").write_text("{}")
    assert ask("list")["runs"]["alive"] == alive


@pytest.mark.parametrize(
    ("squeue", "alive"),
    [("echo 7; echo 8", ["r1"]), ("echo 8", []), ("exit 1", ["r1"]), (None, ["r1"])],
)
def test_a_run_of_a_job_counts_while_slurm_has_it_or_does_not_say(
    ask, root, tmp_path, monkeypatch, squeue, alive
):
    folder = plan_run(root, "r1", "aa")
    (folder / "slurm.json").write_text('{"job": "7"}')
    os.utime(folder / "plan.json", (1, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    if squeue:
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
        (tmp_path / "squeue").chmod(0o755)
    assert ask("list")["runs"]["alive"] == alive
    if alive:
        assert ask("remove", '{"envs": ["aa"], "store": []}') == (1, "envs/aa: in use\n")


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


def test_one_that_is_to_be_made_anew_is_removed_and_current_names_none_meanwhile(ask, root):
    assert ask("anew", '{"name": "bb"}') == (0, "")
    assert not (root / "current").is_symlink()
    assert sorted(path.name for path in (root / "envs").iterdir()) == ["aa", "bb.lock", "half"]
    last = ask("list")["history"][-1]
    assert (last["env"], last["was"], last["what"]) == (None, "bb", "anew")
    assert ask("anew", '{"name": "half"}') == ask("anew", '{"name": "none"}') == (0, "")
    assert not (root / "envs" / "half").exists()


def test_one_that_a_run_uses_or_that_is_being_made_is_not_removed_to_be_made_anew(ask, root):
    plan_run(root, "r1", "aa")
    assert ask("anew", '{"name": "aa"}') == (1, "envs/aa: in use by run r1\n")
    for name, *told in (
        ("bb", "anew", '{"name": "bb"}'),
        ("half", "remove", '{"envs": ["half"], "store": []}'),
    ):
        with (root / "envs" / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            code, said = ask(*told)
        assert (code, said.partition(";")[0]) == (
            1,
            f"envs/{name}: a deploy that was cut off makes it still",
        )
        assert (root / "envs" / name).exists()
    assert (root / "current").readlink() == Path("envs/bb")
    assert (root / "envs" / "bb" / "complete.json").exists()
    assert (root / "envs" / "aa").exists()


def test_a_push_at_work_keeps_the_store_as_it_found_it(ask, root):
    """It goes by what was there when it began, and has no file open until the first bytes come."""
    at_work = "store: a push is at work on it; when it has ended, run the command again\n"
    with (root / "store" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert ask("remove", json.dumps({"envs": ["aa"], "store": []})) == (0, "")
        assert not (root / "envs" / "aa").exists()
        assert (root / "store" / WHEEL / "y.whl.partial").exists()
        assert ask("remove", json.dumps({"envs": [], "store": [WHEEL]})) == (1, at_work)
        assert (root / "store" / WHEEL / "x.whl").exists()
        assert ask("undeploy", '{"runs": true}') == (1, at_work)
    assert ask("remove", json.dumps({"envs": [], "store": [WHEEL]})) == (0, "")
    assert ask("undeploy", '{"runs": true}') == (0, "")


def test_undeploy_leaves_nothing(ask, root, tmp_path):
    (tmp_path / "kept").write_text("the user's")
    (tmp_path / ".cache" / "zerofleet" / "tokens").mkdir(parents=True)
    (tmp_path / ".cache" / "zerofleet" / "build").mkdir()
    folder = plan_run(root, "r1", "aa")
    (folder / "exit.json").write_text("{}")
    code, said = ask("undeploy", '{"runs": false}')
    assert (code, said) == (1, "runs: r1\n")
    assert ask("undeploy", '{"runs": true}') == (0, "")
    # A cache of builds that this user made here stays: no build was sent here. The tokens go.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "kept"]
    assert [path.name for path in (tmp_path / ".cache/zerofleet").iterdir()] == ["build"]


def test_undeploy_follows_a_link_to_another_disk_and_leaves_the_link(ask, root, tmp_path):
    root.rename(tmp_path / "disk")
    root.symlink_to(tmp_path / "disk")
    assert ask("undeploy", '{"runs": true}') == (0, "")
    assert list(tmp_path.iterdir()) == [root]
    assert not root.exists()


def test_nothing_is_removed_for_a_command_that_has_the_lock_no_more(ask, root):
    (root / "lock").write_text(
        '{"token": "t2", "process": null, "boot_id": "", "user": "ben", "host": "x"}'
    )
    for told in (
        ("remove", json.dumps({"envs": ["aa"], "store": [WHEEL]})),
        ("anew", '{"name": "bb"}'),
        ("undeploy", '{"runs": true}'),
    ):
        code, said = ask(*told)
        assert (code, said.partition(";")[0]) == (
            1,
            "the lock here is this command's no more (did its machine sleep?)",
        )
    assert (root / "current").readlink() == Path("envs/bb")
    assert sorted(path.name for path in (root / "envs").iterdir()) == ["aa", "bb", "half"]
    assert (root / "store" / WHEEL / "x.whl").exists()


def test_nobody_takes_the_lock_before_all_else_is_gone(root, tmp_path, monkeypatch):
    gone = []
    monkeypatch.setenv("HOME", str(tmp_path))
    for module, name in ((envs.shutil, "rmtree"), (envs.os, "unlink")):
        monkeypatch.setattr(module, name, gone.append)
    monkeypatch.setattr(envs, "remove_root", lambda: None)
    for name in ("ROOT", "STORE", "RUNS", "LOCK"):
        below = "" if name == "ROOT" else name.lower()
        monkeypatch.setattr(envs, name, str(root / below).rstrip("/"))
    monkeypatch.setattr(envs, "hold_store", lambda _: 0)
    monkeypatch.setattr(envs, "live_runs", dict)
    monkeypatch.setattr(envs, "users", lambda _: {})
    assert envs.undeploy({"runs": True}) == {"kept": []}
    assert gone[-1] == str(root / "lock")
    assert len(gone) == 6
