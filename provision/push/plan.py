"""What hosts lack of a pushed file or folder, as a plan; and its path there for a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from provision.errors import ProvisionError
from provision.findings import Finding, Judge
from provision.fleet import Fleet
from provision.push.pushed import Pushed
from provision.script import script_argv
from provision.session import Remote
from provision.steps import Phase, Plan, Run, Step

_LOOK_SECONDS = 60.0


def gather_looks(fleet: Fleet, pushed: Pushed) -> dict[str, dict[str, Any] | ProvisionError]:
    """What each host has of it, in one round trip: onhost/place.py's answers, keyed by host."""
    asked = {"path": pushed.path, "sha256s": [put.sha256 for put in pushed.puts]}

    def look(remote: Remote) -> dict[str, Any]:
        talk = remote.talk("place", ["look"])
        try:
            talk.send(asked)
            return talk.receive(_LOOK_SECONDS)
        finally:
            talk.close()

    return fleet.fan_out(look)


def plan_push(
    pushed: Pushed, looks: Mapping[str, Mapping[str, Any]], *, check: bool = False
) -> Plan:
    """Push → arrange, on the hosts that do not have it. Empty when all do.

    ``check``: all of it on all hosts, where it is hashed, and sent again only if it has rotted.
    """
    lacking = {host: set(look["held"]) for host, look in looks.items() if not look["there"]}
    if check:
        lacking = {host: set() for host in looks}
    wanted = "hash it there, and send it if it is lacking or has rotted"
    put = tuple(
        Step(host=host, do=one, why=wanted if check else "the host lacks it")
        for host, held in lacking.items()
        for one in pushed.puts
        if one.sha256 not in held
    )
    arrange = Run(
        argv=script_argv("place", ["tree", pushed.digest, pushed.name]),
        title=f"make {pushed.path} of {len(pushed.files)} files in the store",
    )
    why = "have the folder, whole"
    tree = tuple(Step(host=host, do=arrange, why=why) for host in lacking if pushed.manifest)
    phases = (Phase(name="push", steps=put), Phase(name="arrange", steps=tree))
    return Plan(
        title=f"push {pushed.name} ({pushed.digest[:12]}…, {pushed.size:,} bytes)",
        phases=tuple(phase for phase in phases if phase.steps),
    )


def compare_looks(
    given: str, flag: str, pushed: Pushed, looks: Mapping[str, Mapping[str, Any]]
) -> tuple[Finding, ...]:
    """Hosts that lack what a run is to use; ``given``: its local path, as it was typed."""
    return tuple(
        Judge(host=host).error(
            flag,
            f"no {pushed.name} with this content (sha256 {pushed.digest[:12]}…)",
            f"{given} of this machine, pushed",
            f"invoke push {shlex.quote(given)}",
        )
        for host, look in looks.items()
        if not look["there"]
    )


def is_local(path: str) -> bool:
    """Whether a path is one of this machine: paths on hosts are absolute or begin with ~/."""
    return path in (".", "..") or path.startswith(("./", "../"))
