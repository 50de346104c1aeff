"""Findings: what does not fit, per host, and the report that collects them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from provision import errors
from provision.errors import ProvisionError
from provision.names import fold


class Level(StrEnum):
    """How bad a finding is. ``unknown`` (could not be read) is never ok: it fails as an error."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    ERROR = "error"
    UNKNOWN = "unknown"


#: The remedy where a host said why something could not be read there.
UNREAD = "put right on that host what kept it from being read, then try again"
#: The subjects of findings about reaching a host at all; they exit 3 rather than 1.
SSH, SRUN = "ssh", "srun"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about one host, judged. ``str()`` is the line that a user reads."""

    host: str
    subject: str
    level: Level
    found: str
    expected: str
    remedy: str = ""

    @property
    def fails(self) -> bool:
        """Whether this finding keeps a command from going on."""
        return self.level in (Level.ERROR, Level.UNKNOWN)

    def __str__(self) -> str:
        line = f"{self.host}: {self.subject}: found {self.found}, expected {self.expected}"
        return f"{line}: {self.remedy}" if self.remedy else line

    def as_json(self) -> dict[str, str]:
        """The finding as ``--json`` shows it: a stable contract, keys are only ever added."""
        return {
            "host": self.host,
            "subject": self.subject,
            "level": str(self.level),
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Makes findings about one host."""

    host: str

    def __call__(
        self, subject: str, level: Level, found: object, expected: str, remedy: str = ""
    ) -> Finding:
        """A finding about this host; what is ok needs no remedy."""
        return Finding(
            host=self.host,
            subject=subject,
            level=level,
            found=str(found),
            expected=expected,
            remedy="" if level is Level.OK else remedy,
        )

    def error(self, subject: str, found: object, expected: str, remedy: str = "") -> Finding:
        """What keeps a command from going on."""
        return self(subject, Level.ERROR, found, expected, remedy)

    def judged(
        self, subject: str, good: bool | None, found: object, expected: str, remedy: str
    ) -> Finding:
        """Ok if ``good``, an error if not, unknown where nobody can tell (None)."""
        level = {True: Level.OK, False: Level.ERROR, None: Level.UNKNOWN}[good]
        return self(subject, level, found, expected, remedy)

    def failed(self, error: ProvisionError) -> Finding:
        """An error that the host gave in place of an answer."""
        return self.error(error.subject, error.found, error.expected, error.remedy)

    def unanswered(self, subject: str, error: ProvisionError) -> Finding:
        """What could not be read: unknown, and so not ok; a host that went away is an error."""
        if error.exit_code == errors.UNREACHABLE:
            return self.failed(error)
        return self(subject, Level.UNKNOWN, error.found, error.expected, error.remedy)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings of one question ("do these hosts fit this wheel?"), in host order."""

    findings: tuple[Finding, ...] = ()

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The findings that keep a command from going on."""
        return tuple(f for f in self.findings if f.fails)

    @property
    def telling(self) -> tuple[Finding, ...]:
        """The failing findings and the warnings, in order."""
        return tuple(f for f in self.findings if f.fails or f.level is Level.WARN)

    @property
    def hurting(self) -> tuple[Finding, ...]:
        """The findings that can hurt a run: neither ok nor a note."""
        return tuple(f for f in self.findings if f.level not in (Level.OK, Level.NOTE))

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not self.failing

    @property
    def exit_code(self) -> int:
        """0, or 3 when a host could not be reached, else 1 (see errors.py)."""
        if self.ok:
            return errors.OK
        if any(f.subject in (SSH, SRUN) for f in self.failing):
            return errors.UNREACHABLE
        return errors.FINDINGS

    def as_json(self) -> list[dict[str, str]]:
        """The ``findings`` key of ``--json``."""
        return [f.as_json() for f in self.findings]


def merged(findings: Iterable[Finding]) -> tuple[tuple[str, Finding], ...]:
    """Findings that say the same of several hosts as one row: (``node[1-4]``, finding)."""
    rows: dict[Finding, list[str]] = {}
    for finding in findings:
        key = Finding(**{**finding.__dict__, "host": ""})
        rows.setdefault(key, []).append(finding.host)
    return tuple((fold(hosts), key) for key, hosts in rows.items())


def merged_errors(errors: Mapping[str, ProvisionError]) -> tuple[ProvisionError, ...]:
    """Errors by host; what several hosts say alike as one: ``node[1-4]: disk: found ...``."""
    rows: dict[tuple[type, str, str, str, str], list[str]] = {}
    for host, error in errors.items():
        what = error.what.removeprefix(f"{host}: ")
        key = (type(error), what, error.found, error.expected, error.remedy)
        rows.setdefault(key, []).append(host)
    return tuple(
        kind(f"{fold(hosts)}: {what}", found=found, expected=expected, remedy=remedy)
        if hosts[1:]
        else errors[hosts[0]]
        for (kind, what, found, expected, remedy), hosts in rows.items()
    )
