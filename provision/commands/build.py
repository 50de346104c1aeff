"""The steps of a build: for which hosts, here or on a host, and what is wrong before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from invoke.context import Context

from provision.build.apply import apply_build
from provision.build.cache import cache_dir
from provision.build.compare import compare_toolchain, without_missing
from provision.build.make_extra import apply_extras
from provision.build.on import Builder, apply_on, plan_on, read_cargo
from provision.build.plan import plan_build
from provision.build.spec import BuildSpec
from provision.build.state import read_state
from provision.build.toolchain import read_toolchain
from provision.build.with_source import ExtraSource, plan_extras, with_extras
from provision.commands.connect import connected_fleet, gather_all
from provision.hosts.facts import HostFacts
from provision.hosts.fit import Wanted, compare_wanted, require_python
from provision.hosts.here import read_here
from provision.hosts.targets import Targets, compare_hosts, make_targets
from provision.inventory import parse_inventory
from provision.settings import CHECKOUT, Settings
from provision.show import Answer
from provision.wheel.extra import ExtraWheel, read_extras
from provision.wheel.manifest import WheelManifest

Sources = tuple[ExtraSource, ...]
Built = tuple[WheelManifest, tuple[ExtraWheel, ...]]


def gather_targets(out: Answer, s: Settings) -> Targets | None:
    """The hosts that a build is for; None unless --hosts was given on this command line."""
    if "hosts" not in s.given:
        return None
    with connected_fleet(s) as fleet:
        facts = gather_all(out, fleet)
    out.require(compare_hosts(facts, s.accelerator))
    targets = make_targets(facts, s.accelerator)
    out.say(f"for {targets}")
    return targets


def _require_fit(
    out: Answer, spec: BuildSpec, targets: Targets | None, tag: str, builder: HostFacts | None
) -> None:
    """End the command here if what is about to be built does not fit the hosts it is for."""
    if targets is not None:
        wanted = Wanted(
            accelerator=spec.accelerator,
            archs=spec.archs,
            cpu=spec.cpu.name,
            python_tag=tag,
            ops=spec.op_names,
        )
        out.require(compare_wanted(targets, wanted, builder or read_here()))


def apply_here(out: Answer, spec: BuildSpec, targets: Targets | None, sources: Sources) -> Built:
    """The wheel, built on this machine, and the extra ones."""
    cache = cache_dir(os.environ)
    toolchain = read_toolchain(Context(), spec, cache)
    spec = without_missing(spec, toolchain)
    out.require(compare_toolchain(spec, toolchain))
    plan = plan_build(spec, toolchain, read_state(spec, toolchain, cache))
    _require_fit(out, spec, targets, plan.python.tag, None)
    extras = plan_extras(plan, sources, read_extras(spec.out) if sources else ())
    out.plan(with_extras(plan.steps, extras))
    return apply_build(plan, out.say), apply_extras(plan, extras, out.say)


def apply_there(
    out: Answer,
    s: Settings,
    spec: BuildSpec,
    targets: Targets | None,
    flags: Mapping[str, Any],
    sources: Sources,
) -> Built:
    """The wheel, built on the one host that --on names, and the extra ones."""
    with connected_fleet(s, parse_inventory(s.on or "", "--on")) as fleet:
        (facts,) = gather_all(out, fleet).values()
        python = require_python(targets, facts, s.python)
        _require_fit(out, spec, targets, python.tag, facts)
        builder = Builder(
            host=facts.host,
            home=facts.home,
            python=python.path,
            tag=python.tag,
            store=frozenset(facts["store"].value or ()),
        )
        cargo = read_cargo(CHECKOUT, s.source, tuple(one.folder or one.path for one in sources))
        plan = plan_on(builder, {**flags, "python": None}, cargo)
        out.plan(plan.steps)
        built = apply_on(fleet, plan, s.wheels, out.say)
    out.require(built.report)
    assert built.manifest is not None  # its report failed otherwise
    return built.manifest, built.extras
