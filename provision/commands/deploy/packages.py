"""The packages of a deploy: where they come from, which are here, and the room for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from provision.commands.deploy.package_lock import read_lock_path
from provision.deploy.plan import has_environment, plan_deploy
from provision.deploy.spec import EnvSpec, make_existing_spec, read_env_spec
from provision.errors import ConfigError, ProvisionError
from provision.findings import Report
from provision.inventory import read_inventory
from provision.places import cache_home
from provision.setting_table import EXISTING, INDEX, WHEELHOUSE
from provision.settings import Settings
from provision.show import Answer
from provision.steps import Put
from provision.wheel.extra import read_extras
from provision.wheel.manifest import WheelManifest, read_wheel

# Where no host lacks anything, none of what brings it is needed.
if TYPE_CHECKING:
    from provision.deploy.wheelhouse import Wheelhouse
    from provision.fleet import Fleet
    from provision.hosts.facts import HostFacts


def wheelhouse_dir() -> Path:
    """Where wheels for hosts are kept: beside the build cache."""
    return cache_home(os.environ) / "wheelhouse"


def read_spec(s: Settings, manifest: WheelManifest | None = None) -> EnvSpec:
    """The environment that every host is to have, with the wheel of the settings or this one.

    Raises ConfigError for a source that does not exist.
    """
    if s.env_source not in (WHEELHOUSE, INDEX, EXISTING):
        raise ConfigError(
            "--env-source",
            found=repr(s.env_source),
            expected=f"{WHEELHOUSE}, {INDEX} or {EXISTING}",
            remedy="invoke --help deploy says what each is",
        )
    manifest = manifest or read_wheel(s.wheels, s.wheel)
    if s.env_source != EXISTING:
        return read_env_spec(read_lock_path(s), s.wheels, manifest)
    from provision.deploy.existing import pythons_of

    over = pythons_of(read_inventory(s.hosts), s.env_python).values()
    return make_existing_spec(manifest, s.wheels / manifest.wheel, read_extras(s.wheels), over)


def gather_own(
    out: Answer, s: Settings, fleet: Fleet, spec: EnvSpec, facts: Mapping[str, HostFacts]
) -> tuple[Mapping[str, HostFacts], Report]:
    """Facts with each host's own Python, where that is what the environment lies over; and
    whether they fit the wheels.
    """
    if not spec.over or not facts:
        return facts, Report()
    from provision.deploy.existing import (
        compare_existing,
        gather_existing,
        pythons_of,
        with_existing,
    )
    from provision.deploy.resolve import read_given
    from provision.fleet import error_report

    pythons = pythons_of(fleet.inventory, s.env_python)
    answers = gather_existing(fleet, pythons, tuple(facts), out.say)
    looks = {host: a for host, a in answers.items() if not isinstance(a, ProvisionError)}
    given = read_given(spec.manifest, s.wheels, spec.extras)
    fits = compare_existing(spec.manifest, given, looks)
    report = Report(findings=(*error_report(answers).findings, *fits.findings))
    return {h: with_existing(f, looks[h]) if h in looks else f for h, f in facts.items()}, report


def gather_anew(
    out: Answer, fleet: Fleet, spec: EnvSpec, hosts: Mapping[str, HostFacts]
) -> tuple[Report, list[str]]:
    """Whether nothing uses the environment on these hosts; and those that have it, or half of it,
    one for each home.
    """
    from provision.deploy.anew import judge_anew
    from provision.deploy.envs import HostEnvs, by_home, gather_envs
    from provision.fleet import error_report

    if not hosts:
        return Report(), []
    answers = gather_envs(fleet, out.say, tuple(hosts))
    found = {host: here for host, here in answers.items() if isinstance(here, HostEnvs)}
    findings = (*error_report(answers).findings, *judge_anew(found, spec.name).findings)
    having = [h for h, here in by_home(found).items() if spec.name in here.names()]
    return Report(findings=findings), having


def read_house(s: Settings, spec: EnvSpec, hosts: Mapping[str, HostFacts]) -> Wheelhouse | None:
    """What is here for the hosts that lack an environment; None where they download themselves."""
    lacking = {host: facts for host, facts in hosts.items() if not has_environment(spec, facts)}
    if s.env_source == INDEX or not lacking:
        return None
    from provision.deploy.platform import oldest
    from provision.deploy.wheelhouse import read_wheelhouse

    platform = oldest(lacking, spec.manifest.python_tag)
    return read_wheelhouse(wheelhouse_dir(), spec.requirements, platform)


def read_verdict(spec: EnvSpec, hosts: Mapping[str, HostFacts], house: Wheelhouse | None) -> Report:
    """Whether the hosts that lack the environment can take it."""
    from provision.deploy.verdict import Needs, compare_deploy

    lacking = {host: facts for host, facts in hosts.items() if not has_environment(spec, facts)}
    needs = None
    if house is not None and lacking:
        steps = [step for p in plan_deploy(spec, lacking, house).phases for step in p.steps]
        push = dict.fromkeys(lacking, 0)
        for step in steps:
            if isinstance(step.do, Put):
                push[step.host] += step.do.size
        sizes = [package.read_unpacked() for package in house.packages]
        unpacked, files = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        needs = Needs(push=push, unpacked=unpacked, files=files)
    return compare_deploy(lacking, house, spec.manifest.python_tag, needs)


def apply_house(out: Answer, house: Wheelhouse | None) -> None:
    """Have here what hosts are to get."""
    if house is not None:
        from provision.deploy.fetch import apply_fetch

        apply_fetch(wheelhouse_dir(), house, out.say)


def require_whole(house: Wheelhouse | None) -> None:
    """Raise ConfigError if something is not here although it was just downloaded."""
    if house is not None and (house.missing or house.uv_missing):
        names = ", ".join(map(str, house.missing)) or "uv"
        raise ConfigError(
            f"wheels in {wheelhouse_dir()}",
            found=f"none of {names} that fits",
            expected=f"one for {house.platform}",
            remedy="did another command remove it? Run this one again",
        )


def read_wheel_and_lock(out: Answer, s: Settings) -> tuple[WheelManifest | None, str | None]:
    """The wheel that hosts are held against, and its environment's name; None twice if none."""
    from provision.commands.deploy.packages import read_spec
    from provision.wheel.manifest import read_wheel, read_wheels

    manifest = read_wheel(s.wheels, s.wheel) if s.wheel or read_wheels(s.wheels) else None
    out.say(f"wheel: {manifest or f'none in {s.wheels}: hosts against each other only'}")
    return manifest, read_spec(s, manifest).name if manifest else None
