"""What train refuses before it asks any host."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands.train.resume import apply_resumed
from provision.errors import ConfigError
from provision.settings import make_settings
from provision.show import Answer


@pytest.mark.parametrize(
    ("flags", "named"),
    [({"model": "/m"}, "--model"), ({"zero": "3"}, "--zero"), ({"script": "t.py"}, "--script")],
)
def test_a_run_that_goes_on_is_what_it_was(flags: dict[str, str], named: str) -> None:
    settings = make_settings({}, {"resume": "last", "master_port": "29501", **flags}, Path("/"))
    with pytest.raises(ConfigError, match=f"--resume: found {named} with it"):
        apply_resumed(Answer(json=False, dry_run=False), settings)
