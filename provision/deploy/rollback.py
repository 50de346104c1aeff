"""Back to an environment that is still on every host: on all of them, or on none. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provision.deploy.envs import HostEnvs
from provision.deploy.switch import ROLLBACK, SWITCH, use_step
from provision.findings import Finding, Level, Report
from provision.steps import Phase, Plan

_SUBJECT = "rollback"


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
            findings.append(_finding(host, f"environments {has}", f"one that begins with {to}"))
        elif name is None:
            used = f"no environment that was in use before {here.current or 'the first'}"
            findings.append(_finding(host, used, f"one; there are: {has}"))
        elif name not in there:
            findings.append(_finding(host, f"{name} removed", f"it; there are: {has}"))
        elif len(agreed) > 1:
            findings.append(_finding(host, f"{name} in use before", "the same on every host"))
    return Report(findings=tuple(findings))


def _finding(host: str, found: str, expected: str) -> Finding:
    return Finding(
        host=host,
        subject=_SUBJECT,
        level=Level.ERROR,
        found=found,
        expected=expected,
        remedy="name one that every host has (invoke rollback --to NAME, invoke envs lists them)",
    )


def plan_rollback(found: Mapping[str, HostEnvs], chosen: Mapping[str, str | None]) -> Plan:
    """One step for each host that uses another."""
    steps = tuple(
        use_step(host, name, ROLLBACK, f"in place of {found[host].current or 'none'}")
        for host, name in chosen.items()
        if name is not None and name != found[host].current
    )
    phases = (Phase(name=SWITCH, steps=steps),) if steps else ()
    return Plan(title="rollback", phases=phases)
