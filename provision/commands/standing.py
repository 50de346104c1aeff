"""A person stands on each node, and starts its part of a run there: what ``invoke node`` does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.hosts.here import read_here
from provision.launch.byhand import START_WITHIN
from provision.launch.manual import POSITIONS, NodeForm, local_paths, parse_node_form
from provision.launch.plan import LaunchPlan, plan_launch
from provision.launch.prepare import Program, read_new_run_id, read_program, spec_of
from provision.launch.spec import RunHost, RunSpec
from provision.script import script_argv
from provision.settings import CHECKOUT, Settings
from provision.show import Answer

#: What the node's own environment says of itself.
_COMPLETE = Path(".zerofleet/current/complete.json")


def read_form(s: Settings) -> tuple[NodeForm, Settings]:
    """The node, and the settings with what the usual variables say of model, data and flags."""
    home, here = Path.home(), Path.cwd()
    given = {name: getattr(s, name) for name in POSITIONS if name in s.given}
    form = parse_node_form(given, os.environ, home, here)
    objective = s.objective or os.environ.get("OBJECTIVE") or "sft"
    own = local_paths(s, home, here)
    recipe = CHECKOUT / "recipes" / f"{objective}.yaml"
    if not s.script and not (CHECKOUT / "trainer" / f"{objective}.py").is_file():
        there = (path.stem for path in (CHECKOUT / "recipes").glob("*.yaml"))
        raise ConfigError(
            "--objective", found=objective, expected=" or ".join(sorted(there)), remedy="correct it"
        )
    taken = {**form.settings, **own}
    return form, replace(
        s,
        zero=form.zero,
        recipe=s.recipe if "recipe" in s.given else recipe,
        set={**form.flags, **s.set},
        env_set={**form.environ, **s.env_set},
        model=taken.get("model"),
        data=taken.get("data"),
        output=taken.get("output"),
    )


def read_environment(s: Settings) -> tuple[str, str]:
    """The interpreter that trains here, and its accelerator; ConfigError where there is none."""
    home = Path.home()
    python = Path(s.python).expanduser() if s.python else home / _COMPLETE.parent / "bin/python"
    if not os.access(python, os.X_OK):
        raise ConfigError(
            "--python" if s.python else "environment",
            found=f"no interpreter {python}",
            expected="a Python here that has torch and DeepSpeed",
            remedy="deploy one (invoke deploy), or name yours with --python",
        )
    if s.accelerator:
        return str(python.absolute()), s.accelerator
    if s.python or not (home / _COMPLETE).is_file():
        raise ConfigError(
            "--accelerator", found="nothing", expected="cuda or cpu", remedy="say which"
        )
    proved = json.loads((home / _COMPLETE).read_text(encoding="utf-8"))
    return str(python.absolute()), str(proved["accelerator"])


def make_node_spec(
    s: Settings, form: NodeForm, program: Program, facts: Mapping[str, Any], python: str, on: str
) -> RunSpec:
    """The whole run as this node knows it: every node like this one. ``on``: the accelerator."""
    hosts = tuple(
        RunHost(
            name=facts["hostname"] if rank == form.node_rank else f"node_rank {rank}",
            slots=form.nproc_per_node,
            home=str(Path.home()),
            nproc_per_node=form.nproc_per_node,
            socket_interface=facts["interface"] if form.nnodes > 1 else None,
            cores=facts["cores"],
        )
        for rank in range(form.nnodes)
    )
    common: dict[str, Any] = {
        "run": read_new_run_id(program),
        "hosts": hosts,
        "master_addr": form.master_addr,
        "master_port": form.master_port,
        "output": s.output,
        "python": python,
        "accelerator": on,
        "launcher": s.launcher,
        "environ": program.environ,
        "by_hand": form.node_rank,
    }
    spec = spec_of(
        program,
        common,
        zero=form.zero,
        offload=s.offload,
        model=s.model or "",
        data=s.data or "",
        objective=s.recipe.stem if "recipe" not in s.given else program.objective,
        overrides=s.set,
    )
    return replace(spec, secret=facts["token"], start_within=START_WITHIN)


def read_node_plan(out: Answer, s: Settings) -> LaunchPlan:
    """What this node is to run."""
    form, s = read_form(s)
    for notice in form.notices:
        out.say(f"note: {notice}")
    program = read_program(s, CHECKOUT, sys.argv)
    python, accelerator = read_environment(s)
    found = read_here([form.master_addr])
    facts = {
        "interface": found.route(form.master_addr).get("interface"),
        "cores": found["cpu.cores"].value,
        "hostname": found["hostname"].value or f"node_rank {form.node_rank}",
        "token": os.environ.get("RUN_TOKEN", ""),
    }
    spec = make_node_spec(s, form, program, facts, python, accelerator)
    return plan_launch(spec, program.code, script_argv)
