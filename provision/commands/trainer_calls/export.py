"""The steps of export: a checkpoint's shards, brought together from all of its hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from provision.commands.trainer_calls.call import (
    ON_HOST,
    gather_named_run,
    on_first,
    placed,
    target,
)
from provision.errors import ConfigError, ProvisionError
from provision.fleet import Fleet
from provision.launch.checkpoints import choose_checkpoint, gather_checkpoints
from provision.launch.collect import Fetch, plan_collect
from provision.launch.module import (
    WORK,
    ModuleCall,
)
from provision.launch.runs import KnownRun
from provision.settings import Settings
from provision.show import Answer

#: Who made a checkpoint, and of which step, by its folder's name.
_STEP = re.compile(r"(?P<run>.+?)(?:/checkpoint-(?P<step>\d+))?$")


def gather_export_call(out: Answer, s: Settings, fleet: Fleet | None) -> ModuleCall:
    """``invoke export``: a folder with every rank's shards, or a run's, brought together."""
    wanted = str(s.checkpoint)
    extra = ("--dtype", str(s.dtype)) if s.dtype else ()
    module = "trainer.universal" if s.universal else "trainer.export"
    if s.universal and s.dtype:
        raise ConfigError(
            "--dtype and --universal", found="both", expected="one of them", remedy="leave one out"
        )
    if fleet is None or ON_HOST.match(wanted):
        who, folder, output = on_first(s, fleet), placed(fleet, "CHECKPOINT", wanted), None
        others: tuple[str, ...] = ()
        inputs: tuple[Fetch, ...] = ()
    else:
        match = _STEP.match(wanted)
        assert match
        run, who = gather_named_run(out, s, fleet, match["run"])
        step = gather_step(fleet, run, match["step"])
        folder = f"{run.outputs[who.host]}/checkpoint-{step}"
        name = f"universal-{step}" if s.universal else f"exported-{step}"
        output = s.runs / run.run / name
        inputs = gather_shards(fleet, run, step)
        others = ("--others", f"{WORK}/inputs") if inputs else ()
    args = (folder, f"{WORK}/result", *extra, *others, "--json")
    return who.call(module, *args, output=target(s, output), inputs=inputs)


def gather_step(fleet: Fleet, run: KnownRun, step: str | None) -> int:
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
