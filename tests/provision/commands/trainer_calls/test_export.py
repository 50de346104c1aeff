"""Which module export calls, and with what, for a folder of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.trainer_calls.export import gather_export_call
from provision.errors import ConfigError
from provision.settings import Settings, make_settings
from provision.show import Answer


def settings(tmp_path: Path, **flags: Any) -> Settings:
    given = {"checkpoint": "/c", "python": "/usr/bin/python3", "output": str(tmp_path / "new")}
    return make_settings({}, {**given, **flags}, tmp_path)


@pytest.mark.parametrize(
    ("flags", "module", "extra"),
    [
        ({}, "trainer.export", ()),
        ({"dtype": "bf16"}, "trainer.export", ("--dtype", "bf16")),
        ({"universal": True}, "trainer.universal", ()),
    ],
)
def test_shards_become_weights_or_a_universal_checkpoint(
    tmp_path: Path, flags: dict[str, Any], module: str, extra: tuple[str, ...]
) -> None:
    call = gather_export_call(Answer(json=True), settings(tmp_path, **flags), None)
    assert (call.module, call.args[2:-1]) == (module, extra)
    assert (call.args[0], call.output) == ("/c", tmp_path / "new")


def test_a_universal_checkpoint_has_the_types_that_it_was_saved_with(tmp_path: Path) -> None:
    s = settings(tmp_path, dtype="bf16", universal=True)
    with pytest.raises(ConfigError, match="--dtype and --universal"):
        gather_export_call(Answer(json=True), s, None)
