"""Start a run again from a checkpoint: which one is whole on all hosts, and what the run was.

No file system is shared: each host holds its own ranks' part of a checkpoint. One that is torn on
any host can't be gone on from anywhere, so it is passed over, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from provision.errors import ConfigError, HostError, ProvisionError
from provision.fleet import Fleet
from provision.launch.recipe import OWNED
from provision.launch.runs import KnownRun
from provision.launch.spec import OFFLOADS
from provision.settings import Settings

#: The trainer's flag that names a checkpoint, and the one that is none of a new run's.
_FROM = "resume_from_checkpoint"


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A run to be started again. ``step`` is None when it has no checkpoint and begins anew.

    ``torn``: why checkpoints that are newer were passed over, by step. ``settings`` and ``recipe``
    are the new run's.
    """

    step: int | None
    torn: Mapping[int, str]
    settings: Settings
    recipe: Mapping[str, Any]

    def lines(self) -> tuple[str, ...]:
        """What a person should know before it starts."""
        return step_lines(self.step, self.torn)


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


def parse_trainer_argv(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(objective, flags) of a launcher's argv: what nodes.trainer_argv wrote, read back.

    Raises ConfigError for a run of a user's own script: only it knows its checkpoints.
    """
    modules = [n for n, word in enumerate(argv[:-1]) if word in ("-m", "--module")]
    ours = [n for n in modules if argv[n + 1].startswith("trainer.")]
    # DeepSpeed's launcher takes --module alone, and the module's name after it.
    if not ours:
        raise ConfigError(
            "resume",
            found="a run of a script of your own",
            expected="a run of one of the trainers here",
            remedy="start it again with train --script, and what it takes to go on",
        )
    flags: dict[str, list[str]] = {}
    name = ""
    for word in argv[ours[-1] + 2 :]:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = [value] if equals else []
        else:
            flags[name].append(word)
    found = {key: some[0] if len(some) == 1 else some for key, some in flags.items()}
    return argv[ours[-1] + 1].removeprefix("trainer."), found


def _zero(config: str) -> tuple[int, str]:
    """(stage, offload) by the name of the DeepSpeed configuration that a run had."""
    for stage, offloads in OFFLOADS.items():
        for offload, ending in offloads.items():
            if config.rpartition("/")[2] == f"zero{stage}{ending}.json":
                return stage, offload
    raise ConfigError(
        "resume",
        found="a run with a DeepSpeed configuration of its own",
        expected="one of zero_configs/",
        remedy=f"train again with that file: --deepspeed FILE --set {_FROM}=FOLDER",
    )


def _from_home(value: Any, home: str) -> Any:
    """Paths below a host's HOME as ``~/…``: they are the same on hosts with another one."""
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    return ",".join(f"~/{p[len(home) + 1 :]}" if p.startswith(f"{home}/") else p for p in parts)


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
            remedy="stop it first" if run.running else "bring the hosts back, then resume",
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
            remedy="bring back the host that held its part, or train anew",
        )
    return step, torn


def plan_resume(
    run: KnownRun, answers: Mapping[str, Mapping[str, Any]], settings: Settings
) -> Resume:
    """The run again as it was, with its own flags, from its newest whole checkpoint.

    Raises as require_step; ConfigError, too, if it was not one of our trainers'.
    """
    step, torn = require_step(run, answers)
    node = run.nodes[run.node0 or ""]
    objective, flags = parse_trainer_argv(node["argv"])
    home = str(node["run_dir"]).partition("/.zerofleet/")[0]
    flags = {name: _from_home(value, home) for name, value in flags.items()}
    return _resume(run, settings, step, torn, objective, flags, home)


def _resume(
    run: KnownRun,
    settings: Settings,
    step: int | None,
    torn: Mapping[int, str],
    objective: str,
    flags: Mapping[str, Any],
    home: str,
) -> Resume:
    stage, offload = _zero(str(flags["deepspeed"]))
    output = str(flags["output_dir"])
    recipe = {key: value for key, value in flags.items() if key not in (*OWNED, _FROM)}
    if step is not None:
        recipe[_FROM] = f"{output}/checkpoint-{step}"
    # A folder that the user named goes on being used; the run's own stays that run's.
    own = output == _from_home(f"{run.run_dirs[run.node0 or '']}/output", home)
    again = replace(
        settings,
        model=str(flags["model_name_or_path"]),
        data=str(flags["train_file_dir"]),
        output=None if own else output,
        zero=stage,
        zero_auto=False,
        offload=offload,
        set={},
        script=None,
        **_same_hosts(run, settings),
    )
    return Resume(step=step, torn=torn, settings=again, recipe={**recipe, "objective": objective})


def _same_hosts(run: KnownRun, settings: Settings) -> dict[str, Any]:
    """The run's own hosts, of those in the hosts file, with as many ranks each; or what was named
    for this command.
    """
    if "include" in settings.given or "exclude" in settings.given:
        return {}
    ranks = {node["nproc_per_node"] for node in run.nodes.values()}
    names = sorted(run.nodes, key=lambda host: int(run.nodes[host]["node_rank"]))
    nproc = ranks.pop() if len(ranks) == 1 else settings.nproc
    return {"include": "@".join(names), "nproc": nproc}


def gather_checkpoints(fleet: Fleet, run: KnownRun) -> dict[str, Mapping[str, Any]]:
    """What checkpoints of a run each of its hosts holds; raises a host's error."""
    args: dict[str, Sequence[str]] = {h: ["list", output] for h, output in run.outputs.items()}
    found: dict[str, Mapping[str, Any]] = {}
    for host, answer in fleet.ask("checkpoints", args).items():
        if isinstance(answer, ProvisionError):
            raise answer
        found[host] = answer
    return found
