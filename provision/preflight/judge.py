"""What every judge of preflight starts from: findings about one host, and how sizes read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from provision.errors import ProvisionError, UnreachableError
from provision.findings import SSH, Finding, Level


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

    def unanswered(self, subject: str, error: ProvisionError) -> Finding:
        """What could not be read: unknown, and so not ok; a host that went away is an error."""
        gone = isinstance(error, UnreachableError)
        return self(
            SSH if gone else subject,
            Level.ERROR if gone else Level.UNKNOWN,
            error.found,
            error.expected,
            error.remedy,
        )


def size(count: float) -> str:
    """Bytes for a person: "13.2 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:.0f} bytes"
