"""Retries that can't be honoured are refused before any host is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.train.train import require_retries
from provision.errors import ConfigError
from provision.settings import make_settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"retries": "-1"}, "--retries: found -1, expected 0 or more"),
        ({"retries": "2", "detach": True}, "--retries: found 2 with --detach"),
        ({"retries": "2", "retry_within": "0"}, "--retry-within: found 0, expected 1 or more"),
    ],
)
def test_retries_that_nobody_could_make_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_retries(make_settings({}, flags, Path("/")))


@pytest.mark.parametrize("flags", [{}, {"detach": True}, {"retries": "3"}])
def test_other_retries_are_taken(flags: dict[str, Any]) -> None:
    require_retries(make_settings({}, flags, Path("/")))
