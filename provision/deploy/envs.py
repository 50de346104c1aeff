"""What of ours is on each host, as values: environments, what uses them, the store, the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any

from provision.deploy.hold import holder_line
from provision.deploy.switch import DEPLOY
from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.names import fold
from provision.numbers import size
from provision.session import Say

#: Seconds for one host's answer: sizes are those of every file.
_LIST_SECONDS = 300.0
#: A store entry of these names belongs to environments; any other was pushed for itself.
_OF_ENVIRONMENTS = (".whl", "requirements.txt")
COLUMNS = ("hosts", "environment", "state", "size", "in use by", "torch", "deepspeed", "since")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a host's store. ``names_also``: entries that a lock or manifest in it names."""

    sha256: str
    names: tuple[str, ...]
    bytes: int
    names_also: tuple[str, ...]
    used_by: tuple[str, ...]

    @property
    def pushed(self) -> bool:
        """Whether it was pushed for itself (a model, data), not for environments."""
        return not all(
            name.endswith(_OF_ENVIRONMENTS) or name.endswith(".partial") for name in self.names
        )


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One environment of a host. ``bytes`` on its disk; ``record``: its complete.json in short."""

    name: str
    complete: bool
    bytes: int
    used_by: tuple[str, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HostEnvs:
    """All of ours on a host; ``raw`` is what it answered, for ``--json``.

    ``place``: what ~/.zerofleet lies in, equal on hosts that see the very same folder.
    """

    there: bool
    place: str
    current: str | None
    environments: tuple[Environment, ...]
    store: tuple[Entry, ...]
    runs: tuple[str, ...]
    alive: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
    held: Mapping[str, Any] | None
    bytes: int
    raw: Mapping[str, Any]

    def names(self) -> tuple[str, ...]:
        """Names of its environments, half-made ones too."""
        return tuple(env.name for env in self.environments)

    def complete(self) -> tuple[str, ...]:
        """Names of its complete environments."""
        return tuple(env.name for env in self.environments if env.complete)

    def put_to_use(self, name: str | None) -> Mapping[str, Any]:
        """The last line of the history about a deploy of this environment; empty without one."""
        lines = (x for x in reversed(self.history) if x["env"] == name and x["what"] == DEPLOY)
        return next(lines, {})

    def made_from(self, name: str) -> tuple[str, ...] | None:
        """Entries of the store that an environment was made from; None where that is not known."""
        lines = [x for x in self.history if x["env"] == name and x.get("store") is not None]
        return tuple(lines[-1]["store"]) if lines else None

    def before(self) -> str | None:
        """The environment that was in use when the one in use now was deployed."""
        return self._before(self.current)

    def _before(self, name: str | None) -> str | None:
        """Likewise, of any. None was where it was made anew: what counts is the deploy before."""
        lines = (x for x in reversed(self.history) if x["env"] == name and x["what"] == DEPLOY)
        return next((line["was"] for line in lines if line["was"]), None)

    def gone_back_to(self) -> tuple[str, ...]:
        """What one rollback after the other would go back to, the first first."""
        back = [self.before()]
        while back[-1] and back[-1] not in back[:-1]:
            back.append(self._before(back[-1]))
        return tuple(name for name in dict.fromkeys(back) if name)


def parse_envs(answer: Mapping[str, Any]) -> HostEnvs:
    """From the answer of onhost/envs.py."""
    environments = [
        Environment(
            name=row["name"],
            complete=row["complete"],
            bytes=row["bytes"],
            used_by=tuple(row["used_by"]),
            record=row,
        )
        for row in answer["environments"]
    ]
    return HostEnvs(
        there=answer["there"],
        place=answer["place"],
        current=answer["current"],
        environments=tuple(environments),
        store=tuple(_entry(row) for row in answer["store"]),
        runs=tuple(answer["runs"]["names"]),
        alive=tuple(answer["runs"]["alive"]),
        history=tuple(answer["history"]),
        held=answer["held"],
        bytes=answer["bytes"],
        raw=answer,
    )


def by_home(found: Mapping[str, HostEnvs]) -> dict[str, HostEnvs]:
    """The first host of each home: what is done to a home is done once.

    In use there is what any of its hosts uses.
    """
    homes: dict[str, dict[str, HostEnvs]] = {}
    for host, here in found.items():
        homes.setdefault(here.place, {})[host] = here
    return {next(iter(hosts)): _together(tuple(hosts.values())) for hosts in homes.values()}


def _together(hosts: Sequence[HostEnvs]) -> HostEnvs:
    users = [{env.name: env.used_by for env in here.environments} for here in hosts]
    readers = [{entry.sha256: entry.used_by for entry in here.store} for here in hosts]
    return replace(
        hosts[0],
        environments=tuple(
            replace(env, used_by=_joined(used.get(env.name, ()) for used in users))
            for env in hosts[0].environments
        ),
        store=tuple(
            replace(entry, used_by=_joined(used.get(entry.sha256, ()) for used in readers))
            for entry in hosts[0].store
        ),
        alive=_joined(here.alive for here in hosts),
    )


def _joined(each: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(each)))


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        sha256=row["sha256"],
        names=tuple(row["names"]),
        bytes=row["bytes"],
        names_also=tuple(row["names_also"]),
        used_by=tuple(row["used_by"]),
    )


def gather_envs(
    fleet: Fleet, say: Say, hosts: Sequence[str] = ()
) -> dict[str, HostEnvs | ProvisionError]:
    """Ask every host (or those named) what of ours is there."""
    answers = fleet.fan_out(
        lambda remote: parse_envs(remote.ask("envs", ["list"], timeout=_LIST_SECONDS)),
        hosts,
        say=say,
    )
    return dict(answers)


def rows(found: Mapping[str, HostEnvs]) -> list[tuple[str, ...]]:
    """The table of ``invoke envs``: hosts with the same as one row."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for host, here in found.items():
        for env in here.environments:
            grouped.setdefault(_row(here, env), []).append(host)
        if not here.environments:
            grouped.setdefault(("-",) * (len(COLUMNS) - 1), []).append(host)
    return [(fold(hosts), *row) for row, hosts in grouped.items()]


def _row(here: HostEnvs, env: Environment) -> tuple[str, ...]:
    state = "complete" if env.complete else "half-made"
    if env.name == here.current:
        state = "current" if env.complete else "current, but not complete"
    line = here.put_to_use(env.name)
    at = line.get("at") or env.record.get("at")
    when = f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}" if at else "-"
    return (
        env.name,
        state,
        size(env.bytes),
        ", ".join(env.used_by) or "-",
        str(env.record.get("torch") or "-"),
        str(env.record.get("deepspeed") or "-"),
        f"{when} by {line['by']}" if "by" in line else when,
    )


def lines(found: Mapping[str, HostEnvs]) -> list[str]:
    """Below the table: who is at work, all bytes, and whether all hosts use the same."""
    said = [f"{h}: {holder_line(here.held)}" for h, here in found.items() if here.held]
    homes = by_home(found).values()
    total = sum(here.bytes for here in homes)
    store = sum(entry.bytes for here in homes for entry in here.store)
    said.append(f"{size(total)} on all hosts, of which {size(store)} in their stores")
    used: dict[str | None, list[str]] = {}
    for host, here in found.items():
        used.setdefault(here.current, []).append(host)
    if len(used) > 1:
        each = "; ".join(f"{fold(hosts)}: {name or 'none'}" for name, hosts in used.items())
        said.append(f"hosts use different environments ({each}): invoke deploy, or rollback --to")
    return said
