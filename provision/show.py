"""What a person sees, and the one JSON object that a script reads. The only module with rich.

With ``--json`` exactly one object goes to stdout and all else to stderr; it always has ``ok`` and
``exit``. Without it, tables go to stdout and progress to stderr. Colours follow NO_COLOR.
"""

from __future__ import annotations

import io
import json as jsonlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision import errors
from provision.findings import Level, Report, merged
from provision.steps import Plan

# What is drawn, and what draws it, is imported by the commands that do: the others start sooner.
if TYPE_CHECKING:
    from rich.console import Console

    from provision.hosts.lock import LockPlan
    from provision.hosts.summary import Summary
    from provision.launch.plan import LaunchPlan
    from provision.launch.results import RunResult
    from provision.wheel.extra import ExtraWheel
    from provision.wheel.manifest import WheelManifest

_STYLE = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARN: "yellow",
    Level.ERROR: "bold red",
    Level.UNKNOWN: "bold magenta",
}


class Stop(Exception):
    """The answer is complete: end the command with its exit code."""


class Answer:
    """What one command has to say; collects the JSON object while it shows the same as text."""

    def __init__(self, *, json: bool, dry_run: bool = False) -> None:
        self.json = json
        self.dry_run = dry_run
        self.exit = errors.OK
        self.values: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """A line of progress, on stderr."""
        print(visible(text), file=sys.stderr, flush=True)

    def add(self, **values: Any) -> None:
        """Keys of the JSON object."""
        self.values.update(values)

    def text(self, text: str) -> None:
        """Text for a person, on stdout; nothing with ``--json``."""
        if not self.json:
            print(visible(text), flush=True)

    def piece(self, text: str) -> None:
        """Text that goes on where the last piece ended."""
        if not self.json:
            print(visible(text), end="", flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for a person; nothing with ``--json``."""
        if self.json:
            return
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")  # a cell may take lines, never lose its end
        for row in rows:
            table.add_row(*(visible(cell) for cell in row))
        _console().print(table)

    def cells(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of texts from hosts: brackets in them are no markup."""
        self.table(columns, [tuple(map(_escaped, row)) for row in rows])

    def summary(self, summary: Summary) -> None:
        """What hosts are, and below it why some of that is unknown."""
        if summary.rows:  # else no host answered
            self.table(summary.columns, [tuple(map(_escaped, row)) for row in summary.rows])
        for line in summary.unknown:
            self.text(line)

    def report(self, report: Report, *, full: bool = False) -> None:
        """Findings: as a table with ``full``, else what fails or warns, a line each.

        The command's exit code becomes the report's if that is worse than what it was.
        """
        self.values["findings"] = [*self.values.get("findings", []), *report.as_json()]
        self.exit = self.exit or report.exit_code
        if full and report.findings:
            rows = [
                (
                    _escaped(hosts),
                    _escaped(f.subject),
                    f"[{_STYLE[f.level]}]{f.level}[/]",
                    *(_escaped(text) for text in (f.found, f.expected, f.remedy)),
                )
                for hosts, f in merged(report.findings)
            ]
            self.table(("host", "subject", "level", "found", "expected", "why, what to do"), rows)
        if full and report.ok and self.exit == 0:  # nor did anything that was asked before
            self.text(f"ok: {len(report.findings)} findings, none of them fails")
        # A table has shown the warnings.
        said = report.failing if full else report.telling
        for hosts, finding in merged(said):
            self.say(f"{finding.level}: {hosts}{finding!s}")

    def require(self, report: Report) -> None:
        """Show a report, and end the command here if anything in it fails."""
        self.report(report)
        if not report.ok:
            raise Stop

    def launch(self, launch: LaunchPlan, *, printed: bool) -> None:
        """A run that is about to start; ``printed``: its commands are wanted, and end it here."""
        if not printed:
            self.plan(launch)
            return
        from provision.launch.printed import all_commands

        commands = all_commands(launch)
        self.add(run=launch.run, commands=commands)
        self.text("\n".join(commands.values()))
        raise Stop

    def plan(self, plan: Plan | LaunchPlan | LockPlan) -> None:
        """A plan that is about to be applied; a dry run shows it whole and ends here."""
        steps, launch = _steps_of(plan)
        if self.dry_run:
            self.values["plan"] = steps.as_json()
            if launch:
                self.values["launch"] = launch.as_json()
            self.text(str(plan))
            raise Stop
        self.say(f"{steps.title}: nothing to do" if steps.empty else steps.title)

    def built(
        self, folder: Path, manifest: WheelManifest, extras: Sequence[ExtraWheel] = ()
    ) -> None:
        """The wheels that a build made, or found made."""
        path = folder / manifest.wheel
        self.add(wheel=str(path), manifest=manifest.as_json(), cached=manifest.cached)
        self.add(extras=[extra.as_json() for extra in extras])
        for name in (manifest.wheel, *(extra.wheel for extra in extras)):
            self.text(str(folder / name))

    def deployed(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """What a deploy did to each host."""
        self.add(hosts=dict(hosts))
        for host, did in hosts.items():
            what = f"{did['bytes_sent']:,} bytes sent" if did["changed"] else "nothing to do"
            self.text(f"{host}: {did['env']}: {what}")

    def locked(self, plan: LockPlan) -> None:
        """The drift lock that was written, or found to say all this already."""
        self.add(lock=str(plan.path), changes=[change.as_json() for change in plan.changes])
        self.text(str(plan))

    def outcome(self, result: RunResult) -> None:
        """How a run ended, and where its results are."""
        self.add(**result.as_json())
        ended = result.outcome.exit_code or (errors.FINDINGS if result.missing else errors.OK)
        self.exit = errors.INTERRUPTED if result.interrupted else ended
        self.text(str(result))


@contextmanager
def answer(*, json: bool, dry_run: bool = False) -> Iterator[Answer]:
    """Run a command's body; every error becomes its one line, its JSON and its exit code."""
    if sys.stdout is None:  # closed by whoever started this: >&-
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may have no arrows and no umlauts
        sys.stdout.reconfigure(errors="backslashreplace")
    found = Answer(json=json, dry_run=dry_run)
    try:
        yield found
    except Stop:
        pass
    except errors.ProvisionError as error:
        found.exit = error.exit_code
        found.add(error=error.as_json())
        found.say(f"error: {error}")
    except KeyboardInterrupt:
        found.exit = errors.INTERRUPTED
        found.say("stopped by Ctrl-C")
    except BrokenPipeError:
        # Whoever read stdout has gone (`| head`): as a shell counts it, 128 + SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    if json:
        print(jsonlib.dumps({"ok": found.exit == 0, "exit": found.exit, **found.values}))
    if found.exit:
        raise SystemExit(found.exit)


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey: hosts' answers hold what hosts put there.

    Control characters (escape sequences begin with one), direction marks and what is no character
    at all are shown as Python writes them; line ends and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _steps_of(
    plan: Plan | LaunchPlan | LockPlan,
) -> tuple[Plan | LockPlan, LaunchPlan | None]:
    """What is to be done, and the launch that it is the plan of, if it is one's."""
    if isinstance(plan, Plan):
        return plan, None
    from provision.launch.plan import LaunchPlan

    return (plan.plan, plan) if isinstance(plan, LaunchPlan) else (plan, None)


def _escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def _console() -> Console:
    """A console as wide as the terminal; wide enough for whole lines where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 220)
