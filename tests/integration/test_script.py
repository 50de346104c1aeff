"""A script of the user's own over two real hosts, and that a secret is seen nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun, ZfStart

CANARY = "canary-5f1d09"
TRAIN = """\
import json, os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from part.of_it import total
dist.init_process_group("gloo")
there = total(torch.ones(1) * (dist.get_rank() + 1))
if dist.get_rank() == 0:
    out = Path(os.environ["ZEROFLEET_OUTPUT_DIR"])
    out.mkdir()
    said = {"sum": there, "args": sys.argv[1:], "token": len(os.environ["HF_TOKEN"])}
    (out / "said.json").write_text(json.dumps(said))
while "--wait" in sys.argv and not Path(sys.argv[-1]).exists():
    time.sleep(0.1)
dist.destroy_process_group()
"""
PART = """\
import torch.distributed as dist
def total(tensor):
    dist.all_reduce(tensor)
    return tensor.item()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "my code"
    (folder / "part").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "part" / "of_it.py").write_text(PART)
    return folder


def command_lines() -> str:
    """Of every process of this machine, the hosts' included."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def test_it_runs_with_its_arguments_and_the_secret_is_seen_nowhere(
    deployed: Fleet, zf_start: ZfStart, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    known = set((deployed.folder / "runs").glob("*"))
    words = ["--script", str(code / "train.py"), "--code", str(code), "--master-port", "29662"]
    go = tmp_path / "go"
    train = zf_start(
        ["train", "--json", *words, "--", "--note", "two words", "--wait", str(go)],
        deployed.folder,
    )
    runs = deployed.hosts[0].home / ".zerofleet" / "runs"
    while not list(runs.glob("*-script-*/output/said.json")):
        assert train.poll() is None, train.communicate()
        time.sleep(0.1)
    seen = command_lines()
    go.touch()
    out, err = train.communicate(timeout=400)
    assert train.returncode == 0, err[-3000:]
    answer = json.loads(out)
    assert answer["state"] == "finished"
    result = json.loads((Path(answer["collected"]) / "output" / "said.json").read_text())
    assert result["sum"] == 3
    assert result["args"][:2] == ["--note", "two words"]
    assert result["token"] == len(CANARY)
    # The processes were there when we looked: the controller, and the ranks.
    assert sum(str(go) in line for line in seen.splitlines()) >= 3
    (new,) = set((deployed.folder / "runs").glob("*")) - known
    files = [path for path in new.rglob("*") if path.is_file()]
    for host in deployed.hosts:
        files += [p for p in (host.home / ".zerofleet/runs" / new.name).rglob("*") if p.is_file()]
    assert new / "report.html" in files
    holding = [path for path in files if CANARY.encode() in path.read_bytes()]
    assert (CANARY in seen + out + err, holding) == (False, [])


def test_printed_commands_run_where_they_are_pasted(
    deployed: Fleet, zf_run: ZfRun, code: Path
) -> None:
    words = ["--script", str(code / "train.py"), "--code", str(code), "--master-port", "29663"]
    secret = {"HF_TOKEN": CANARY}
    done = zf_run(
        ["train", "--json", "--print-commands", *words, "--", "--note", "x"],
        deployed.folder,
        environ=secret,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert CANARY not in done.stdout + done.stderr
    commands = json.loads(done.stdout)["commands"]
    pasted = []
    for host in deployed.hosts:
        tools = host.home / ".zerofleet" / "current" / "bin"
        environ = {**os.environ, **secret, "PATH": f"{tools}:{os.environ['PATH']}"}
        shell = ["sh", "-c", commands[host.name]]
        pasted.append(subprocess.Popen(shell, cwd=code, env=environ))
    assert [process.wait(timeout=400) for process in pasted] == [0, 0]
    (said,) = (code / "outputs").glob("*/said.json")
    assert json.loads(said.read_text())["sum"] == 3


def test_deepspeeds_own_launcher_on_two_hosts(deployed: Fleet, zf_run: ZfRun, code: Path) -> None:
    words = ["--script", str(code / "train.py"), "--code", str(code), "--master-port", "29664"]
    done = zf_run(
        ["train", "--json", "--launcher", "deepspeed", *words, "--", "--note", "x"],
        deployed.folder,
        environ={"HF_TOKEN": CANARY},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["state"] == "finished"
    collected = Path(answer["collected"])
    result = json.loads((collected / "output" / "said.json").read_text())
    assert (result["sum"], result["args"]) == (3, ["--note", "x"])
    for host in deployed.hosts:
        plan = json.loads((collected / "hosts" / host.name / "plan.json").read_text())
        assert "deepspeed.launcher.launch" in plan["argv"]
        assert "secret" not in plan["peers"]  # the heartbeat's own
