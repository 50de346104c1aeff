"""What each host still lacks of an environment, as a plan. Pure; empty when nothing differs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from provision.deploy.spec import EnvSpec
from provision.deploy.switch import DEPLOY, SWITCH, use_step
from provision.deploy.wheelhouse import Package, Wheelhouse
from provision.hosts.facts import HostFacts
from provision.hosts.machines import home_owners
from provision.script import script_argv
from provision.steps import Phase, Plan, Put, Run, Step
from provision.wheel.extra import ExtraWheel
from provision.wheel.manifest import WheelManifest

#: What a run imports first. Proving imports it on the host, which also writes its bytecode there:
#: that of all 13,000 files takes ten times as long as unpacking them.
IMPORTS = ("transformers.trainer", "peft", "datasets", "trl.trainer.sft_trainer")
#: In place of a host's name: the controller.
HERE = "this machine"


def plan_deploy(
    spec: EnvSpec, hosts: Mapping[str, HostFacts], house: Wheelhouse | None = None
) -> Plan:
    """Push → install → prove → switch. A host's ``current`` changes only when all are proved.

    With a wheelhouse every package is pushed, and hosts download nothing; what it still misses is
    the first phase. Hosts must fit the wheel (parity): one without a fitting Python is not planned
    for. Hosts that share a home get one environment: the first of them makes it, all prove it, and
    it counts as proved only after the others did.
    """
    owners = home_owners(hosts)
    lacking = {host: facts for host, facts in hosts.items() if not has_environment(spec, facts)}
    made = {host: facts for host, facts in lacking.items() if owners[host] == host}
    guests = {host: facts for host, facts in lacking.items() if host not in made}
    stale = [h for h, facts in hosts.items() if owners[h] == h and not is_current(spec, facts)]
    phases = (
        Phase(name="download", steps=_download(house) if house and lacking else ()),
        Phase(
            name="push",
            steps=tuple(s for h, facts in made.items() for s in _push(spec, h, facts, house)),
        ),
        Phase(
            name="install",
            steps=tuple(_install(spec, h, facts, house) for h, facts in made.items()),
        ),
        Phase(
            name="prove where the home is another host's",
            steps=tuple(_prove(spec, h, facts, record=False) for h, facts in guests.items()),
        ),
        Phase(name="prove", steps=tuple(_prove(spec, h, facts) for h, facts in made.items())),
        Phase(name=SWITCH, steps=tuple(_switch(spec, h, house, made=h in made) for h in stale)),
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


def _download(house: Wheelhouse) -> tuple[Step, ...]:
    """What is to be downloaded here first; ``apply_fetch`` does it."""
    names = [*map(str, house.missing), *(["uv"] if house.uv_missing else [])]
    if not names:
        return ()
    do = Run(argv=(), title=f"download {', '.join(names)} for {house.platform}")
    return (Step(host=HERE, do=do, why="to be pushed to every host that lacks them"),)


def _push(spec: EnvSpec, host: str, facts: HostFacts, house: Wheelhouse | None) -> tuple[Step, ...]:
    """Only what the host's store lacks; a name is there only after its sha256 was verified."""
    held = set(facts["store"].value or ())
    return tuple(
        Step(host=host, do=put, why=why)
        for put, why in _wanted(spec, house)
        if put.target.removeprefix(".zerofleet/store/") not in held
    )


def _wanted(spec: EnvSpec, house: Wheelhouse | None) -> list[tuple[Put, str]]:
    """Every file of the environment as it lies in a host's store, and why it has to."""
    wheels = [
        Put(
            target=_wheel_target(one),
            sha256=one.sha256,
            size=one.size,
            source=spec.wheel.with_name(one.wheel),
        )
        for one in spec.wheels
    ]
    wanted = [(wheel, "the host lacks this wheel") for wheel in wheels]
    if house is not None:
        locked = [(one, "the host lacks this package") for one in house.packages]
        locked += [(house.uv, "it makes environments on hosts")] if house.uv else []
        return wanted + [(_package_put(package), why) for package, why in locked]
    text = spec.requirements.encode()
    requirements = Put(
        target=_requirements_target(spec),
        sha256=spec.requirements_sha256,
        size=len(text),
        content=text,
    )
    return [*wanted, (requirements, "the host lacks this lock")]


def _package_put(package: Package) -> Put:
    target = f".zerofleet/store/{package.sha256}/{package.wheel}"
    return Put(target=target, sha256=package.sha256, size=package.size, source=package.path)


def _install(spec: EnvSpec, host: str, facts: HostFacts, house: Wheelhouse | None) -> Step:
    python = facts.python_for(spec.manifest.python_tag)
    if python is None:
        raise ValueError(f"{host} has no Python for {spec.manifest.python_tag}")
    wheels = [[_wheel_target(one), one.sha256] for one in spec.wheels]
    args: dict[str, object] = {"name": spec.name, "python": python.path, "wheels": wheels}
    if house is None:
        args["requirements"] = _requirements_target(spec)
        args["requirements_sha256"] = spec.requirements_sha256
        how = f"{spec.requirements.count('==')} packages from the host's own index"
    else:
        puts = [_package_put(package) for package in house.packages]
        args["wheels"] = wheels + [[put.target, put.sha256] for put in puts]
        # A plan that downloads first is shown, then made anew: it is never applied without uv.
        args["uv"] = [_package_put(house.uv).target, house.uv.sha256] if house.uv else None
        how = f"{len(puts) + len(house.missing)} packages of its store"
    if spec.over:
        args["sites"] = facts["existing"].value["sites"]
        how = "the wheel, over its packages"
    title = f"make ~/.zerofleet/envs/{spec.name} with {python.path}: {how}"
    title = ", ".join([title, *map(str, spec.extras)])
    do = Run(argv=script_argv("install", ["create", json.dumps(args)]), title=title)
    return Step(host=host, do=do, why="make the environment")


def _prove(spec: EnvSpec, host: str, facts: HostFacts, *, record: bool = True) -> Step:
    python = f"{env_path(spec, facts)}/bin/python"
    title = f"load {', '.join(spec.manifest.ops)} with JIT off, torch {spec.manifest.torch}"
    locked = spec.versions
    imports = [name for name in IMPORTS if name.partition(".")[0] in locked]
    held: dict[str, object] = {"versions": locked, "imports": imports}
    if spec.over:
        own = facts["existing"].value
        held = {"base": own["path"], "sites": own["sites"]}
    asked = json.dumps({**spec.proof, **held, "record": record})
    do = Run(argv=script_argv("prove", [asked], python), title=title)
    return Step(host=host, do=do, why="prove that every op of the wheel loads on this host")


def _switch(spec: EnvSpec, host: str, house: Wheelhouse | None, *, made: bool) -> Step:
    why = "put the environment to use, now that all hosts have it"
    # What it was made from, for `invoke clean`; said when it is made.
    stored = [put.sha256 for put, _ in _wanted(spec, house)] if made else None
    return use_step(host, spec.name, DEPLOY, why, stored)


def deployed(
    spec: EnvSpec, plan: Plan, hosts: Mapping[str, HostFacts]
) -> dict[str, dict[str, object]]:
    """What applying the plan did to each host: the ``hosts`` key of ``deploy --json``."""
    steps = [step for phase in plan.phases for step in phase.steps]
    owners = home_owners(hosts)
    return {
        host: {
            "changed": any(step.host in (host, owners[host]) for step in steps),
            "bytes_sent": sum(
                step.do.size for step in steps if step.host == host and isinstance(step.do, Put)
            ),
            "env": env_path(spec, facts),
        }
        for host, facts in hosts.items()
    }
