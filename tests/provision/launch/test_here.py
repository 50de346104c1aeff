"""A node that is started on this machine: real supervisor, a torchrun that only waits."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from provision.launch import here
from provision.launch.code import read_own_code
from provision.launch.plan import LaunchPlan, plan_launch
from provision.launch.spec import RunHost, RunSpec, Script
from provision.script import script_argv
from provision.steps import Run

WAITS = "import time\ntime.sleep(600)\n"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchPlan:
    """A run of one node, whose code has a torch of its own."""
    code, home = tmp_path / "code", tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (code / "torch" / "distributed").mkdir(parents=True)
    (code / "torch" / "distributed" / "run.py").write_text(WAITS)
    (code / "train.py").touch()
    home.mkdir()
    host = RunHost(name="here", slots=1, home=str(home), nproc_per_node=1)
    spec = RunSpec(
        run="r", hosts=(host,), master_addr="localhost", master_port=29688, python=sys.executable,
        accelerator="cpu", script=Script(path="train.py"), by_hand=0,
    )  # fmt: skip
    return plan_launch(spec, read_own_code(code, code / "train.py")[0], script_argv)


def ended(launch: LaunchPlan) -> dict[str, object]:
    """exit.json, once it is there."""
    path = Path(launch.nodes[0].run_dir, "exit.json")
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, "the node was not stopped"
        time.sleep(0.05)
    return dict(json.loads(path.read_text()))


def test_ctrl_c_while_the_supervisor_is_started_stops_the_node(
    launch: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, said = here.apply_run_here, list[str]()

    def interrupted(do: Run, why: str) -> None:
        real(do, why)
        if do.title.startswith("supervise start"):
            raise KeyboardInterrupt

    monkeypatch.setattr(here, "apply_run_here", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here.apply_node(launch, tmp_path / "home", said.append)
    assert said == ["stopping this node: Ctrl-C"]
    assert ended(launch)["state"] == "stopped"


def test_ctrl_c_before_there_is_a_run_folder_stops_nothing(
    launch: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(here, "apply_put_here", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here.apply_node(launch, tmp_path / "home", lambda _: None)
    assert not Path(launch.nodes[0].run_dir).exists()
