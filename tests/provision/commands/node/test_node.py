"""A node that a person starts: what it is told by flags, by variables and by defaults."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.commands.node.node import (
    Standing,
    make_node_spec,
    read_environment,
    read_form,
)
from provision.errors import ConfigError
from provision.launch.byhand import START_WITHIN
from provision.launch.code import Code
from provision.launch.environment import RunEnviron
from provision.launch.numa import Binding
from provision.launch.prepare import Program
from provision.launch.spec import Limits, Script
from provision.settings import Settings, make_settings

PROGRAM = Program(code=Code(files=(), archive=b""), environ=RunEnviron(), script=Script(path="t"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it, as HOME and the current folder; none of a run's variables."""
    for name in ("OBJECTIVE", "NODE_RANK", "NNODES", "MODEL_PATH", "MAX_STEPS", "ZERO_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**flags: Any) -> Settings:
    return make_settings({}, flags, Path.cwd())


def test_flags_count_before_variables_and_these_before_defaults(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", "m")
    monkeypatch.setenv("MAX_STEPS", "7")
    monkeypatch.setenv("OBJECTIVE", "orpo")
    form, s = read_form(settings(zero="3", set=["seed=1"]))
    assert (form.zero, s.zero, form.nnodes) == (3, 3, 1)
    assert (s.recipe.name, s.model) == ("orpo.yaml", str(home / "m"))
    assert s.set == {"max_steps": "7", "seed": "1"}
    _, s = read_form(settings(set=["max_steps=9"], model="/other", objective="sft"))
    assert (s.recipe.name, s.model, s.set) == ("sft.yaml", "/other", {"max_steps": "9"})


def test_an_objective_that_there_is_none_of_is_refused_unless_a_script_runs() -> None:
    with pytest.raises(ConfigError, match="--objective: found dpo, expected orpo or pretrain or"):
        read_form(settings(objective="dpo"))
    read_form(settings(objective="dpo", script="t.py"))


def test_the_environment_says_which_accelerator_it_is_for(home: Path) -> None:
    with pytest.raises(ConfigError, match="environment: found no interpreter"):
        read_environment(settings())
    python = home / ".zerofleet/current/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    with pytest.raises(ConfigError, match="--accelerator: found nothing"):
        read_environment(settings())
    (home / ".zerofleet/current/complete.json").write_text(json.dumps({"accelerator": "cpu"}))
    assert read_environment(settings()) == (str(python), "cpu")
    assert read_environment(settings(accelerator="cuda")) == (str(python), "cuda")
    with pytest.raises(ConfigError, match="--accelerator: found nothing"):
        read_environment(settings(python=sys.executable))  # nobody proved that one


@pytest.mark.parametrize(("flags", "within"), [({}, START_WITHIN), ({"start_within": "60"}, 60.0)])
def test_other_nodes_are_started_by_hand_and_that_takes_its_time(
    flags: dict[str, str], within: float
) -> None:
    form, s = read_form(
        settings(nnodes="2", master_addr="10.0.0.7", grace="40", script="t.py", **flags)
    )
    standing = Standing(
        python="/p", accelerator="cpu", hostname="gpu7", cores=8, interface="eth0",
        numa=Binding(mode="none", why="one node"), token="secret",
    )  # fmt: skip
    spec = make_node_spec(s, form, PROGRAM, standing)
    assert spec.limits == Limits(grace=40.0, start_within=within)
    assert [host.name for host in spec.hosts] == ["gpu7", "node_rank 1"]
    assert (spec.by_hand, spec.secret) == (0, "secret")
    assert {host.socket_interface for host in spec.hosts} == {"eth0"}
