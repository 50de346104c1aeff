"""What goes into a run and what came out of it: check-data, merge, export, chat, on real hosts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


@pytest.fixture
def zf(deployed: Fleet, zf_run: ZfRun):
    """A command's answer; it has to exit with ``code``."""

    def run(*args: str, code: int = 0) -> dict[str, Any]:
        done = zf_run([*args, "--json"], deployed.folder)
        assert done.returncode == code, done.stderr[-3000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def trained(deployed: Fleet, zf: Any) -> str:
    """A run of the demo's that ended well, an adapter its result."""
    runs: list[str] = [run["run"] for run in zf("runs")["runs"] if run["state"] == "finished"]
    return runs[0]


def test_a_result_is_merged_exported_and_asked(
    deployed: Fleet, zf: Any, trained: str, tmp_path: Path
) -> None:
    merged = zf("merge", trained, "--output", str(tmp_path / "merged"))
    assert 0 <= merged["logits_differ"] < 0.15
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    # One host has the shards of rank 0, the other those of rank 1.
    exported = zf("export", trained, "--output", str(tmp_path / "exported"))
    assert (exported["adapter"], exported["dtype"]) == (True, "float32")
    assert (tmp_path / "exported" / "adapter_model.safetensors").is_file()
    (said,) = zf("chat", trained, "--prompt", "What is ZeRO?", "--max-new-tokens", "4")["said"]
    assert said["tokens"] == 4 or said["answer"]
    # A host notices the end of its connection, ends the module, and then removes the folder.
    deadline = time.monotonic() + 200
    while any((host.home / ".zerofleet" / "asked").exists() for host in deployed.hosts):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_data_is_checked_by_the_code_that_trains(deployed: Fleet, zf: Any, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    good = {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}
    data.write_text("\n".join([json.dumps(good), '{"conversations": []', json.dumps(good)]))
    found = zf("check-data", str(data), code=1)
    assert (found["rows"], found["bad"], found["formats"]) == (2, 1, {"ShareGPT": 2})
    (bad,) = found["findings"]
    assert bad["found"].startswith(f"{data}:2: invalid JSON")
    learned = [p["text"] for p in found["samples"][0]["texts"][0]["pieces"] if p["learned"]]
    assert learned == ["4<|im_end|>"]
    assert sum(one["rows"] for one in found["histogram"]) == 2
