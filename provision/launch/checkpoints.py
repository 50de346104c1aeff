"""Which checkpoint of a run can be gone on from: the newest that is whole on all of its hosts.

No file system is shared: each host holds its own ranks' part of a checkpoint. One that is torn on
any host can't be gone on from anywhere, so it is passed over, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provision.errors import ConfigError, HostError, ProvisionError
from provision.fleet import Fleet
from provision.launch.runs import KnownRun

#: The trainer's flag that names a checkpoint.
FROM = "resume_from_checkpoint"


def if_gone(run: str, step: int | None = None) -> str:
    """What is left where a host won't come back, or no longer has what it held."""
    folder = f"runs/{run}/output/checkpoint-{'STEP' if step is None else step}"
    return (
        "if it is gone for good, go on from what collect --checkpoints brought before: invoke "
        f"export {folder} --universal --python PYTHON, push that, train --set {FROM}=PATH"
    )


def step_lines(step: int | None, torn: Mapping[int, str]) -> tuple[str, ...]:
    """Which checkpoint a run goes on from, and which ones were passed over. Pure."""
    passed = [f"checkpoint-{newer} passed over: {why}" for newer, why in torn.items()]
    begin = "no checkpoint was made: beginning anew"
    return (*passed, begin if step is None else f"going on from step {step}")


def choose_checkpoint(
    answers: Mapping[str, Mapping[str, Any]], ranks: Mapping[str, Sequence[int]]
) -> tuple[int | None, dict[int, str]]:
    """(the newest step that every host can go on from, why newer ones can't). Pure.

    ``answers``: what onhost/checkpoints.py says of each host; ``ranks``: those that each is to run.
    """
    steps = {int(s) for a in answers.values() for s in (*a["checkpoints"], *a["torn"])}
    torn: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        why = _why_not(str(step), answers, ranks)
        if not why:
            return step, torn
        torn[step] = why
    return None, torn


def _why_not(
    step: str, answers: Mapping[str, Mapping[str, Any]], ranks: Mapping[str, Sequence[int]]
) -> str:
    """Why a checkpoint can't be gone on from; empty if it can."""
    total = sum(len(own) for own in ranks.values())
    saves: dict[str, str] = {}
    for host, own in ranks.items():
        found = answers[host]["checkpoints"].get(step)
        if found is None:
            return f"{host}: {answers[host]['torn'].get(step, 'it is not there')}"
        if found["world_size"] != total:
            return f"{host}: saved by {found['world_size']} ranks, and these are {total}"
        missing = sorted(set(own) - set(found["ranks"]))
        if missing:
            return f"{host}: it has no part of rank {', '.join(map(str, missing))}"
        saves.setdefault(str(found["save"]), host)
    if len(saves) > 1:
        return f"{' and '.join(saves.values())} hold different saves of it"
    return ""


def require_step(
    run: KnownRun, answers: Mapping[str, Mapping[str, Any]]
) -> tuple[int | None, dict[int, str]]:
    """choose_checkpoint's answer for a run that has ended. Pure.

    Raises ConfigError if it still runs; HostError if it made checkpoints, and none of them is
    whole: beginning anew would not be what was asked for.
    """
    if run.running or not run.node0 or run.unheard:
        raise ConfigError(
            f"resume {run.run}",
            found=f"it runs on {', '.join(run.running)}"
            if run.running
            else f"{run.unheard or 'some'} of its {run.nnodes} hosts did not tell of it",
            expected="a run that has ended, all of its hosts in the hosts file and up",
            remedy="stop it first"
            if run.running
            else f"bring the hosts back, then resume; {if_gone(run.run)}",
        )
    ranks = {
        host: range(one["first_rank"], one["first_rank"] + one["nproc_per_node"])
        for host, one in run.nodes.items()
    }
    step, torn = choose_checkpoint(answers, ranks)
    if step is None and torn:
        newest, why = next(iter(torn.items()))
        raise HostError(
            f"resume {run.run}",
            found=f"no checkpoint that is whole on all hosts; of step {newest}, {why}",
            expected="one",
            remedy=f"bring back the host that held its part; {if_gone(run.run, newest)}",
        )
    return step, torn


def gather_checkpoints(fleet: Fleet, run: KnownRun) -> dict[str, Mapping[str, Any]]:
    """What checkpoints of a run each of its hosts holds; raises a host's error."""
    args: dict[str, Sequence[str]] = {h: ["list", output] for h, output in run.outputs.items()}
    found: dict[str, Mapping[str, Any]] = {}
    for host, answer in fleet.ask("checkpoints", args).items():
        if isinstance(answer, ProvisionError):
            raise answer
        found[host] = answer
    return found
