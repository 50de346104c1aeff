from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from provision.onhost import ending, processes
from provision.onhost.folder import read_json
from provision.script import read_onhost

RECORDED = Path(__file__).parents[2] / "facts" / "torchrun"


def test_finished(node: Any) -> None:
    (node.folder / "torch_extensions" / "cpu_adam").mkdir(parents=True)
    (node.folder / "torch_extensions" / "py311_cu130" / "fused_adam").mkdir(parents=True)
    lines = [
        '{"event": "begin", "total_steps": 3}',
        '{"event": "step", "step": 1, "loss": 2.5}',
        '{"event": "step", "step": 2, "loss": 1.5}',
        '{"event": "step", "step": 3, "loss": null}',
        '{"event": "eval", "step": 3, "loss": 9.5}',
        '{"event": "st',
    ]
    (node.folder / "metrics.jsonl").write_text("\n".join(lines))

    node.start("ok", "ok")

    ended = node.exit()
    assert (ended["run"], ended["node_rank"], ended["state"]) == ("r1", 1, "finished")
    assert ended["exit"] == 0
    assert ended["first_failure"] is None
    assert ended["ranks"] == [
        {"local_rank": 0, "rank": 4, "state": "finished", "exit": 0},
        {"local_rank": 1, "rank": 5, "state": "finished", "exit": 0},
    ]
    assert ended["jit_compiled"] == ["cpu_adam", "fused_adam"]
    assert ended["loss"] == [2.5, 1.5]
    code, state = node.command("state")
    assert (code, state["state"], state["step"]) == (0, "finished", 3)


def test_torchrun_gets_the_plans_environment_and_nothing_of_another_launcher(node: Any) -> None:
    node.start("ok")
    node.exit()
    log = (node.folder / "node.log").read_text()
    assert 'environ {"RANK": null, "PET_NNODES": null, "ASKED": "yes"}' in log
    assert "yes" not in (node.folder / "exit.json").read_text()


def test_record_names_both_processes_and_their_own_groups(node: Any) -> None:
    state = node.start("hang")
    record = node.record()
    assert state["state"] == "running"
    assert state["record"] == record
    for who in ("supervisor", "torchrun"):
        assert record[who]["pgid"] == record[who]["pid"]
        assert processes.is_alive(record[who], record["boot_id"])
    assert not processes.is_alive(record["torchrun"], "another boot")
    assert not processes.is_alive({**record["torchrun"], "start_time": 1}, record["boot_id"])
    assert os.getsid(record["supervisor"]["pid"]) != os.getsid(0)


def test_a_raising_rank_is_the_first_failure_and_its_victims_are_stopped(node: Any) -> None:
    node.plan("hang", "raise")
    node.command("start")
    ended = node.exit()
    assert (ended["state"], ended["exit"]) == ("failed", 1)
    failure = ended["first_failure"]
    assert (failure["rank"], failure["local_rank"]) == (5, 1)
    assert failure["reason"] == "ValueError: boom"
    assert len(failure["lines"]) == 20
    assert failure["lines"][-1] == "ValueError: boom"
    assert ended["started_at"] <= failure["at"] <= ended["ended_at"]
    assert [r["state"] for r in ended["ranks"]] == ["stopped", "failed"]
    assert [r["exit"] for r in ended["ranks"]] == [None, 1]


@pytest.mark.parametrize(
    ("mode", "reason", "code"),
    [("exit3", "exit code 3", 3), ("kill", "killed by signal 9 (SIGKILL)", 137)],
)
def test_without_an_error_file_the_summary_says_how_a_rank_ended(
    node: Any, mode: str, reason: str, code: int
) -> None:
    node.plan("hang", mode)
    node.command("start")
    ended = node.exit()
    assert ended["first_failure"]["local_rank"] == 1
    assert ended["first_failure"]["reason"].startswith(reason)
    assert ended["ranks"][1] == {"local_rank": 1, "rank": 5, "state": "failed", "exit": code}


def test_stop_ends_every_rank_gracefully(node: Any) -> None:
    node.start("hang", "hang")
    code, state = node.command("stop")
    assert (code, state["state"], state["stopping"]) == (0, "running", True)
    ended = node.exit()
    assert (ended["state"], ended["first_failure"]) == ("stopped", None)
    assert [r["state"] for r in ended["ranks"]] == ["stopped", "stopped"]
    node.until(lambda: not node.processes())


@pytest.mark.parametrize("cut", ["stop", "torchrun"])
def test_what_fails_because_it_is_ended_is_no_cause(node: Any, cut: str) -> None:
    node.start("sore", "hang")
    node.command("stop") if cut == "stop" else node.kill("torchrun")
    ended = node.exit()
    assert node.rank(0, "error.json").exists()
    assert [r["state"] for r in ended["ranks"]] == ["stopped", "stopped"]
    if cut == "stop":
        assert (ended["state"], ended["first_failure"]) == ("stopped", None)
    else:
        assert ended["first_failure"]["rank"] is None


def test_a_signal_to_the_supervisor_is_a_request_to_stop(node: Any) -> None:
    node.start("hang")
    os.kill(node.record()["supervisor"]["pid"], signal.SIGTERM)
    assert node.exit()["state"] == "stopped"
    node.until(lambda: not node.processes())


def test_ranks_that_ignore_sigterm_and_their_children_are_killed(node: Any) -> None:
    node.start("deaf", "hang", grace=0.3)
    child = int(node.rank(0, "child").read_text())
    node.command("stop")
    ended = node.exit()
    assert (ended["state"], ended["left"]) == ("stopped", [])
    node.until(lambda: not node.processes())
    node.until(lambda: not Path(f"/proc/{child}").exists())  # init collects the orphan


@pytest.mark.parametrize("mode", ["raise", "kill", "stuck"])
def test_a_failed_rank_is_noticed_while_torchrun_waits_for_the_others(node: Any, mode: str) -> None:
    """It waits for 30 s, or doesn't notice at all."""
    node.plan("deaf", mode, failure_grace=0.2, stopped=1.0)
    begun = time.monotonic()
    node.command("start")
    ended = node.exit()
    assert time.monotonic() - begun < 29
    first = ended["first_failure"]
    assert (ended["state"], first["rank"], first["local_rank"]) == ("failed", 5, 1)
    assert first["reason"] == {"kill": "killed by signal 9 (SIGKILL)"}.get(mode, "ValueError: boom")
    assert not first["symptom"]
    assert [r["state"] for r in ended["ranks"]] == ["stopped", "failed"]
    node.until(lambda: not node.processes())


def pausing(node: Any, *modes: str, **limits: float) -> Path:
    """Start ranks that can be asked to pause; the file that asks."""
    file = node.folder / "pause"
    node.environ["ZEROFLEET_PAUSE_FILE"] = str(file)
    node.plan(*modes, **limits)
    plan = json.loads((node.folder / "plan.json").read_text())
    (node.folder / "plan.json").write_text(json.dumps({**plan, "node_rank": 0}))
    node.command("start")
    node.until(lambda: all(node.rank(i, "ready").exists() for i in range(len(modes))))
    return file


def test_a_stop_lets_trainers_save_and_end_as_long_as_that_takes(node: Any) -> None:
    file = pausing(node, "saver", grace=3.0, stalled=3.0)
    node.command("stop")
    ended = node.exit()
    assert (ended["state"], ended["saved_step"], ended["exit"]) == ("stopped", 7, 0)
    assert ended["ranks"] == [{"local_rank": 0, "rank": 4, "state": "stopped", "exit": 0}]
    assert file.read_text() == "step 7\n"


def test_a_trainer_that_comes_to_no_save_gets_sigterm_in_time(node: Any) -> None:
    file = pausing(node, "deafsaver", grace=0.5)
    node.command("stop")
    ended = node.exit()
    assert (ended["state"], ended["saved_step"]) == ("stopped", None)
    assert not file.exists()
    log = (node.folder / "node.log").read_text()
    assert "[zerofleet] not saved: the step, or the end, took too long" in log


@pytest.mark.parametrize("by", ["kill", "a second signal"])
def test_a_stop_at_once_waits_for_no_checkpoint(node: Any, by: str) -> None:
    pausing(node, "deafsaver", "deaf", grace=60.0, failure_grace=0.2)
    if by == "kill":
        node.command("stop")
        node.command("kill")
    else:
        for _ in range(2):
            os.kill(node.record()["supervisor"]["pid"], signal.SIGTERM)
            node.until(lambda: "before the stop" in (node.folder / "node.log").read_text())
    ended = node.exit()
    assert (ended["state"], ended["left"]) == ("stopped", [])
    node.until(lambda: not node.processes())


def test_a_second_request_cuts_the_grace_of_a_script(node: Any) -> None:
    node.start("deaf", grace=60.0, failure_grace=0.2)
    node.command("stop")
    node.command("kill")
    assert node.exit()["state"] == "stopped"


def test_a_rank_that_fails_while_all_save_is_a_failure_not_a_stop(node: Any) -> None:
    file = pausing(node, "deafsaver", "deaf", grace=60.0, failure_grace=0.2)
    node.command("stop")
    node.until(file.exists)
    (rank,) = [pid for pid in node.processes() if is_rank(pid, "deafsaver")]
    os.kill(rank, signal.SIGKILL)
    ended = node.exit()
    assert ended["state"] == "failed"
    assert ended["first_failure"]["reason"] == "killed by signal 9 (SIGKILL)"
    assert not file.exists()


def is_rank(pid: int, mode: str) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"-c" in command and mode.encode() in command


@pytest.mark.parametrize("refused", ["heartbeat", "master port", "plan", "never started"])
def test_secrets_do_not_stay_where_nothing_was_started(node: Any, refused: str) -> None:
    secrets = node.folder / "secrets.json"
    node.plan("ok")
    secrets.write_text('{"TOKEN": "canary"}')
    path = node.folder / "plan.json"
    plan = json.loads(path.read_text())
    with socket.create_server(("", 0)) as taken, socket.socket(type=socket.SOCK_DGRAM) as heart:
        heart.bind(("127.0.0.1", 0))
        here = {"address": "127.0.0.1", "port": heart.getsockname()[1]}
        peers = {"secret": "x", **here, "nodes": [{"node_rank": 0, "host": "n0", **here}]}
        port = str(taken.getsockname()[1])
        changed = {
            "heartbeat": {"peers": peers},
            "master port": {"environ": {"MASTER_PORT": port}},
        }
        path.write_text(json.dumps({**plan, "node_rank": 0, **changed.get(refused, {})}))
        if refused == "plan":
            path.write_text("{")
        node.command("stop" if refused == "never started" else "start")
    assert not secrets.exists()


def test_a_torchrun_without_ranks_has_nothing_to_save(node: Any) -> None:
    """It waits for other nodes, and heeds no SIGTERM: the long grace is for ranks."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "
    deaf += "time.sleep(60)"
    node.plan(argv=[sys.executable, "-c", deaf], grace=60.0, failure_grace=0.1)
    node.command("start")
    node.until(lambda: "deaf" in (node.folder / "node.log").read_text())
    node.command("stop")
    assert node.exit()["state"] == "stopped"
    node.until(lambda: not node.processes())


def test_ranks_do_not_outlive_a_killed_torchrun(node: Any) -> None:
    node.start("hang", "deaf", grace=0.3)
    child = int(node.rank(1, "child").read_text())
    node.kill("torchrun")
    ended = node.exit()
    assert (ended["state"], ended["exit"]) == ("failed", 137)
    assert ended["first_failure"]["rank"] is None
    assert ended["first_failure"]["reason"] == "torchrun: killed by signal 9 (SIGKILL)"
    node.until(lambda: not node.processes())
    node.until(lambda: not Path(f"/proc/{child}").exists())  # init collects the orphan


def test_a_bystander_in_another_tree_is_left_alone(node: Any) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        node.start("deaf", grace=0.1)
        node.kill("torchrun")
        node.exit()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_killed_supervisor_leaves_a_lost_run_and_no_rank(node: Any) -> None:
    node.start("hang", "hang")
    node.kill("supervisor")
    node.until(lambda: not node.processes())  # the kernel sends torchrun SIGTERM
    code, state = node.command("state")
    assert (code, state["state"], state["exit"]) == (0, "lost", None)
    code, state = node.command("start")
    assert code == 1
    assert "start a new run" in state["error"]


def test_ranks_whose_supervisor_and_torchrun_were_killed_end_with_a_stop(node: Any) -> None:
    node.start("hang", "hang")
    node.until(lambda: len(read_json(str(node.folder / "ranks.json")) or ()) == 2)
    os.kill(node.record()["supervisor"]["pid"], signal.SIGSTOP)  # else it would end them itself
    node.kill("torchrun")
    node.kill("supervisor")
    node.until(lambda: node.command("state")[1]["state"] == "lost")
    assert len(node.processes()) == 2
    node.command("stop")
    node.until(lambda: not node.processes())


def test_a_recorded_process_is_ended_by_who_it_is_and_no_other_of_its_pid() -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        boot_id = processes.read_boot_id()
        who = processes.read_identity(process.pid)
        assert who
        processes.end_recorded([{**who, "start_time": 1}], boot_id, 0.0)
        processes.end_recorded([who], "another boot", 0.0)
        assert process.poll() is None
        processes.end_recorded([who], boot_id, 0.1)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


def test_a_run_folder_is_used_once(node: Any) -> None:
    node.start("hang")
    record = node.record()
    code, state = node.command("start")
    assert (code, state["error"]) == (1, "this run is already running on this host")
    node.command("stop")
    node.exit()
    code, state = node.command("start")
    assert code == 1
    assert state["error"] == "this run has ended (stopped): start a new run"
    assert node.record() == record


def test_a_torchrun_that_can_not_be_started_is_a_failed_run(node: Any) -> None:
    node.plan("ok", argv=["/no/such/python"])
    code, state = node.command("start")
    assert code == 1
    assert "FileNotFoundError" in state["error"]
    assert (state["state"], state["exit"]["exit"]) == ("failed", 127)
    assert state["record"]["torchrun"] is None


def test_an_unreadable_plan_is_said_and_not_waited_for(node: Any) -> None:
    (node.folder / "plan.json").write_text("{")
    code, state = node.command("start")
    assert code == 1
    assert "JSONDecodeError" in state["error"]


def test_the_heartbeats_secret_does_not_stay_in_the_plan(node: Any) -> None:
    node.plan("ok")
    path = node.folder / "plan.json"
    plan = json.loads(path.read_text())
    here = {"address": "127.0.0.1", "port": 0}
    peers = {"secret": "canary", **here, "nodes": [{"node_rank": 1, "host": "n1", **here}]}
    path.write_text(json.dumps({**plan, "peers": peers}))
    node.command("run")
    assert "canary" not in "".join(file.read_text() for file in node.folder.glob("*.*"))
    left = {**plan, "peers": {key: peers[key] for key in ("address", "port", "nodes")}}
    assert json.loads(path.read_text()) == left
    assert path.stat().st_mode & 0o777 == 0o600


def test_foreground(node: Any) -> None:
    node.plan("ok")
    code, state = node.command("run")
    assert (code, state["state"]) == (0, "finished")


def test_works_as_a_command_line_script_without_a_file(node: Any) -> None:
    node.plan("ok")
    argv = [sys.executable, "-c", read_onhost("supervise"), "start", str(node.folder)]
    # With every pipe kept open until the command has ended: a daemon that held one would hang us.
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    assert node.exit()["state"] == "finished"


def test_the_daemon_keeps_nothing_of_its_caller_open(node: Any) -> None:
    node.plan("hang")
    readable, inherited = os.pipe()
    argv = [sys.executable, "-c", read_onhost("supervise"), "start", str(node.folder)]
    subprocess.run(argv, check=True, capture_output=True, pass_fds=(inherited,), timeout=120)
    os.close(inherited)
    # Its end comes once nobody can write any more: the process between the two forks is soon gone.
    assert select.select([readable], [], [], 120)[0]
    os.close(readable)
    assert node.command("state")[1]["state"] == "running"


def test_no_such_folder(node: Any) -> None:
    node.folder.rmdir()
    code, state = node.command("state")
    node.folder.mkdir()
    assert (code, state["state"]) == (1, "never started")


def recorded_run(folder: Path, log: str, ranks: dict[int, dict[str, str]]) -> str:
    """A run folder from a log that torchrun 2.13 wrote."""
    shutil.copy(RECORDED / log, folder / "node.log")
    for local_rank, files in ranks.items():
        place = folder / "ranks" / "none_x" / "attempt_0" / str(local_rank)
        place.mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(text)
    return str(folder)


PLAN = {"nproc_per_node": 2, "first_rank": 0, "run": "r", "node_rank": 0}


def test_torchruns_own_summary_tells_cause_from_victim(tmp_path: Path) -> None:
    run_dir = recorded_run(tmp_path, "rank1-killed.log", {0: {}, 1: {}})
    failures = ending.read_failures(run_dir, PLAN, until=float("inf"))
    assert list(failures) == [1]
    assert failures[1]["reason"] == "killed by signal 9 (SIGKILL)"
    assert failures[1]["exit"] == -9


def test_a_victims_error_file_does_not_hide_the_cause(tmp_path: Path) -> None:
    message = "RuntimeError: Connection closed by peer [10.77.0.2]:4711"
    error = {"message": {"message": message, "extraInfo": {"timestamp": "1000"}}}
    run_dir = recorded_run(
        tmp_path, "rank1-killed.log", {0: {"error.json": json.dumps(error)}, 1: {}}
    )
    failures = ending.read_failures(run_dir, PLAN, until=float("inf"))
    first = ending.first_failure(failures, PLAN)
    assert sorted(failures) == [0, 1]
    assert first is not None
    assert first["rank"] == 1


def test_out_of_memory_evidence_is_added_to_a_sigkill(tmp_path: Path) -> None:
    run_dir = recorded_run(tmp_path, "rank1-killed.log", {})
    end = {
        "code": 1,
        "started_at": 0.0,
        "stopped_at": None,
        "torchrun_ended_at": float("inf"),
        "oom_kills": 2,
        "left": [],
    }
    reason = ending.node_exit(run_dir, PLAN, end)["first_failure"]["reason"]
    assert reason.endswith("the kernel ended 2 process(es) here for want of memory")
    reason = ending.node_exit(run_dir, PLAN, {**end, "oom_kills": 0})["first_failure"]["reason"]
    assert reason == "killed by signal 9 (SIGKILL)"


def test_a_failure_of_torchrun_itself_blames_no_rank(tmp_path: Path) -> None:
    run_dir = recorded_run(tmp_path, "port-taken.log", {})
    failure = ending.launcher_failure(run_dir, 1, 5.0)
    assert failure["rank"] is None
    assert "EADDRINUSE" in failure["reason"]
