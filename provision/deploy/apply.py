"""Carry out a deploy: phase after phase, and a switch on all hosts or on none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from provision.deploy.switch import SWITCH, plan_back
from provision.errors import UNREACHABLE, HostError, ProvisionError, UnreachableError
from provision.findings import merged_errors
from provision.fleet import Fleet
from provision.names import fold
from provision.session import Say
from provision.steps import Phase, Plan

ApplyPhase = Callable[[Phase, Say], dict[str, ProvisionError]]


@dataclass(frozen=True, kw_only=True)
class Deploying:
    """How a plan is carried out.

    ``before``: the environment that each host uses so far, None where it uses none. ``confirm``
    raises where a host is no longer ours to switch; it is told which have dropped out. ``fenced``:
    a phase that hosts refuse once they are another's. ``partial``: a host that fails is left out,
    and the others go on. ``ways``: phases that are carried out in a way of their own, by name.
    """

    before: Mapping[str, str | None]
    confirm: Callable[[Collection[str]], None]
    fenced: Callable[[Phase], Phase]
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
        phase = how.fenced(without_hosts(whole, failed))
        if not phase.steps:
            continue
        if phase.name == SWITCH:
            how.confirm(failed)
        try:
            errors = how.ways.get(phase.name, fleet.apply_phase)(phase, say)
        except KeyboardInterrupt:
            if phase.name == SWITCH:
                say(f"stopped while {fold(phase.hosts)} switched: they may differ now")
                say("run the command again: it brings all hosts to the same environment")
            raise
        failed.update(errors)
        if not errors or how.partial:
            continue
        first, *others = merged_errors(errors)
        for error in others:
            say(str(error))
        raise apply_back(fleet, phase, first, how, say) if phase.name == SWITCH else first
    return failed


def apply_back(
    fleet: Fleet, phase: Phase, first: ProvisionError, how: Deploying, say: Say
) -> ProvisionError:
    """Switch back the hosts that did switch, as others did not (``first``); the error to end with.

    A host that failed by its connection may have switched, or may yet: it is told too.
    """
    back = plan_back({host: how.before.get(host) for host in phase.hosts})
    stuck = fleet.apply_phase(how.fenced(back), say)
    for error in merged_errors(stuck):
        say(str(error))
    if not stuck:
        return first
    gone = any(error.exit_code == UNREACHABLE for error in stuck.values())
    return (UnreachableError if gone else HostError)(
        first.what,
        found=f"{first.found}; not known which environment {', '.join(stuck)} uses now",
        expected="every host switched, or none",
        remedy="when they answer again, run the command again: it brings all hosts to the same",
    )
