"""Which checkpoint is gone on from: the newest that is whole on all hosts."""

from __future__ import annotations

from typing import Any

import pytest

from provision.launch.checkpoints import choose_checkpoint

RANKS = {"node1": [0, 1], "node2": [2, 3]}


def saved(ranks: list[int], save: str = "s", world_size: int = 4) -> dict[str, Any]:
    return {"step": 4, "save": save, "world_size": world_size, "ranks": ranks, "zero_stage": 2}


def held(checkpoints: dict[str, Any], torn: dict[str, str] | None = None) -> dict[str, Any]:
    return {"checkpoints": checkpoints, "torn": torn or {}}


def test_the_newest_that_is_whole_on_all_hosts() -> None:
    answers = {
        "node1": held({"4": saved([0, 1]), "8": saved([0, 1]), "12": saved([0, 1])}),
        "node2": held({"4": saved([2, 3]), "8": saved([2, 3])}, {"12": "latest is missing"}),
    }
    assert choose_checkpoint(answers, RANKS) == (8, {12: "node2: latest is missing"})


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (held({}), "node2: it is not there"),
        (held({"4": saved([2])}), "node2: it has no part of rank 3"),
        (held({"4": saved([0, 1])}), "node2: it has no part of rank 2, 3"),
        (held({"4": saved([2, 3], save="t")}), "node1 and node2 hold different saves of it"),
        (held({"4": saved([2, 3], world_size=8)}), "node2: saved by 8 ranks, and these are 4"),
    ],
)
def test_what_is_not_whole(other: dict[str, Any], why: str) -> None:
    answers = {"node1": held({"4": saved([0, 1])}), "node2": other}
    assert choose_checkpoint(answers, RANKS) == (None, {4: why})
