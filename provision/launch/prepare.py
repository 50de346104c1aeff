"""Settings and facts → what preflight asks, and the run that is planned."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.hosts.facts import HostFacts
from provision.inventory import Inventory
from provision.launch.code import Code
from provision.launch.nodes import RUNS
from provision.launch.recipe import parse_flags, read_recipe
from provision.launch.spec import RunHost, RunSpec, new_run_id, parse_run_spec, zero_config_name
from provision.preflight.nics import Way
from provision.preflight.ready import Wanted
from provision.settings import Settings


def zero_configs(code: Code) -> tuple[str, ...]:
    """Names of the DeepSpeed configurations among the files that travel."""
    paths = (Path(file.target) for file in code.files)
    return tuple(path.name for path in paths if path.parent.name == "zero_configs")


def read_new_run_id() -> str:
    """An id for a run that starts now."""
    return new_run_id(datetime.now().astimezone(), secrets.token_hex(2))


def read_run_recipe(settings: Settings, code: Code) -> dict[str, Any]:
    """The recipe's flags, after all that can be refused before a host is asked was looked at.

    Raises ConfigError for the first setting that is missing or can't be honoured.
    """
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
    parse_flags(settings.set, "--set")
    return read_flags(settings)


def read_flags(settings: Settings) -> dict[str, Any]:
    """The recipe's flags; ConfigError for a recipe that can't be read or has what is no flag."""
    return parse_flags(read_recipe(settings.recipe), f"recipe {settings.recipe}")


def clock_offsets(facts: Mapping[str, HostFacts]) -> dict[str, float]:
    """Seconds each host's clock is ahead of this one; hosts whose clock isn't known are left out.

    Whole seconds only: what is less is the time that the answer was on its way.
    """
    offsets = {host: fact["clock.offset"].value for host, fact in facts.items()}
    return {host: float(round(each["seconds"])) for host, each in offsets.items() if each}


def make_run_hosts(
    inventory: Inventory,
    facts: Mapping[str, HostFacts],
    accelerator: str,
    ways: Mapping[str, Way],
) -> tuple[RunHost, ...]:
    """The run's hosts in node_rank order.

    Slots are the hosts file's; else the host's GPUs, or 1 on the CPU. ``ways``: each host's way to
    all the others, of which it is told the interface.
    """
    hosts = []
    for host in inventory:
        fact = facts[host.label]
        slots = host.slots or (len(fact.gpus) if accelerator != "cpu" else 1) or 1
        here = [f for f in facts.values() if f["boot_id"].value == fact["boot_id"].value]
        hosts.append(
            RunHost(
                name=host.label,
                slots=slots,
                home=fact.home,
                nproc_per_node=slots,
                socket_interface=ways[host.label].interface,
                cores=_share(fact["cpu.cores"].value, len(here)),
                boot_id=fact["boot_id"].value,
                store=frozenset(fact["store"].value or ()),
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
        master_addr=settings.master_addr or node0,
        master_port=settings.master_port,
        accelerator=proof["accelerator"],
        lock=proof["name"],
        proof=proof,
        model=settings.model or "",
        data=settings.data or "",
        output=settings.output or f"~/{RUNS}",
        runs=f"~/{RUNS}",
        zero=settings.zero,
        offload=settings.offload,
        flags={**recipe, **parse_flags(settings.set, "--set")},
    )


def make_run_spec(
    settings: Settings,
    wanted: Wanted,
    hosts: Sequence[RunHost],
    run: str,
    recipe: Mapping[str, Any],
    code: Code,
) -> RunSpec:
    """The run; ConfigError for what can't be honoured."""
    return parse_run_spec(
        run=run,
        hosts=hosts,
        master_addr=wanted.master_addr,
        master_port=wanted.master_port,
        zero=wanted.zero,
        offload=wanted.offload,
        zero_configs=zero_configs(code),
        model=wanted.model,
        data=wanted.data,
        output=settings.output,
        # The environment itself rather than ``current``: a later deploy can't change a run.
        python=f"~/.zerofleet/envs/{wanted.lock}/bin/python",
        accelerator=wanted.accelerator,
        recipe=recipe,
        overrides=settings.set,
    )
