"""What can go wrong, each with the exit code it ends in.

Exit codes of every command (the one place that defines them):

    0    done, or nothing to do
    1    findings: hosts, wheel or data do not fit; nothing was changed
    2    bad usage or configuration
    3    a host can't be reached, or refused the login
    4    a build failed
    5    a rank of a run failed
    130  Ctrl-C

Bad *configuration* raises one of these. Bad *hosts* are findings (see findings.py): all of
them are collected, all are shown, and the command exits once.
"""

from __future__ import annotations

OK, FINDINGS, USAGE, UNREACHABLE, BUILD_FAILED, RANK_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class ProvisionError(Exception):
    """One clear error: what is wrong, what was found, what was expected, what to do.

    ``str(error)`` is the one line that a user reads. Of an OSError as ``found`` its reason alone
    is told: ``what`` names the file.
    """

    exit_code = FINDINGS

    def __init__(self, what: str, *, found: object, expected: object, remedy: str) -> None:
        if isinstance(found, OSError) and found.strerror:
            found = found.strerror
        self.what = what
        self.found = str(found)
        self.expected = str(expected)
        self.remedy = remedy
        super().__init__(f"{what}: found {found}, expected {expected}: {remedy}")

    @property
    def subject(self) -> str:
        """What it is about, without the host: "python" of "node1: python"."""
        return self.what.rpartition(": ")[2]

    def as_json(self) -> dict[str, str]:
        """The error's parts, for the ``error`` key of ``--json``."""
        return {
            "what": self.what,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }


class ConfigError(ProvisionError):
    """A flag, file or setting can't be honoured as given."""

    exit_code = USAGE


class BuildError(ProvisionError):
    """A wheel could not be built, or what was built is not what was asked for."""

    exit_code = BUILD_FAILED


class HostError(ProvisionError):
    """A command on a host failed where it had to succeed (a step of an applied plan)."""


class UnreachableError(ProvisionError):
    """A host can't be reached over SSH, or refused the login or showed an unknown key."""

    exit_code = UNREACHABLE
