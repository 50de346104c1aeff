"""Back to an environment that is still on every host: on all of them, or on none. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provision.deploy.envs import HostEnvs, by_home
from provision.deploy.switch import ROLLBACK, SWITCH, use_step
from provision.findings import Judge, Report
from provision.steps import Phase, Plan

_SUBJECT = "rollback"
_REMEDY = "name one that every host has (invoke rollback --to NAME, invoke envs lists them)"


def targets(found: Mapping[str, HostEnvs], to: str | None) -> dict[str, str | None]:
    """Where each host goes: the environment whose name begins so, or the one used before."""
    if to is None:
        return {host: here.before() for host, here in found.items()}
    chosen: dict[str, str | None] = {}
    for host, here in found.items():
        named = [name for name in here.complete() if name.startswith(to)]
        chosen[host] = named[0] if len(named) == 1 else None
    return chosen


def judge_rollback(
    found: Mapping[str, HostEnvs], chosen: Mapping[str, str | None], to: str | None
) -> Report:
    """Whether every host can go to the same environment."""
    agreed = sorted({name for name in chosen.values() if name})
    findings = []
    for host, here in found.items():
        name, there = chosen[host], here.complete()
        has = ", ".join(there) or "none"
        if to is not None and name is None:
            found_, expected = f"environments {has}", f"one that begins with {to}"
        elif name is None:
            found_ = f"no environment that was in use before {here.current or 'the first'}"
            expected = f"one; there are: {has}"
        elif name not in there:
            found_, expected = f"{name} removed", f"that one; there are: {has}"
        elif len(agreed) > 1:
            found_, expected = f"{name} in use before", "the same on every host"
        else:
            continue
        findings.append(Judge(host=host).error(_SUBJECT, found_, expected, _REMEDY))
    return Report(findings=tuple(findings))


def plan_rollback(found: Mapping[str, HostEnvs], chosen: Mapping[str, str | None]) -> Plan:
    """One step for each home in which another is in use."""
    steps = tuple(
        use_step(host, name, ROLLBACK, f"in place of {here.current or 'none'}")
        for host, here in by_home(found).items()
        if (name := chosen[host]) is not None and name != here.current
    )
    phases = (Phase(name=SWITCH, steps=steps),) if steps else ()
    return Plan(title="rollback", phases=phases)
