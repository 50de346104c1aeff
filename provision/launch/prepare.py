"""Settings and facts → what preflight asks, and the run that is planned."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.hosts.facts import HostFacts
from provision.launch.code import Code, read_own_code, read_script_args, read_trainer_code
from provision.launch.environment import RunEnviron, parse_given, read_run_environ
from provision.launch.include import Choice
from provision.launch.nodes import RUNS
from provision.launch.numa import Binding
from provision.launch.own_config import read_own_config, require_agreeing
from provision.launch.recipe import override, parse_flags, read_recipe
from provision.launch.spec import (
    Limits,
    RunHost,
    RunSpec,
    Script,
    new_run_id,
    parse_run,
    with_training,
    zero_config_name,
)
from provision.preflight.nics import Way
from provision.preflight.ready import Wanted
from provision.settings import Settings


def zero_configs(code: Code) -> tuple[str, ...]:
    """Names of the DeepSpeed configurations among the files that travel."""
    paths = (Path(file.target) for file in code.files)
    return tuple(path.name for path in paths if path.parent.name == "zero_configs")


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the ranks run: the code, and a script of the user's own or the recipe of a trainer."""

    code: Code
    environ: RunEnviron
    script: Script | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """What is trained, as a run's id has it."""
        return "script" if self.script else str(self.recipe.get("objective") or "sft")


def read_new_run_id(program: Program) -> str:
    """An id for a run that starts now."""
    return new_run_id(datetime.now().astimezone(), secrets.token_hex(2), program.objective)


def read_program(settings: Settings, checkout: Path, argv: Sequence[str]) -> Program:
    """What is to run, after all that can be refused before a host is asked was looked at.

    ``argv``: this command line, for what stands behind ``--``. Raises ConfigError for the first
    setting that is missing or can't be honoured.
    """
    args = read_script_args(argv)
    given = {**settings.env_set, **parse_given(settings.env)}
    texts = {name: value if value is None else str(value) for name, value in given.items()}
    environ = read_run_environ(texts, Path.cwd())
    if settings.script:
        code, path = read_own_code(settings.code, settings.script)
        return Program(code=code, environ=environ, script=Script(path=path, args=args))
    if args:
        raise ConfigError(
            "arguments behind --",
            found=" ".join(args),
            expected="none without --script",
            remedy="give a trainer's flags with --set",
        )
    code = read_trainer_code(checkout, settings.deepspeed)
    return Program(code=code, environ=environ, recipe=read_run_recipe(settings, code))


def read_run_recipe(settings: Settings, code: Code) -> dict[str, Any]:
    """The recipe's flags of a run by one of our trainers; ConfigError as read_program."""
    if not settings.deepspeed:
        zero_config_name(settings.zero, settings.offload, zero_configs(code))
    for flag, value, what in (
        ("--model", settings.model, "a model folder on the hosts, or a hub name"),
        ("--data", settings.data, "a file or folder of rows on the hosts"),
    ):
        if not value:
            raise ConfigError(
                flag,
                found="nothing",
                expected=what,
                remedy=f"give {flag}, or set it in invoke.yaml",
            )
    changed = parse_flags(settings.set, "--set")
    recipe = read_flags(settings)
    if settings.deepspeed:
        config = read_own_config(settings.deepspeed)
        require_agreeing(settings.deepspeed, config, {**recipe, **changed})
    return recipe


def read_flags(settings: Settings) -> dict[str, Any]:
    """The recipe's flags, none of a script; ConfigError for a recipe that can't be read, or has
    what is no flag.
    """
    if settings.script:
        return {}
    return parse_flags(read_recipe(settings.recipe), f"recipe {settings.recipe}")


def env_python(name: str) -> str:
    """The Python of an environment on the hosts, below HOME."""
    return f".zerofleet/envs/{name}/bin/python"


def clock_offsets(facts: Mapping[str, HostFacts]) -> dict[str, float]:
    """Seconds each host's clock is ahead of this one; hosts whose clock isn't known are left out.

    Whole seconds only: what is less is the time that the answer was on its way.
    """
    offsets = {host: fact["clock.offset"].value for host, fact in facts.items()}
    return {host: float(round(each["seconds"])) for host, each in offsets.items() if each}


def make_run_hosts(
    choice: Choice,
    facts: Mapping[str, HostFacts],
    accelerator: str,
    ways: Mapping[str, Way],
    nproc: int | None = None,
    numa: Callable[[HostFacts], Binding] | None = None,
) -> tuple[RunHost, ...]:
    """The run's hosts in node_rank order.

    Slots are the hosts file's; else the host's GPUs, or 1 on the CPU. ``ways``: each host's way to
    all the others, of which it is told the interface. ``nproc``: ranks of each host, if not its
    slots; ``numa``: how ranks of a host are bound to CPUs. Raises ConfigError for a slot that was
    named and is not there.
    """
    hosts = []
    for host in choice.inventory:
        fact = facts[host.label]
        slots = host.slots or (len(fact.gpus) if accelerator != "cpu" else 1) or 1
        chosen = choice.slots(host.label, slots)
        ranks = nproc or (slots if chosen is None else len(chosen))
        here = [f for f in facts.values() if f["boot_id"].value == fact["boot_id"].value]
        hosts.append(
            RunHost(
                name=host.label,
                slots=slots if chosen is None else len(chosen),
                home=fact.home,
                nproc_per_node=ranks,
                devices=None if chosen is None else chosen[:ranks],
                socket_interface=ways[host.label].interface,
                cores=_share(fact["cpu.cores"].value, len(here)),
                boot_id=fact["boot_id"].value,
                store=frozenset(fact["store"].value or ()),
                address=ways[host.label].address,
                numa=numa(fact) if numa else None,
            )
        )
    return tuple(hosts)


def _share(cores: int | None, hosts: int) -> int | None:
    """A host's cores, where several names reach one machine: they share it."""
    return None if cores is None else max(1, cores // max(1, hosts))


def make_wanted(
    settings: Settings,
    hosts: Sequence[RunHost],
    node0: str,
    ways: Mapping[str, Way],
    proof: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> Wanted:
    """What preflight asks the hosts for.

    ``node0``: the first host's SSH address; ``proof``: what proved the environment (its name, the
    accelerator, ops); ``recipe``: the trainer's flags, which ``--set`` goes over.
    """
    return Wanted(
        slots={host.name: host.nproc_per_node for host in hosts},
        addresses={host.name: ways[host.name].address for host in hosts},
        interfaces={host.name: host.socket_interface for host in hosts},
        homes={host.name: host.home for host in hosts},
        devices={host.name: host.devices for host in hosts if host.devices is not None},
        master_addr=settings.master_addr or node0,
        master_port=settings.master_port,
        accelerator=proof["accelerator"],
        lock=proof["name"],
        proof=proof,
        model="" if settings.script else settings.model or "",
        data="" if settings.script else settings.data or "",
        output=settings.output or f"~/{RUNS}",
        runs=f"~/{RUNS}",
        zero=settings.zero,
        offload="none" if settings.script else settings.offload,
        # Nobody knows what a script asks of a GPU; that it is not bf16 only says: don't judge it.
        flags={"bf16": False}
        if settings.script
        else override(recipe, parse_flags(settings.set, "--set")),
    )


def make_limits(settings: Settings) -> Limits:
    """The limits of a run, as its flags have them."""
    return Limits(
        grace=float(settings.grace),
        failure_grace=float(settings.grace_after_failure),
        lost_after=float(settings.lost_after),
        start_within=float(settings.start_within),
    )


def make_run_spec(
    settings: Settings, wanted: Wanted, hosts: Sequence[RunHost], run: str, program: Program
) -> RunSpec:
    """The run; ConfigError for what can't be honoured."""
    base = parse_run(
        run=run,
        hosts=hosts,
        master_addr=wanted.master_addr,
        master_port=wanted.master_port,
        output=settings.output,
        # The environment itself rather than ``current``: a later deploy can't change a run.
        python=f"~/{env_python(wanted.lock)}",
        accelerator=wanted.accelerator,
        launcher=settings.launcher,
        environ=program.environ,
        limits=make_limits(settings),
    )
    if settings.deepspeed:
        config = read_own_config(settings.deepspeed)
        require_agreeing(settings.deepspeed, config, wanted.flags, wanted.world_size)
    return with_program(
        base,
        program,
        zero=wanted.zero,
        offload=wanted.offload,
        model=wanted.model,
        data=wanted.data,
        overrides=settings.set,
        own_config=settings.deepspeed is not None,
    )


def with_program(
    base: RunSpec,
    program: Program,
    *,
    zero: int,
    offload: str,
    model: str,
    data: str,
    overrides: Mapping[str, Any],
    objective: str | None = None,
    own_config: bool = False,
) -> RunSpec:
    """The run, of what ``program`` is: a script, of which nothing else counts, or a trainer.

    ``objective``: None is the recipe's; all else is with_training's.
    """
    if program.script:
        return replace(base, script=program.script)
    return with_training(
        base,
        zero=zero,
        offload=offload,
        zero_configs=zero_configs(program.code),
        model=model,
        data=data,
        recipe={name: value for name, value in program.recipe.items() if name != "objective"},
        overrides=overrides,
        objective=objective or program.objective,
        own_config=own_config,
    )
