"""The run that a command line names, of those that the hosts know."""

from __future__ import annotations

from provision.errors import ConfigError
from provision.fleet import Fleet, error_report
from provision.launch.runs import KnownRun, choose_run, gather_runs
from provision.settings import Settings
from provision.show import Answer


def gather_wanted(out: Answer, s: Settings, fleet: Fleet) -> KnownRun:
    """The run that the command line names. Hosts that can't be asked are said, and left out.

    The command ends here where no other host knows of it: one of them may.
    """
    runs, errors = gather_runs(fleet)
    try:
        found = choose_run(runs, str(s.run))
    except ConfigError:
        out.require(error_report(errors))
        raise
    out.report(error_report(errors))
    return found
