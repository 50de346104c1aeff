"""Judge how fast each host's CPU does a fixed piece of work, beside the others'. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.findings import Finding, Judge, Level

#: All ranks wait for the slowest.
_WARN, _ERROR = 2.0, 4.0


def slowness(answers: Mapping[str, Any]) -> dict[str, float]:
    """How many times as long as the usual host each takes; {} for fewer than two hosts.

    ``answers``: onhost/ready.py's by host; an error in an answer's place is left out.
    """
    known = {host: a for host, a in answers.items() if isinstance(a, Mapping)}
    times = {host: float(a["cpu_seconds"]) for host, a in known.items() if a.get("cpu_seconds")}
    if len(times) < 2:
        return {}
    usual = sorted(times.values())[(len(times) - 1) // 2]
    return {host: seconds / usual for host, seconds in times.items()}


def suspects(answers: Mapping[str, Any]) -> tuple[str, ...]:
    """The hosts that seem slow: whether they are, a second measurement shows.

    A core's other hyperthread, or a neighbour on the same machine, doubles the time of work that
    is measured once, for a moment.
    """
    return tuple(host for host, ratio in slowness(answers).items() if ratio >= _WARN)


def speed_findings(answers: Mapping[str, Any]) -> list[Finding]:
    """One finding a host; what is ok is said too."""
    findings = []
    for host, ratio in slowness(answers).items():
        level = Level.ERROR if ratio >= _ERROR else Level.WARN if ratio >= _WARN else Level.OK
        remedy = "throttled, or busy? top, and cpupower frequency-info, there"
        found = f"{ratio:.1f} times as long as others for the same work"
        expected = f"less than {_WARN:.0f} times: all wait for the slowest"
        text = expected if level is Level.OK else found
        findings.append(Judge(host=host)("cpu speed", level, text, expected, remedy))
    return findings
