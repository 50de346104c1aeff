"""A run over SSH, as its hosts tell of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from provision.launch.runs import KnownRun


@pytest.fixture
def run_of() -> Callable[..., KnownRun]:
    """A run of two ranks on each host, one host for each state."""

    def make(*states: str) -> KnownRun:
        nodes: dict[str, Any] = {
            f"node{n + 1}": {"run_dir": f"/r{n + 1}", "first_rank": 2 * n, "nproc_per_node": 2,
                             "state": state, "stopping": False}
            for n, state in enumerate(states)
        }  # fmt: skip
        return KnownRun(run="r", nodes=nodes)

    return make
