"""The steps of check-data, merge, export and chat: who is asked, what, and what is shown of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.commands.following import gather_wanted
from provision.commands.reach import connected_fleet
from provision.errors import ConfigError, ProvisionError
from provision.fleet import Fleet, error_report
from provision.launch.code import read_trainer_code
from provision.launch.collect import Fetch, plan_collect
from provision.launch.module import (
    HERE,
    WORK,
    ModuleCall,
    Working,
    apply_inputs,
    apply_result,
    conversation,
)
from provision.launch.resume import choose_checkpoint, gather_checkpoints
from provision.launch.runs import KnownRun
from provision.session import Remote
from provision.settings import CHECKOUT, Settings
from provision.show import Answer

#: The interpreter of a host, where no run says another one.
PYTHON = "~/.zerofleet/current/bin/python"
_ON_HOST = re.compile(r"/|~/")
#: Who made a checkpoint, and of which step, by its folder's name.
_STEP = re.compile(r"(?P<run>.+?)(?:/checkpoint-(?P<step>\d+))?$")

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
    if not all(_ON_HOST.match(part) or "://" in part for part in value.split(",")):
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


def run_of(out: Answer, s: Settings, fleet: Fleet, name: str) -> tuple[KnownRun, Who]:
    """A run, and who is asked about it: its first host, by the environment that it had."""
    run = gather_wanted(out, replace(s, run=name), fleet)
    if run.node0 is None:
        raise ConfigError(
            f"run {run.run}",
            found="its first host did not tell of it",
            expected="that host up, and in the hosts file",
            remedy="bring it back: the result lies there",
        )
    return run, Who(host=run.node0, python=str(run.nodes[run.node0]["argv"][0]))


def result_folder(out: Answer, s: Settings, fleet: Fleet | None) -> tuple[Who, str, str]:
    """(who is asked, the folder of a run's result, the run's name or "")."""
    wanted = str(s.result)
    if fleet is None:
        kept = s.runs / wanted / "output"
        named = bool(kept.is_dir() and not Path(wanted).exists())
        return on_first(s, None), str(kept) if named else local(wanted), wanted if named else ""
    if _ON_HOST.match(wanted):
        return on_first(s, fleet), wanted, ""
    run, who = run_of(out, s, fleet, wanted)
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


def result_call(out: Answer, s: Settings, fleet: Fleet | None) -> ModuleCall:
    """``invoke merge``."""
    who, folder, run = result_folder(out, s, fleet)
    output = target(s, s.runs / run / "merged" if run else None)
    return who.call("trainer.merge", folder, f"{WORK}/result", "--json", output=output)


def checkpoint_call(out: Answer, s: Settings, fleet: Fleet | None) -> ModuleCall:
    """``invoke export``: a folder with every rank's shards, or a run's, brought together."""
    wanted = str(s.checkpoint)
    extra = ("--dtype", str(s.dtype)) if s.dtype else ()
    module = "trainer.universal" if s.universal else "trainer.export"
    if s.universal and s.dtype:
        raise ConfigError(
            "--dtype", found="--universal, too", expected="one of them", remedy="leave one out"
        )
    if fleet is None or _ON_HOST.match(wanted):
        who, folder, output = on_first(s, fleet), placed(fleet, "CHECKPOINT", wanted), None
        others: tuple[str, ...] = ()
        inputs: tuple[Fetch, ...] = ()
    else:
        match = _STEP.match(wanted)
        assert match
        run, who = run_of(out, s, fleet, match["run"])
        step = chosen_step(fleet, run, match["step"])
        folder = f"{run.outputs[who.host]}/checkpoint-{step}"
        name = f"universal-{step}" if s.universal else f"exported-{step}"
        output = s.runs / run.run / name
        inputs = gather_shards(fleet, run, step)
        others = ("--others", f"{WORK}/inputs") if inputs else ()
    args = (folder, f"{WORK}/result", *extra, *others, "--json")
    return who.call(module, *args, output=target(s, output), inputs=inputs)


def chosen_step(fleet: Fleet, run: KnownRun, step: str | None) -> int:
    """The checkpoint that was named, or the newest one that is whole on all hosts."""
    answers = gather_checkpoints(fleet, run)
    if step is not None:
        answers = {
            host: {kind: {k: v for k, v in found[kind].items() if k == step} for kind in found}
            for host, found in answers.items()
        }
    ranks = {
        host: range(node["first_rank"], node["first_rank"] + node["nproc_per_node"])
        for host, node in run.nodes.items()
    }
    chosen, torn = choose_checkpoint(answers, ranks)
    if chosen is None or run.unheard:
        missing = f"{run.unheard} of its {run.nnodes} hosts did not tell of it"
        raise ConfigError(
            f"checkpoint of {run.run}",
            found=missing if run.unheard else next(iter(torn.values()), "none was made"),
            expected="one that is whole on all of its hosts",
            remedy="bring the host back, or name another: RUN/checkpoint-STEP",
        )
    return chosen


def gather_shards(fleet: Fleet, run: KnownRun, step: int) -> tuple[Fetch, ...]:
    """What hosts other than the first have of a checkpoint."""
    folders = {host: f"{output}/checkpoint-{step}" for host, output in run.outputs.items()}
    asked: dict[str, Sequence[str]] = {h: ["list", f] for h, f in folders.items() if h != run.node0}
    if not asked:
        return ()
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    for host, answer in fleet.ask("collect", asked).items():
        if isinstance(answer, ProvisionError):
            raise answer
        found[host] = answer["files"]  # type: ignore[assignment]
    dirs = {host: run.run_dirs[host] for host in asked}
    wanted = plan_collect(dirs, folders, found)
    return tuple(replace(one, target=one.target.removeprefix("output/")) for one in wanted)


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
