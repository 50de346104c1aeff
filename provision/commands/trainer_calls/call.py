"""A module of trainer/, called outside a run: on which host, by which Python, with what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.commands.connect import connected_fleet
from provision.commands.runs.find import gather_wanted
from provision.errors import ConfigError
from provision.fleet import Fleet, error_report
from provision.launch.code import read_trainer_code
from provision.launch.module import (
    HERE,
    ModuleCall,
    Working,
    apply_inputs,
    apply_result,
    conversation,
)
from provision.launch.runs import KnownRun
from provision.session import Remote
from provision.settings import CHECKOUT, Settings
from provision.show import Answer

#: The interpreter of a host, where no run says another one.
PYTHON = "~/.zerofleet/current/bin/python"
ON_HOST = re.compile(r"/|~/")

MakeCall = Callable[[Answer, Settings, "Fleet | None"], ModuleCall]


@dataclass(frozen=True, kw_only=True)
class Who:
    """Who runs a module: a host, or HERE, and the interpreter there."""

    host: str
    python: str

    def call(self, module: str, *args: str, **more: Any) -> ModuleCall:
        """A call of it."""
        return ModuleCall(host=self.host, python=self.python, module=module, args=args, **more)


@contextmanager
def reached(s: Settings) -> Iterator[Fleet | None]:
    """The hosts; None where --python names an interpreter of this machine in place of theirs."""
    if s.python:
        yield None
        return
    with connected_fleet(s) as fleet:
        yield fleet


def gather_remote(out: Answer, fleet: Fleet | None, host: str) -> Remote | None:
    """The one host of a call, connected; None for this machine."""
    if fleet is None:
        return None
    found = fleet.fan_out(lambda remote: remote, (host,))
    out.require(error_report(found))
    remote = found[host]
    assert isinstance(remote, Remote)
    return remote


def local(path: str) -> str:
    """Paths of this machine, in full; a module has a working folder of its own."""
    parts = [part.strip() for part in path.split(",")]
    return ",".join(p if "://" in p else str(Path(p).expanduser().absolute()) for p in parts)


def placed(fleet: Fleet | None, flag: str, value: str) -> str:
    """A path as the call takes it; ConfigError for one that names no place on a host."""
    if fleet is None:
        return local(value)
    if not all(ON_HOST.match(part) or "://" in part for part in value.split(",")):
        raise ConfigError(
            flag,
            found=value,
            expected="a path on the hosts, from / or ~/",
            remedy="name it in full, or give --python for files of this machine",
        )
    return value


def on_first(s: Settings, fleet: Fleet | None) -> Who:
    """Who is asked where no run says so: this machine, or the first host."""
    if fleet is None:
        return Who(host=HERE, python=local(str(s.python)))
    return Who(host=fleet.inventory.labels[0], python=PYTHON)


def gather_named_run(out: Answer, s: Settings, fleet: Fleet, name: str) -> tuple[KnownRun, Who]:
    """A run, and who is asked about it: its first host, by the environment that it had."""
    run = gather_wanted(out, replace(s, run=name), fleet)
    if run.node0 is None:
        raise ConfigError(
            f"run {run.run}",
            found="no answer about it from its first host",
            expected="that host up, and in the hosts file",
            remedy="bring that host back: the result lies there",
        )
    return run, Who(host=run.node0, python=str(run.nodes[run.node0]["argv"][0]))


def gather_result_folder(out: Answer, s: Settings, fleet: Fleet | None) -> tuple[Who, str, str]:
    """(who is asked, the folder of a run's result, the run's name or "")."""
    wanted = str(s.result)
    if fleet is None:
        kept = s.runs / wanted / "output"
        named = bool(kept.is_dir() and not Path(wanted).exists())
        return on_first(s, None), str(kept) if named else local(wanted), wanted if named else ""
    if ON_HOST.match(wanted):
        return on_first(s, fleet), wanted, ""
    run, who = gather_named_run(out, s, fleet, wanted)
    return who, run.outputs[who.host], run.run


def target(s: Settings, default: Path | None) -> Path:
    """Where a result comes to; ConfigError where there is something, or nothing was named."""
    folder = Path(local(str(s.output))) if "output" in s.given else default
    if folder is None or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise ConfigError(
            "--output",
            found="nothing" if folder is None else f"{folder}, which is not empty",
            expected="a new folder of this machine",
            remedy="name one with --output",
        )
    return folder


@contextmanager
def apply_called(
    out: Answer, s: Settings, make_call: MakeCall
) -> Iterator[tuple[Working, Remote | None]]:
    """A module at work, and the host that it is on; None for this machine."""
    code = read_trainer_code(CHECKOUT)
    with reached(s) as fleet:
        call = make_call(out, s, fleet)
        out.plan(call.plan(code))
        remote = gather_remote(out, fleet, call.host)
        with conversation(call, code, remote, out.say) as working:
            if fleet and call.inputs:
                apply_inputs(working, connected_to(out, fleet))
            working.apply_start()
            yield working, remote


def apply_made(out: Answer, s: Settings, make_call: MakeCall) -> None:
    """Run a module that leaves a result, and bring that here."""
    with apply_called(out, s, make_call) as (working, remote):
        found: dict[str, Any] = {}
        while (said := working.read_said()) is not None:
            found.update(said)
        apply_result(working, remote)
    output = working.call.output
    out.add(**found, output=str(output))
    words = ", ".join(f"{name} {value}" for name, value in found.items())
    out.text(f"{output}: {words}")


def connected_to(out: Answer, fleet: Fleet) -> dict[str, Remote]:
    """Every host, connected."""
    found = fleet.fan_out(lambda remote: remote)
    out.require(error_report(found))
    return {host: remote for host, remote in found.items() if isinstance(remote, Remote)}
