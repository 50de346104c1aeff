"""What may be removed from hosts: never what is in use, nor what may be gone back to. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from provision.deploy.envs import Entry, HostEnvs, by_home
from provision.findings import Judge, Report
from provision.numbers import size
from provision.script import script_argv
from provision.steps import Phase, Plan, Run, Step

#: Of a sha256, what names an entry of the store to its host: a command line holds only so much.
_START = 16
#: Entries of the store that one command removes: 60 kB of the 127 that a command line holds.
_AT_ONCE = 2000


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What a host has to remove."""

    envs: tuple[str, ...]
    store: tuple[Entry, ...]
    bytes: int

    def __str__(self) -> str:
        parts = [f"envs/{name}" for name in self.envs]
        if self.store:
            files = "file" if len(self.store) == 1 else "files"
            parts.append(f"{len(self.store)} {files} of the store")
        return f"remove {', '.join(parts)} ({size(self.bytes)})"


def removal(here: HostEnvs, keep: int, *, pushed: bool = False) -> Removal:
    """What nothing needs on this host.

    Kept are the environment in use, ``keep`` complete ones used before it, what runs and
    processes use, and of the store what those were made from. ``pushed``: also remove models and
    data that no run uses.
    """
    kept = kept_environments(here, keep)
    envs = [env for env in here.environments if env.name not in kept]
    stays = needed_entries(here, kept) | (set() if pushed else _pushed(here))
    store = [entry for entry in here.store if entry.sha256 not in stays]
    return Removal(
        envs=tuple(env.name for env in envs),
        store=tuple(store),
        bytes=sum(env.bytes for env in envs) + sum(entry.bytes for entry in store),
    )


def kept_environments(here: HostEnvs, keep: int) -> set[str]:
    """Names of the environments that stay."""
    complete = set(here.complete())
    used = [line["env"] for line in reversed(here.history)]
    older = [name for name in dict.fromkeys([*here.gone_back_to(), *used]) if name in complete]
    older = [name for name in older if name != here.current]
    in_use = {env.name for env in here.environments if env.used_by or env.name == here.current}
    return in_use | set(older[:keep])


def needed_entries(here: HostEnvs, kept: set[str]) -> set[str]:
    """Entries of the store that kept environments were made from, or that runs use.

    An environment whose history does not say what it was made from keeps all that environments
    are made from: what is not known is not removed.
    """
    by_sha256 = {entry.sha256: entry for entry in here.store}
    needed = {entry.sha256 for entry in here.store if entry.used_by}
    for name in kept:
        stored = here.made_from(name)
        if stored is None:
            needed |= {entry.sha256 for entry in here.store if not entry.pushed}
        else:
            needed |= set(stored)
    for sha256 in tuple(needed):
        if sha256 in by_sha256:
            needed |= set(by_sha256[sha256].names_also)
    return needed


def _pushed(here: HostEnvs) -> set[str]:
    """Entries of the store that were pushed for themselves, or are part of a folder that was."""
    own = [entry for entry in here.store if entry.pushed]
    return {entry.sha256 for entry in own}.union(*(entry.names_also for entry in own))


def plan_clean(found: Mapping[str, HostEnvs], keep: int, *, pushed: bool = False) -> Plan:
    """Steps for each home that has something to remove."""
    steps: list[Step] = []
    for host, here in by_home(found).items():
        what = removal(here, keep, pushed=pushed)
        if not what.envs and not what.store:
            continue
        why = "free space: nothing uses it, and it is not what rollback would go back to"
        steps += [Step(host=host, do=do, why=why) for do in _runs(what)]
    return Plan(title="clean", phases=(Phase(name="clean", steps=tuple(steps)),) if steps else ())


def _runs(what: Removal) -> Iterator[Run]:
    """The commands that remove it: a command line holds only so many entries of the store."""
    starts = [entry.sha256[:_START] for entry in what.store]
    parts = [starts[first : first + _AT_ONCE] for first in range(0, len(starts), _AT_ONCE)] or [[]]
    for number, part in enumerate(parts):
        told = {"envs": [] if number else what.envs, "store": part}
        which = f", part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
        argv = script_argv("envs", ["remove", json.dumps(told)])
        yield Run(argv=argv, title=f"{what}{which}")


def judge_undeploy(found: Mapping[str, HostEnvs], *, with_runs: bool) -> Report:
    """Whether all of it may go: nothing is in use, and no results lie there unless they may go."""
    findings = []
    for host, here in found.items():
        judge = Judge(host=host)
        busy = [f"run {run}" for run in here.alive]
        busy += [who for env in here.environments for who in env.used_by if who not in busy]
        if busy:
            what = ", ".join(busy)
            findings.append(judge.error("in use", what, "nothing at work", "stop it first"))
        elif here.runs and not with_runs:
            runs = ", ".join(here.runs[:3]) + (" …" if len(here.runs) > 3 else "")
            remedy = "collect what you need of their checkpoints and logs, then: --with-runs"
            found_ = f"{len(here.runs)} in ~/.zerofleet/runs ({runs})"
            findings.append(judge.error("runs", found_, "none", remedy))
    return Report(findings=tuple(findings))


def plan_undeploy(found: Mapping[str, HostEnvs], *, with_runs: bool) -> Plan:
    """A step for each home that has anything of ours."""
    told = json.dumps({"runs": with_runs})
    steps = tuple(
        Step(
            host=host,
            do=Run(
                argv=script_argv("envs", ["undeploy", told]),
                title=f"remove ~/.zerofleet ({size(here.bytes)})",
            ),
            why="leave nothing of ours",
        )
        for host, here in by_home(found).items()
        if here.there
    )
    phases = (Phase(name="undeploy", steps=steps),) if steps else ()
    return Plan(title="undeploy", phases=phases)
