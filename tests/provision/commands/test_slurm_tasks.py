"""Flags that belong together: train's over SSH, and those of a Slurm job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.slurm_tasks import wants_slurm
from provision.errors import ConfigError
from provision.settings import Settings, make_settings


def settings(**flags: Any) -> Settings:
    return make_settings({}, flags, Path("/here"))


def test_train_is_a_job_where_it_says_so() -> None:
    assert wants_slurm(settings(slurm=True, partition="debug"))
    assert not wants_slurm(settings(zero="3"))


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"slurm": True, "include": "node1"}, "--include"),
        ({"slurm": True, "retries": "2"}, "--retries"),
        ({"partition": "debug"}, "--partition"),
        ({"no_preflight": True}, "--no-preflight"),
        ({"slurm": "debug"}, "train --slurm"),
    ],
)
def test_a_flag_that_would_mean_nothing_is_refused(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as refused:
        wants_slurm(settings(**flags))
    assert refused.value.what == what
