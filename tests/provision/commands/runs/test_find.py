"""The run that is meant, where not every host answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.commands.runs import find
from provision.errors import UnreachableError
from provision.launch.runs import KnownRun
from provision.settings import make_settings
from provision.show import Answer, Stop

MakeRun = Callable[..., KnownRun]


def settings(**flags: Any) -> Any:
    return make_settings({}, flags, Path("/"))


def test_a_run_that_a_silent_host_may_know_is_not_said_to_be_none(
    run_of: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = UnreachableError("node2: ssh", found="no answer", expected="an answer", remedy="look")
    known = (run_of("running"),)
    monkeypatch.setattr(find, "gather_runs", lambda _: (known, {"node2": silent}))
    fleet: Any = None
    out = Answer(json=True)
    with pytest.raises(Stop):
        find.gather_wanted(out, settings(run="other"), fleet)
    assert out.exit == 3
    out = Answer(json=True)
    assert find.gather_wanted(out, settings(run="last"), fleet).run == "r"
    assert out.exit == 3  # one host was not asked, all the same
