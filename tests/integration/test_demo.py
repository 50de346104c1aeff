"""The whole way, as a newcomer goes it: ``invoke demo``, twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provision.demo.fleet import CHECKOUT, Fleet
from provision.demo.power import read_descendants
from tests.integration.cluster.cluster import started

if TYPE_CHECKING:
    from tests.integration.conftest import DemoRun, ZfRun

pytestmark = pytest.mark.timeout(2400)

STAGES = [
    "hosts up", "build-deepspeed", "hosts", "parity", "deploy", "tiny model", "preflight", "train",
]  # fmt: skip


def test_the_demo_goes_the_whole_way(demos: list[DemoRun]) -> None:
    first = demos[0]
    assert first.code == 0, first.said[-3000:]
    assert (first.answer["ok"], first.answer["exit"]) == (True, 0)
    assert list(first.answer["stages"]) == STAGES
    assert first.answer["hosts"] == ["node1", "node2"]
    assert first.answer["loss"][1] < first.answer["loss"][0]
    assert first.answer["jit_compiled"] == []
    assert first.answer["optimizer"] == "DeepSpeedCPUAdam"
    assert Path(first.answer["wheel"]).is_file()
    adapter = Path(first.answer["adapter"])
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        p.name for p in adapter.iterdir()
    }
    for stage in STAGES[1:]:
        assert stage == "tiny model" or f"── invoke {stage}" in first.said


def test_a_second_demo_does_nothing_twice_and_repeats_the_first(demos: list[DemoRun]) -> None:
    first, second = demos
    assert second.code == 0, second.said[-3000:]
    assert "nothing to do" in second.said
    assert second.answer["wheel"] == first.answer["wheel"]
    assert second.answer["loss"] == pytest.approx(first.answer["loss"], rel=1e-3)
    assert second.answer["adapter"] != first.answer["adapter"]


# Before the tests that use ``deployed``: one demo at a time in a folder.
@pytest.mark.parametrize("moment", ["── invoke hosts", "step 2/"])
def test_ctrl_c_leaves_no_process(
    demos: list[DemoRun], tmp_path: Path, cache: Path, moment: str
) -> None:
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache / "xdg")}
    argv = [sys.executable, "-P", "-m", "invoke", "--search-root", str(CHECKOUT), "demo", "--json"]
    log = tmp_path / "said"
    with log.open("w") as said:
        demo = subprocess.Popen(
            [*argv, "--folder", str(demos[0].folder)], cwd=tmp_path, env=environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
    below: list[int] = []  # two hosts and the command, which begins after its line
    while moment not in log.read_text() or len(below := read_descendants(demo.pid)) < 3:
        assert demo.poll() is None, log.read_text()
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=300)
    assert demo.returncode == 130, log.read_text()
    assert json.loads(out)["exit"] == 130
    assert not [pid for pid in below if started(pid)]


def test_plain_invoke_works_in_the_demos_folder(deployed: Fleet, zf_run: ZfRun) -> None:
    done = zf_run(["deploy", "--json"], deployed.folder)
    assert done.returncode == 0, done.stderr
    changed = [host["changed"] for host in json.loads(done.stdout)["hosts"].values()]
    assert changed == [False, False]


def test_a_folder_in_use_or_not_ours_is_one_line(
    deployed: Fleet, zf_run: ZfRun, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for folder in (deployed.folder, tmp_path):
        done = zf_run(["demo", "--folder", str(folder), "--json"], tmp_path)
        assert done.returncode == 2
        assert json.loads(done.stdout)["exit"] == 2
        assert "name another with --folder" in done.stderr
        assert "Traceback" not in done.stderr
