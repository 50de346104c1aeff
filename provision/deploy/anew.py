"""An environment that is there is made anew: it was damaged, or is trusted no more. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace

from provision.deploy.envs import HostEnvs
from provision.findings import Judge, Report
from provision.hosts.facts import Fact, HostFacts
from provision.script import script_argv
from provision.steps import Phase, Plan, Run, Step

#: What a host has of it is removed once all that it is made from is there, and no sooner.
_BEFORE = "install"


def lacking(facts: HostFacts, name: str) -> HostFacts:
    """The facts of a host as if it did not have that environment."""
    there = facts["environments"]
    if not isinstance(there.value, list | tuple):
        return facts
    left = Fact(value=[each for each in there.value if each != name])
    return replace(facts, facts={**facts.facts, "environments": left})


def judge_anew(found: Mapping[str, HostEnvs], name: str) -> Report:
    """An error for each host where something uses it."""
    return Report(
        findings=tuple(
            Judge(host=host).error(
                f"envs/{name}",
                f"in use by {', '.join(env.used_by)}",
                "nothing that uses what is to be removed",
                "stop it first, or wait for its end",
            )
            for host, here in found.items()
            for env in here.environments
            if env.name == name and env.used_by
        )
    )


def with_removal(plan: Plan, hosts: Collection[str], name: str) -> Plan:
    """A plan that makes it, with the step before that on hosts that have it, or half of it."""
    argv = script_argv("envs", ["anew", json.dumps({"name": name})])
    do = Run(argv=argv, title=f"remove ~/.zerofleet/envs/{name}")
    steps = tuple(Step(host=host, do=do, why="make it anew") for host in hosts)
    phases: list[Phase] = []
    for phase in plan.phases:
        if phase.name == _BEFORE and steps:
            phases.append(Phase(name="remove", steps=steps))
        phases.append(phase)
    return replace(plan, phases=tuple(phases))
