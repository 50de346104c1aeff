"""How a run ended and what was brought of it; that it ended so is told whatever fails here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.launch.collect import apply_collect
from provision.launch.failure import RunOutcome
from provision.launch.record import read_metrics
from provision.session import Say


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run's outcome and what was brought here of it.

    ``collected`` is the run's local folder, ``adapter`` the output in it. ``optimizer`` is the
    class that stepped, by the trainer's own word; None if training never began. ``missing``: what
    could not be brought, and why, by host.
    """

    outcome: RunOutcome
    interrupted: bool
    collected: Path
    adapter: Path
    optimizer: str | None
    missing: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [str(self.outcome), f"  results: {self.collected}"]
        if self.missing:
            rest = f"not all of {', '.join(self.missing)}: invoke collect {self.outcome.run}"
            lines.append(f"  {rest}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The keys that a run adds to ``--json``."""
        return {
            **self.outcome.as_json(),
            "collected": str(self.collected),
            "adapter": str(self.adapter),
            "optimizer": self.optimizer,
            "not_collected": dict(self.missing),
        }


def apply_results(
    fleet: Fleet,
    outcome: RunOutcome,
    run_dirs: Mapping[str, str],
    outputs: Mapping[str, str],
    runs: Path,
    say: Say,
    *,
    interrupted: bool = False,
    unreached: Mapping[str, str] | None = None,
) -> RunResult:
    """Collect a run that has ended below ``runs``, hosts in node_rank order.

    What can't be brought is said: how the run ended is told in any case. ``unreached``: why, for
    each host that nothing is asked of any more; it would not answer for as long as it may take.
    """
    folder, away = runs / outcome.run, unreached or {}
    reached = {host: run_dir for host, run_dir in run_dirs.items() if host not in away}
    missing: Mapping[str, str] = {}
    try:
        if reached:
            missing = apply_collect(fleet, reached, outputs, folder, say).missing
    except (ProvisionError, OSError) as error:
        say(f"not collected: {error}")
        missing = dict.fromkeys(reached, str(error))
    except KeyboardInterrupt:
        say(f"collecting was stopped by Ctrl-C: invoke collect {outcome.run} brings the rest")
        missing, interrupted = dict.fromkeys(reached, "stopped by Ctrl-C"), True
    return RunResult(
        outcome=outcome,
        missing={**missing, **away},
        interrupted=interrupted,
        collected=folder,
        adapter=folder / "output",
        optimizer=read_optimizer(folder / "hosts" / next(iter(run_dirs)) / "metrics.jsonl"),
    )


def read_optimizer(metrics: Path) -> str | None:
    """The optimizer class in the ``begin`` line of a run's metrics; None without one."""
    events = read_metrics(metrics)
    begin = next((event for event in events if event.get("event") == "begin"), None)
    return None if begin is None else str(begin["optimizer"])
