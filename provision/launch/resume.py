"""Start a run again as it was: what it was, by the word of its hosts, as settings of a new one.

Which checkpoint it goes on from: checkpoints.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.checkpoints import FROM, require_step, step_lines
from provision.launch.code import OWN, read_trainer_code
from provision.launch.environment import RunEnviron, Variable, parse_given, read_run_environ
from provision.launch.prepare import Program
from provision.launch.recipe import OWNED
from provision.launch.runs import KnownRun
from provision.launch.spec import OFFLOADS
from provision.settings import Settings

_OLD = "its plan is an older release's: what --env and --numa-binding gave it is not known"
#: Settings → the limits that they are in a run's plan.
_LIMITS = {
    "grace": "grace",
    "grace_after_failure": "failure_grace",
    "lost_after": "lost_after",
    "start_within": "start_within",
}


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A run to be started again. ``step`` is None when it has made no checkpoint: it then begins
    where it began before.

    ``torn``: why checkpoints that are newer were passed over, by step. ``settings`` and ``recipe``
    are the new run's; ``environ`` is what the user gave its ranks, ``secrets`` the names of what
    was given beside that, and is kept nowhere.
    """

    run: str
    step: int | None
    torn: Mapping[int, str]
    settings: Settings
    recipe: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """What a person should know before it starts."""
        before = self.recipe.get(FROM) if self.step is None else None
        if before:
            return (*self.notes, f"no checkpoint was made: going on from {before}, as it did")
        return (*self.notes, *step_lines(self.step, self.torn))


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


def own_config(run: KnownRun) -> str | None:
    """Where on node 0 the DeepSpeed configuration lies that a user gave the run; None without."""
    argv = run.nodes[run.node0 or ""]["argv"]
    config = argv[argv.index("--deepspeed") + 1] if "--deepspeed" in argv[:-1] else ""
    return config if config.rpartition("/")[2] == OWN else None


def _zero(config: str) -> dict[str, Any]:
    """Stage and offload by the name of one of our DeepSpeed configurations."""
    for stage, offloads in OFFLOADS.items():
        for offload, ending in offloads.items():
            if config.rpartition("/")[2] == f"zero{stage}{ending}.json":
                return {"zero": stage, "offload": offload, "deepspeed": None}
    raise ConfigError(
        "resume",
        found=f"a run with {config.rpartition('/')[2]}, a DeepSpeed configuration unknown here",
        expected="one of zero_configs/, or one that was given with --deepspeed",
        remedy=f"train again with that file: --deepspeed FILE --set {FROM}=FOLDER",
    )


def _from_home(value: Any, home: str) -> Any:
    """Paths below a host's HOME as ``~/…``: they are the same on hosts with another one."""
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    return ",".join(f"~/{p[len(home) + 1 :]}" if p.startswith(f"{home}/") else p for p in parts)


def plan_resume(
    run: KnownRun,
    answers: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    own: Path | None = None,
) -> Resume:
    """The run again as it was, with its own flags, from its newest whole checkpoint.

    What was named for this very command (``settings.given``) goes over what the run had.
    ``own``: a copy here of own_config(run), where there is one. Raises as require_step;
    ConfigError, too, if it was not one of our trainers'.
    """
    step, torn = require_step(run, answers)
    node = run.nodes[run.node0 or ""]
    objective, flags = parse_trainer_argv(node["argv"])
    home = str(node["run_dir"]).partition("/.zerofleet/")[0]
    flags = {name: _from_home(value, home) for name, value in flags.items()}
    output = str(flags["output_dir"])
    recipe = {key: value for key, value in flags.items() if key not in OWNED}
    if step is not None:
        recipe[FROM] = f"{output}/checkpoint-{step}"
    # A folder that the user named goes on being used; the run's own stays that run's.
    is_own = output == _from_home(f"{run.run_dirs[run.node0 or '']}/output", home)
    again = replace(
        settings,
        model=str(flags["model_name_or_path"]),
        data=str(flags["train_file_dir"]),
        output=None if is_own else output,
        zero_auto=False,
        set={},
        script=None,
        **({"deepspeed": own} if own else _zero(str(flags["deepspeed"]))),
        **_same_hosts(run, settings),
        **_same_way(run, settings),
    )
    asked = node.get("asked") or {}
    return Resume(
        run=run.run,
        step=step,
        torn=torn,
        settings=again,
        recipe={**recipe, "objective": objective},
        environ=asked.get("environ") or {},
        secrets=tuple(asked.get("secrets") or ()),
        notes=() if asked else (_OLD,),
    )


def _same_hosts(run: KnownRun, settings: Settings) -> dict[str, Any]:
    """The run's own hosts, of those in the hosts file, with as many ranks each on the same GPUs;
    or what was named for this command.
    """
    if "include" in settings.given or "exclude" in settings.given:
        return {}
    names = sorted(run.nodes, key=lambda host: int(run.nodes[host]["node_rank"]))
    ranks = {host: int(run.nodes[host]["nproc_per_node"]) for host in names}
    devices = {host: (run.nodes[host].get("asked") or {}).get("devices") for host in names}
    if len(set(ranks.values())) == 1 and not any(devices.values()):
        return {"include": "@".join(names), "exclude": None, "nproc": ranks[names[0]]}
    slots = {host: devices[host] or range(ranks[host]) for host in names}
    words = (f"{host}:{','.join(map(str, slots[host]))}" for host in names)
    return {"include": "@".join(words), "exclude": None, "nproc": None}


def _same_way(run: KnownRun, settings: Settings) -> dict[str, Any]:
    """How its ranks were started and how long was waited for what, but for what was named now."""
    node = run.nodes[run.node0 or ""]
    asked, limits = node.get("asked") or {}, node.get("limits") or {}
    had: dict[str, Any] = {
        "launcher": run.launcher,
        "numa_binding": asked.get("numa_binding", settings.numa_binding),
        "master_port": asked.get("master_port", settings.master_port),
        **{name: int(limits[key]) for name, key in _LIMITS.items() if key in limits},
    }
    return {name: value for name, value in had.items() if name not in settings.given}


def environ_again(resume: Resume, here: RunEnviron, given: Collection[str]) -> RunEnviron:
    """What the ranks get: what they had, and its secrets from ``here``; ``given``, names that were
    asked for now, go over both.

    ``here``: what a new run that is started in this shell would get. Raises ConfigError for a
    secret that is not there.
    """
    found = {
        name: Variable(name=name, value=value, origin=f"as in {resume.run}")
        for name, value in resume.environ.items()
    }
    ours = {variable.name: variable for variable in here.variables}
    if missing := [name for name in resume.secrets if name not in ours]:
        raise ConfigError(
            f"environment of {resume.run}",
            found=f"no {', '.join(missing)} in this shell",
            expected="the secrets that the run had: they are kept nowhere",
            remedy=f"export {' '.join(missing)}, then resume",
        )
    found |= {name: ours[name] for name in (*resume.secrets, *given)}
    return RunEnviron(variables=tuple(found[name] for name in sorted(found)))


def read_program_again(resume: Resume, checkout: Path) -> Program:
    """What is to run: the trainers of this checkout, with the run's own flags and environment."""
    s = resume.settings
    given = parse_given(s.env)
    kept = {name: None if value is None else str(value) for name, value in s.env_set.items()}
    named = {name: None for name in resume.secrets if name in os.environ}
    here = read_run_environ({**kept, **named, **given}, Path.cwd())
    return Program(
        code=read_trainer_code(checkout, s.deepspeed),
        environ=environ_again(resume, here, tuple(given)),
        recipe=resume.recipe,
    )
