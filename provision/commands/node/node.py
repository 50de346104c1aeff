"""A person stands on each node, and starts its part of a run there: what ``invoke node`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from provision.errors import ConfigError
from provision.hosts.facts import Fact
from provision.hosts.here import read_here
from provision.launch.byhand import START_WITHIN
from provision.launch.environment import parse_own_shell
from provision.launch.manual import POSITIONS, NodeForm, local_paths, parse_node_form
from provision.launch.nodes import RUNS
from provision.launch.numa import Binding, choose_binding
from provision.launch.own_config import read_own_config, require_agreeing
from provision.launch.plan import LaunchPlan, plan_launch
from provision.launch.prepare import (
    Program,
    make_limits,
    read_new_run_id,
    read_program,
    with_program,
)
from provision.launch.recipe import parse_flags
from provision.launch.spec import RunHost, RunSpec, parse_run
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
            "--objective",
            found=objective,
            expected=" or ".join(sorted(there)),
            remedy="name one of them, or give a script of your own with --script",
        )
    taken = {**form.settings, **own}
    return form, replace(
        s,
        zero=s.zero if s.deepspeed else form.zero,
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
            "--accelerator", found="nothing", expected="cuda or cpu", remedy="name one of them"
        )
    proved = json.loads((home / _COMPLETE).read_text(encoding="utf-8"))
    return str(python.absolute()), str(proved["accelerator"])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What was found out on this node. ``cores`` and ``interface``: None where not known."""

    python: str
    accelerator: str
    hostname: str
    cores: int | None
    interface: str | None
    numa: Binding
    token: str


def read_standing(s: Settings, form: NodeForm) -> Standing:
    """What a run has to know of this node; ConfigError for what is asked of it and can't be had."""
    python, accelerator = read_environment(s)
    found = read_here([form.master_addr])
    if s.python:  # what is noted down of torch is of another environment
        torch = Fact(value={"torch": read_torch(python)})
        found = replace(found, facts={**found.facts, "environment": torch})
    return Standing(
        python=python,
        accelerator=accelerator,
        hostname=found["hostname"].value or f"node_rank {form.node_rank}",
        cores=found["cpu.cores"].value,
        interface=found.route(form.master_addr).get("interface"),
        numa=choose_binding(s.numa_binding, found, accelerator, s.launcher),
        token=os.environ.get("RUN_TOKEN", ""),
    )


def read_torch(python: str) -> str | None:
    """The release of torch that an interpreter has, None without one; torch is not imported."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def make_node_spec(s: Settings, form: NodeForm, program: Program, standing: Standing) -> RunSpec:
    """The whole run as this node knows it: every node like this one."""
    limits = make_limits(s)
    hosts = tuple(
        RunHost(
            name=standing.hostname if rank == form.node_rank else f"node_rank {rank}",
            slots=form.nproc_per_node,
            home=str(Path.home()),
            nproc_per_node=form.nproc_per_node,
            socket_interface=standing.interface if form.nnodes > 1 else None,
            cores=standing.cores,
            numa=standing.numa,
        )
        for rank in range(form.nnodes)
    )
    base = parse_run(
        run=form.run or read_new_run_id(program),
        hosts=hosts,
        master_addr=form.master_addr,
        master_port=form.master_port,
        output=s.output,
        python=standing.python,
        accelerator=standing.accelerator,
        launcher=s.launcher,
        environ=program.environ,
        limits=limits if "start_within" in s.given else replace(limits, start_within=START_WITHIN),
        by_hand=form.node_rank,
    )
    spec = with_program(
        base,
        program,
        zero=form.zero,
        offload=s.offload,
        model=s.model or "",
        data=s.data or "",
        overrides=s.set,
        objective=s.recipe.stem if "recipe" not in s.given else None,
        own_config=s.deepspeed is not None,
    )
    return replace(spec, secret=standing.token)


def read_node_plan(out: Answer, s: Settings) -> LaunchPlan:
    """What this node is to run."""
    form, s = read_form(s)
    for notice in form.notices:
        out.say(f"note: {notice}")
    program = read_program(s, CHECKOUT, sys.argv)
    program = replace(program, environ=parse_own_shell(program.environ, os.environ))
    if s.deepspeed:
        flags = {**program.recipe, **parse_flags(s.set, "--set")}
        ranks = form.nnodes * form.nproc_per_node
        require_agreeing(s.deepspeed, read_own_config(s.deepspeed), flags, ranks)
    spec = make_node_spec(s, form, program, read_standing(s, form))
    if (Path.home() / RUNS / spec.run).exists():
        raise ConfigError(
            "RUN_ID",
            found=f"{spec.run}, of which there is a run here already",
            expected="one that is new, and the same on each node",
            remedy="choose another on all nodes, or unset it: each node's part then has its own",
        )
    return plan_launch(spec, program.code, script_argv)
