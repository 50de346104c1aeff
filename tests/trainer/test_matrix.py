"""The thinned bench/matrix.py: real ranks, every ZeRO stage, equal losses and equal logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.matrix import OBJECTIVES, Train, all_cases, run, thin

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


def test_training_comes_out_right(ranks: Train, tmp_path: Path) -> None:
    cases = thin(list(all_cases()))
    assert {case.objective for case in cases} == set(OBJECTIVES)
    assert {"zero0", "zero1", "zero2", "zero3"} <= {case.zero for case in cases}
    found = {case.name: figures for case, figures in run(cases, tmp_path, ranks)}
    assert len(found) == len(cases)
    assert not {name: figures for name, figures in found.items() if figures["wrong"]}
