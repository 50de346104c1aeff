"""How a run is named on a command line."""

from __future__ import annotations

import pytest
from invoke import Config, Context

from provision.commands.runs.tasks import TASKS


def test_a_run_is_named_by_position_and_logs_follow_with_one_letter() -> None:
    tasks = {task.name: task for task in TASKS}
    arguments = {name: task.get_arguments() for name, task in tasks.items()}
    named = {name for name, given in arguments.items() if given and given[0].positional}
    assert named == {"status", "logs", "attach", "stop", "collect", "resume", "report"}
    assert {given[0].name for name, given in arguments.items() if name in named} == {"run"}
    assert any(set(one.names) == {"follow", "f"} for one in arguments["logs"])


def test_a_flag_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    status = next(task for task in TASKS if task.name == "status")
    flags = dict.fromkeys(one.name for one in status.get_arguments())
    with pytest.raises(SystemExit) as end:
        status(Context(Config()), **{**flags, "run": "--nope", "json": False})
    assert end.value.code == 2
    assert "RUN: found --nope" in capsys.readouterr().err
