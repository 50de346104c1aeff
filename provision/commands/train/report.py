"""The report of a run that has ended, and what is kept for it beside what its hosts sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provision.errors import ConfigError
from provision.fleet import Fleet
from provision.hosts.facts import HostFacts, gather_facts
from provision.hosts.summary import summarize
from provision.inventory import Inventory
from provision.launch.record import apply_kept, read_kept
from provision.launch.report import apply_report
from provision.launch.results import RunResult
from provision.launch.runs import KnownRun
from provision.show import Answer


def kept_facts(facts: Mapping[str, HostFacts]) -> dict[str, Any]:
    """What the hosts were, as a report shows it."""
    table = summarize(facts, wide=True)
    return {"facts": {"columns": table.columns, "rows": table.rows}}


def apply_reported(out: Answer, result: RunResult, kept: Mapping[str, Any]) -> None:
    """Keep what no host's files tell, and write the run's report."""
    ended = {"lost": dict(result.outcome.lost), "interrupted": result.interrupted}
    try:
        apply_kept(result.collected, {**ended, **kept})
        path = apply_report(result.collected)
    except (ConfigError, OSError) as error:  # how the run ended has been said
        out.say(f"no report: {error}")
        return
    out.add(report=str(path))
    out.text(f"  report:  {path}")


def apply_attached(
    out: Answer, fleet: Fleet, run: KnownRun, result: RunResult, *, stopping: bool
) -> None:
    """The report of a run that another command has started, maybe on another controller.

    What hosts were is what was kept when it started; where that was not here, what they are now.
    """
    kept: dict[str, Any] = {"clock_offsets": dict(run.clock_offsets), "interrupted": stopping}
    if "facts" not in read_kept(result.collected):
        there = set(run.nodes) - set(result.outcome.lost)
        hosts = tuple(host for host in fleet.inventory if host.label in there)
        asked = replace(fleet, inventory=Inventory(hosts=hosts))
        kept |= kept_facts(gather_facts(asked, say=out.say).facts)
    apply_reported(out, result, kept)
