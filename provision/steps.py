"""Plans: what would be done on each host, in order, as values.

A planner returns a Plan; ``--dry-run`` prints that Plan; applying takes the very same Plan.
Phases run one after another: a phase starts only when every step of the one before succeeded on
every host.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run a command on a host. ``title`` is what a person reads in place of a long argv.

    ``order``: the same, as it is told to a script that is already there (onhost/standby.py).
    """

    argv: tuple[str, ...]
    title: str = ""
    order: Mapping[str, object] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        return self.title or shlex.join(self.argv)


@dataclass(frozen=True, kw_only=True)
class Put:
    """Write a file of ``size`` bytes to ``target`` on a host; ``sha256`` is checked there.

    ``target`` is relative to the remote HOME unless absolute. Either ``source`` (a local file) or
    ``content`` is given.
    """

    target: str
    sha256: str
    size: int
    source: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    mode: int = 0o644

    def __str__(self) -> str:
        name = self.source.name if self.source else "generated"
        return f"push {name} ({self.size:,} bytes, sha256 {self.sha256[:12]}…) to {self.target}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One action on one host, and why it is needed."""

    host: str
    do: Run | Put
    why: str

    @property
    def action(self) -> str:
        """The action in words."""
        return str(self.do)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps that may run side by side over hosts; on one host they run in order."""

    name: str
    steps: tuple[Step, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts this phase touches, in plan order."""
        return tuple(dict.fromkeys(step.host for step in self.steps))

    def of(self, host: str) -> tuple[Step, ...]:
        """This host's steps, in order."""
        return tuple(step for step in self.steps if step.host == host)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Ordered phases. Empty when there is nothing to do."""

    title: str
    phases: tuple[Phase, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not any(phase.steps for phase in self.phases)

    def __str__(self) -> str:
        if self.empty:
            return f"{self.title}: nothing to do"
        lines = [f"{self.title}:"]
        for phase in self.phases:
            lines.append(f"  {phase.name}")
            lines += [f"    {step.host}: {step.action}  # {step.why}" for step in phase.steps]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The ``plan`` key of ``--dry-run --json``: a stable contract, keys are only ever added."""
        return {
            "phases": [
                {
                    "name": phase.name,
                    "steps": [
                        {"host": step.host, "action": step.action, "why": step.why}
                        for step in phase.steps
                    ],
                }
                for phase in self.phases
            ]
        }
