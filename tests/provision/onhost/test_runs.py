"""What runs there are on a host: real run folders, supervisors and ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.onhost import runs
from provision.script import parse_answer, read_onhost, text_argv

BEGIN = {"event": "begin", "total_steps": 10}


def step(number: int, at: float, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "total_steps": 10, "loss": 3.0 - number / 10,
            "at": at, **more}  # fmt: skip


def asked(*args: str) -> list[dict[str, Any]]:
    """As a host is asked: the script and what it imports, in one command."""
    argv = text_argv(read_onhost("runs"), "runs.py", args, sys.executable)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: Any = parse_answer("here", done.stdout, done.stderr)["runs"]
    return list(found)


def test_a_run_while_it_goes_on_and_after(node: Any) -> None:
    node.plan("hang")
    assert asked("list", str(node.folder.parent))[0]["state"] == "never started"
    node.start("hang")
    (run,) = asked("show", node.folder.name, str(node.folder.parent))
    assert (run["state"], run["stopping"], run["exit"]) == ("running", False, None)
    assert run["run_dir"] == str(node.folder)
    assert run["by"] == runs.user_name(os.getuid())
    node.command("stop")
    ended = node.exit()
    (run,) = asked("list", str(node.folder.parent))
    assert (run["state"], run["exit"]) == ("stopped", ended)


def test_a_supervisor_that_is_gone_without_a_word_is_lost(node: Any) -> None:
    node.start("ok")
    node.exit()
    (node.folder / "exit.json").unlink()
    (run,) = asked("list", str(node.folder.parent))
    assert run["state"] == "lost"
    assert "died before the run ended" in run["why"]


def test_folders_that_hold_no_run_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "plan.json").write_text('{"run": ')
    (tmp_path / "file").write_text("")
    assert asked("list", str(tmp_path)) == []
    assert asked("list", str(tmp_path / "none")) == []
    assert asked("show", "../../etc", str(tmp_path)) == []


def test_progress_is_that_of_the_last_steps() -> None:
    steps = [step(1, 100.0, tokens=10), step(4, 103.0, tokens=310), step(5, 105.0, tokens=500)]
    assert runs.progress([BEGIN, *steps], steps[1:]) == {
        "step": 5,
        "total_steps": 10,
        "loss": [2.9, 2.5],
        "step_at": 105.0,
        "tokens_per_second": 95.0,
        "seconds_left": 10.0,
    }
    assert runs.progress([BEGIN], []) == {"step": None, "total_steps": 10}
    assert runs.progress([], []) == {"step": None, "total_steps": None}
    assert runs.progress(steps[:1], steps[:1])["seconds_left"] is None


def test_the_ends_of_a_long_record_are_read(tmp_path: Path) -> None:
    lines = [json.dumps(step(number, float(number))) for number in range(5000)]
    (path := tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"event": "st']))
    head, tail = runs.read_ends(str(path))
    assert (head[0]["step"], tail[-1]["step"]) == (0, 4999)
    assert len(head) < 1000
    assert runs.read_ends(str(tmp_path / "none")) == ([], [])


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["py", "-m", "torch.distributed.run", "--nnodes", "2", "-m", "trainer.sft",
          "--model_name_or_path", "/m", "--deepspeed", "/c/zero2.json"],
         {"what": "trainer.sft", "deepspeed": "zero2.json", "model": "/m", "output": "/o"}),
        (["py", "-m", "torch.distributed.run", "a/train.py", "--x", "--deepspeed"],
         {"what": "train.py", "deepspeed": None, "model": None, "output": "/o"}),
    ],
)  # fmt: skip
def test_what_runs(argv: list[str], what: dict[str, Any]) -> None:
    assert runs.what(argv, {"ZEROFLEET_OUTPUT_DIR": "/o"}) == what


def test_a_rank_is_a_child_of_torchrun_with_a_local_rank() -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={"LOCAL_RANK": "1"}, stdout=subprocess.PIPE
    )
    other = subprocess.Popen([sys.executable, "-c", code], env={}, stdout=subprocess.PIPE)
    try:
        for process in (child, other):
            assert process.stdout
            process.stdout.readline()
        found = runs.read_ranks({"state": "running", "first_rank": 4}, os.getpid())
    finally:
        for process in (child, other):
            process.kill()
            process.communicate()
    assert [(rank["rank"], rank["local_rank"], rank["pid"]) for rank in found] == [
        (5, 1, child.pid)
    ]
    assert found[0]["resident_bytes"] > 1_000_000
    assert runs.read_ranks({"state": "failed", "first_rank": 0}, os.getpid()) == []


def test_a_script_that_writes_its_own_metrics_keeps_no_run_from_being_listed(node: Any) -> None:
    node.plan("hang")
    odd = [7, {"event": "step"}, {**step(1, 1.0), "loss": "low"}, {**step(1, 1.0), "at": "noon"}]
    lines = [json.dumps(each) for each in (*odd, {"event": "begin"}, step(2, 2.0), {"loss": []})]
    (node.folder / "metrics.jsonl").write_text("\n".join(lines))
    (run,) = asked("list", str(node.folder.parent))
    assert (run["progress"]["step"], run["progress"]["loss"]) == (2, [2.8, 2.8])
