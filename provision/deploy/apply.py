"""Carry out a deploy: phase after phase, and a switch on all hosts or on none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from provision.deploy.switch import SWITCH, plan_back
from provision.errors import HostError, ProvisionError
from provision.fleet import Fleet
from provision.session import Say
from provision.steps import Phase, Plan

ApplyPhase = Callable[[Phase, Say], dict[str, ProvisionError]]


@dataclass(frozen=True, kw_only=True)
class Deploying:
    """How a plan is carried out.

    ``before``: the environment that each host uses so far, None where it uses none. ``confirm``
    raises where a host is no longer ours to switch; it is told which have dropped out. ``partial``:
    a host that fails is left out, and the others go on. ``ways``: phases that are carried out in a
    way of their own, by name.
    """

    before: Mapping[str, str | None]
    confirm: Callable[[Collection[str]], None]
    partial: bool = False
    ways: Mapping[str, ApplyPhase] = field(default_factory=dict)


def without_hosts(phase: Phase, hosts: Mapping[str, object]) -> Phase:
    """A phase without the steps of some hosts."""
    return Phase(name=phase.name, steps=tuple(s for s in phase.steps if s.host not in hosts))


def apply_deploy(fleet: Fleet, plan: Plan, how: Deploying, say: Say) -> dict[str, ProvisionError]:
    """Carry out a plan; the errors of hosts that were left out (``partial``).

    Without ``partial`` the first host's error is raised once all hosts came to the end of that
    phase; no host has then switched, or each that had was switched back.
    """
    failed: dict[str, ProvisionError] = {}
    for whole in plan.phases:
        phase = without_hosts(whole, failed)
        if not phase.steps:
            continue
        if phase.name == SWITCH:
            how.confirm(failed)
        errors = how.ways.get(phase.name, fleet.apply_phase)(phase, say)
        failed.update(errors)
        if not errors or how.partial:
            continue
        for error in list(errors.values())[1:]:
            say(str(error))
        first = next(iter(errors.values()))
        raise apply_back(fleet, phase, errors, how.before, say) if phase.name == SWITCH else first
    return failed


def apply_back(
    fleet: Fleet,
    phase: Phase,
    errors: Mapping[str, ProvisionError],
    before: Mapping[str, str | None],
    say: Say,
) -> ProvisionError:
    """Switch back the hosts that did switch, as others did not; the error to end with.

    A host that failed by its connection may have switched, or may yet: it is told too.
    """
    back = plan_back({host: before.get(host) for host in phase.hosts})
    stuck = fleet.apply_phase(back, say)
    for error in stuck.values():
        say(str(error))
    first = next(iter(errors.values()))
    if not stuck:
        return first
    return HostError(
        first.what,
        found=f"{first.found}; not known which environment {', '.join(stuck)} uses now",
        expected="every host switched, or none",
        remedy="when they answer again, run the command again: it brings all hosts to the same",
    )
