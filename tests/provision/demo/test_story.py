from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.demo import story as demo

TRAIN: dict[str, Any] = {
    "loss": [6.5, 4.1],
    "jit_compiled": [],
    "optimizer": "DeepSpeedCPUAdam",
    "adapter": "/runs/1/adapter",
}


def test_a_good_run_has_no_fault() -> None:
    assert demo.fault_of(TRAIN) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"loss": [4.1, 4.1]}, "did not fall"),
        ({"loss": [4.1, float("nan")]}, "did not fall"),
        ({"loss": [None, 1.0]}, "did not fall"),
        ({"loss": None}, "did not fall"),
        ({"jit_compiled": ["node1:cpu_adam"]}, "node1:cpu_adam"),
        ({"jit_compiled": None}, "compiled on hosts"),  # unknown is not ok
        ({"optimizer": "AdamW"}, "AdamW stepped in place of DeepSpeedCPUAdam"),
        ({"optimizer": None}, "in place of DeepSpeedCPUAdam"),
    ],
)
def test_a_run_that_only_looks_good_fails_the_demo(change: dict[str, Any], why: str) -> None:
    assert why in demo.fault_of(TRAIN | change)


def test_the_result_of_a_demo_that_went_well() -> None:
    told = demo.Story(
        seconds={"build-deepspeed": 92.123},
        answers={"build-deepspeed": {"wheel": "/w"}, "train": TRAIN},
    )
    result = demo.make_result(told, ["node1", "node2"], 0)
    assert result["ok"] is True
    assert result["stages"] == {"build-deepspeed": 92.12}
    assert (result["wheel"], result["loss"]) == ("/w", [6.5, 4.1])
    text = demo.render_summary(result, Path("/demo"))
    assert "6.500 → 4.100" in text
    assert "/runs/1/adapter" in text


def test_the_summary_of_a_failed_demo_says_why_and_where_to_look() -> None:
    result = {
        **demo.make_result(demo.Story(), [], 4),
        "failed": "build",
        "why": "build ended with 4",
    }
    assert (result["ok"], result["exit"]) == (False, 4)
    text = demo.render_summary(result, Path("/demo"))
    assert "demo failed: build ended with 4" in text
    assert "/demo/logs" in text
