"""The memory planner as a command, and in the chain: a real run beside its plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun

MACHINES = ["--gpus", "8", "--gpu-memory", "80", "--host-memory", "1000"]


def read_available() -> int:
    """Bytes of memory that this machine, every host of these tests, can still give."""
    rows = Path("/proc/meminfo").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("MemAvailable:")).split()[1]) * 1024


def test_json_has_every_part(zf_run: ZfRun, tmp_path: Path) -> None:
    done = zf_run(["memory", "--model", "8b", "--method", "full", *MACHINES, "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["fits"], answer["parameters"]) == (True, 8_190_735_360)
    parts = {k: v for k, v in answer["per_gpu"].items() if k not in ("total", "moment")}
    assert set(parts) == {
        "parameters", "gradients", "optimizer", "activations", "logits", "buffers", "reserve"
    }  # fmt: skip
    assert sum(parts.values()) == answer["per_gpu"]["total"]


def test_what_does_not_fit_exits_1_and_says_what_would(zf_run: ZfRun, tmp_path: Path) -> None:
    asked = ["memory", "--model", "32b", "--method", "full", *MACHINES]
    done = zf_run([*asked, "--zero", "2"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "--zero 3 does" in done.stdout
    assert zf_run([*asked, "--zero", "auto"], tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--model", "qwen9"], "no known name"),
        (["--model", "8b", "--seq", "99999"], "max_position_embeddings"),
        (["--model", "8b", "--gpus", "999999999999"], "the parameters that train"),
        ([], "--model"),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str, zf_run: ZfRun, tmp_path: Path) -> None:
    done = zf_run(["memory", *args], tmp_path)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_is_planned_and_its_peaks_stand_beside_the_plan(
    deployed: Fleet, zf_run: ZfRun
) -> None:
    roomy = read_available() > 6e9
    few = ["--set", "max_steps=2", "--set", "gradient_accumulation_steps=1"]
    done = zf_run(["train", "--zero", "auto", *few, "--json"], deployed.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    planned = answer["memory"]
    if roomy:  # it takes 2 GB, which the tests beside may not have left on a small machine
        assert (planned["zero"], planned["offload"], planned["fits"]) == (1, "none", True)
    assert f"ZeRO-{planned['zero']}" in done.stderr
    assert [peak["rank"] for peak in answer["peaks"]] == [0, 1]
    for peak in answer["peaks"]:
        assert 0 < peak["measured"] < peak["planned"]
