"""The steps of logs: whose lines are shown, at once or as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from provision.errors import INTERRUPTED, ConfigError, ProvisionError
from provision.fleet import Fleet, error_report
from provision.launch.apply import apply_watch
from provision.launch.followers import View, parse_event
from provision.launch.runs import KnownRun
from provision.launch.spec import LAUNCHERS
from provision.script import script_argv
from provision.session import Remote
from provision.settings import Settings
from provision.show import Answer


def shown_hosts(run: KnownRun, s: Settings) -> dict[str, str]:
    """The run folders whose lines are wanted; ConfigError for a host or rank that it has not."""
    dirs = run.run_dirs
    if s.host is not None:
        if s.host not in dirs:
            raise ConfigError(
                "--host", found=s.host, expected=", ".join(dirs), remedy="name one of the run's"
            )
        dirs = {s.host: dirs[s.host]}
    if s.rank is None:
        return dirs
    for host, node in run.nodes.items():
        if 0 <= s.rank - node["first_rank"] < node["nproc_per_node"] and host in dirs:
            _require_marked(run, host)
            return {host: dirs[host]}
    raise ConfigError(
        "--rank",
        found=s.rank,
        expected=f"a rank of {', '.join(dirs)}",
        remedy="see `invoke status` for the run's ranks",
    )


def _require_marked(run: KnownRun, host: str) -> None:
    """ConfigError where nothing says which rank wrote a line."""
    if run.launcher == LAUNCHERS[0]:
        return
    raise ConfigError(
        "--rank",
        found=f"a run that was started by --launcher {run.launcher}",
        expected=f"one by {LAUNCHERS[0]}, which marks each rank's lines",
        remedy=f"use --host {host}: it shows the lines of all its ranks",
    )


def log_lines(rank: int | None) -> Callable[[Mapping[str, Any]], bool]:
    """Tells whether an event is a line to show; each rank's are marked by torchrun."""

    def shows(event: Mapping[str, Any]) -> bool:
        if "metric" in event:
            return False
        marked = rank is None or "log" not in event
        return marked or str(event["log"]).startswith(f"[rank {rank}]")

    return shows


def require_an_end(out: Answer, s: Settings) -> None:
    """Raises ConfigError for lines without end in the one JSON object."""
    if s.follow and out.json:
        raise ConfigError(
            "--follow with --json",
            found="both",
            expected="one of them",
            remedy="one JSON object has an end: leave one out",
        )


def gather_logs(out: Answer, s: Settings, fleet: Fleet, run: KnownRun) -> None:
    """Show the lines that are wanted: what is there, or with --follow as they come."""
    dirs, shows = shown_hosts(run, s), log_lines(s.rank)
    require_an_end(out, s)
    if s.follow:
        view = View(tail=s.tail, stops=False, detaches=True, shows=shows)
        _, left = apply_watch(fleet, dirs, out.text, view)
        out.exit = INTERRUPTED if left else out.exit
        return
    options = ["--once"] if s.tail is None or s.rank is not None else ["--once", f"--tail={s.tail}"]

    def call(remote: Remote) -> list[str]:
        events: list[Mapping[str, Any] | None] = []
        argv = script_argv("follow", [dirs[remote.label], *options])
        remote.run(argv, lambda line: events.append(parse_event(line)))
        return [str(event["log"]) for event in events if event and "log" in event and shows(event)]

    found = fleet.fan_out(call, tuple(dirs))
    out.report(error_report(found))
    lines = {h: some for h, some in found.items() if not isinstance(some, ProvisionError)}
    if s.tail is not None:
        lines = {host: some[len(some) - min(s.tail, len(some)) :] for host, some in lines.items()}
    out.add(run=run.run, lines=lines)
    for host, some in lines.items():
        for line in some:
            out.text(f"[{host}] {line}")
