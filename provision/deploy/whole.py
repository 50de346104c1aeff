"""Whether hosts' environments are still what was installed, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provision.errors import ProvisionError
from provision.findings import Finding, Judge, Level, Report
from provision.fleet import Fleet
from provision.numbers import size
from provision.script import passing_on
from provision.session import Remote, Say
from provision.talk import SILENCE_SECONDS

#: Differences that one finding names.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One environment of a host, as onhost/whole.py found it.

    ``differs``: (path below the environment, what is wrong), the first of ``differing``;
    ``over``: the user's own Python that it lies over, whose packages are not ours to check.
    """

    name: str
    current: bool
    complete: bool
    files: int
    bytes: int
    differing: int
    differs: tuple[tuple[str, str], ...]
    over: str | None

    def as_json(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        differs = [{"path": path, "what": what} for path, what in self.differs]
        return {**self.__dict__, "differs": differs}


def parse_checked(answer: Mapping[str, Any]) -> tuple[Checked, ...]:
    """From the answer of onhost/whole.py."""
    return tuple(
        Checked(
            name=row["name"],
            current=row["name"] == answer["current"],
            complete=row["complete"],
            files=row["files"],
            bytes=row["bytes"],
            differing=row["differing"],
            differs=tuple((one["path"], one["what"]) for one in row["differs"]),
            over=row["over"],
        )
        for row in answer["environments"]
    )


def gather_checked(fleet: Fleet, say: Say) -> dict[str, tuple[Checked, ...] | ProvisionError]:
    """Have every host hash its environments; a line of progress from each every few seconds."""

    def check(remote: Remote) -> tuple[Checked, ...]:
        talk = remote.talk("whole")
        try:
            return parse_checked(talk.receive(SILENCE_SECONDS, passing_on(remote.label, say)))
        finally:
            talk.close()

    return dict(fleet.fan_out(check, say=say))


def judge_checked(found: Mapping[str, Iterable[Checked]]) -> Report:
    """A finding for every environment: whole, or what of it differs; half-made ones, too."""
    return Report(findings=tuple(_findings(found)))


def _findings(found: Mapping[str, Iterable[Checked]]) -> Iterator[Finding]:
    for host, environments in found.items():
        for one in environments:
            level, said, remedy = _judged(one)
            expected = "every file as it was installed"
            yield Judge(host=host)(f"envs/{one.name}", level, said, expected, remedy)


def _judged(one: Checked) -> tuple[Level, str, str]:
    anew = "invoke deploy --anew makes it again, from the lock and wheel that it was made from"
    if not one.current:
        anew = "invoke clean --keep-last 0 removes it"
    if not one.complete and one.current:
        return Level.ERROR, "half-made, and in use", anew
    if not one.complete:
        return Level.WARN, "half-made", "invoke clean removes it, invoke deploy goes on with it"
    if one.differing:
        named = ", ".join(f"{path} {what}" for path, what in one.differs[:_NAMED])
        more = f", and {one.differing - _NAMED} more" if one.differing > _NAMED else ""
        return Level.ERROR, f"{named}{more}", anew
    own = f"; the packages of {one.over} are its owner's, and not checked" if one.over else ""
    return Level.OK, f"{one.files:,} files ({size(one.bytes)}), all as installed{own}", ""
