"""What each host still lacks of an environment, as a plan. Pure; empty when nothing differs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from provision.deploy.spec import EnvSpec
from provision.deploy.switch import DEPLOY, SWITCH, use_step
from provision.hosts.facts import HostFacts
from provision.script import script_argv
from provision.steps import Phase, Plan, Put, Run, Step
from provision.wheel.extra import ExtraWheel
from provision.wheel.manifest import WheelManifest


def plan_deploy(spec: EnvSpec, hosts: Mapping[str, HostFacts]) -> Plan:
    """Push → install → prove → switch. A host's ``current`` changes only when all are proved.

    Hosts must fit the wheel (parity): a host without a fitting Python is not planned for.
    """
    lacking = {host: facts for host, facts in hosts.items() if not has_environment(spec, facts)}
    stale = {host: facts for host, facts in hosts.items() if not is_current(spec, facts)}
    phases = (
        Phase(
            name="push",
            steps=tuple(step for h, facts in lacking.items() for step in _push(spec, h, facts)),
        ),
        Phase(
            name="install", steps=tuple(_install(spec, h, facts) for h, facts in lacking.items())
        ),
        Phase(name="prove", steps=tuple(_prove(spec, h, facts) for h, facts in lacking.items())),
        Phase(name=SWITCH, steps=tuple(_switch(spec, host) for host in stale)),
    )
    return Plan(
        title=f"deploy environment {spec.name} ({spec})",
        phases=tuple(phase for phase in phases if phase.steps),
    )


def has_environment(spec: EnvSpec, facts: HostFacts) -> bool:
    """Whether the host holds the complete environment, in use or not."""
    return spec.name in (facts["environments"].value or ())


def is_current(spec: EnvSpec, facts: HostFacts) -> bool:
    """Whether the environment is the one in use on the host."""
    return has_environment(spec, facts) and facts.environment.get("lock") == spec.name


def env_path(spec: EnvSpec, facts: HostFacts) -> str:
    """Absolute path of the environment on the host."""
    return f"{facts.home}/.zerofleet/envs/{spec.name}"


def _wheel_target(wheel: WheelManifest | ExtraWheel) -> str:
    return f".zerofleet/store/{wheel.sha256}/{wheel.wheel}"


def _requirements_target(spec: EnvSpec) -> str:
    return f".zerofleet/store/{spec.requirements_sha256}/requirements.txt"


def _push(spec: EnvSpec, host: str, facts: HostFacts) -> list[Step]:
    """Only what the host's store lacks; a name is there only after its sha256 was verified."""
    text = spec.requirements.encode()
    wheels = [
        Put(
            target=_wheel_target(one),
            sha256=one.sha256,
            size=one.size,
            source=spec.wheel.with_name(one.wheel),
        )
        for one in spec.wheels
    ]
    requirements = Put(
        target=_requirements_target(spec),
        sha256=spec.requirements_sha256,
        size=len(text),
        content=text,
    )
    held = set(facts["store"].value or ())
    wanted = [(wheel, "the host lacks this wheel") for wheel in wheels]
    wanted.append((requirements, "the host lacks this lock"))
    return [
        Step(host=host, do=put, why=why)
        for put, why in wanted
        if put.target.removeprefix(".zerofleet/store/") not in held
    ]


def _install(spec: EnvSpec, host: str, facts: HostFacts) -> Step:
    python = facts.python_for(spec.manifest.python_tag)
    if python is None:
        raise ValueError(f"{host} has no Python for {spec.manifest.python_tag}")
    args = {
        "name": spec.name,
        "python": python.path,
        "wheels": [[_wheel_target(one), one.sha256] for one in spec.wheels],
        "requirements": _requirements_target(spec),
        "requirements_sha256": spec.requirements_sha256,
    }
    packages = spec.requirements.count("==")
    title = f"make ~/.zerofleet/envs/{spec.name} with {python.path}: {packages} locked packages"
    title = ", ".join([title, *map(str, spec.extras)])
    do = Run(argv=script_argv("install", ["create", json.dumps(args)]), title=title)
    return Step(host=host, do=do, why="make the environment")


def _prove(spec: EnvSpec, host: str, facts: HostFacts) -> Step:
    python = f"{env_path(spec, facts)}/bin/python"
    title = f"load {', '.join(spec.manifest.ops)} with JIT off, torch {spec.manifest.torch}"
    do = Run(argv=script_argv("prove", [json.dumps(spec.proof)], python), title=title)
    return Step(host=host, do=do, why="prove that every op of the wheel loads on this host")


def _switch(spec: EnvSpec, host: str) -> Step:
    why = "put the environment to use, now that all hosts have it"
    stored = [spec.requirements_sha256, *(one.sha256 for one in spec.wheels)]
    return use_step(host, spec.name, DEPLOY, why, stored)


def deployed(
    spec: EnvSpec, plan: Plan, hosts: Mapping[str, HostFacts]
) -> dict[str, dict[str, object]]:
    """What applying the plan did to each host: the ``hosts`` key of ``deploy --json``."""
    steps = [step for phase in plan.phases for step in phase.steps]
    return {
        host: {
            "changed": any(step.host == host for step in steps),
            "bytes_sent": sum(
                step.do.size for step in steps if step.host == host and isinstance(step.do, Put)
            ),
            "env": env_path(spec, facts),
        }
        for host, facts in hosts.items()
    }
