"""What run is wanted: hosts, and what they run: one of our trainers, or the user's own script.

Parsing is pure and complete: a RunSpec that exists can be planned.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from provision.errors import ConfigError
from provision.launch.code import OWN
from provision.launch.environment import RunEnviron
from provision.launch.numa import Binding
from provision.launch.recipe import override, parse_flags

STAGES = (1, 2, 3)
#: What starts a node's ranks, the default first.
LAUNCHERS = ("torchrun", "deepspeed")
#: What is offloaded to host memory → what the name of its DeepSpeed configuration ends in. Stages
#: 1 and 2 split no parameters, so there are none to offload:
#: https://www.deepspeed.ai/docs/config-json/#parameter-offloading
OFFLOADS: Mapping[int, Mapping[str, str]] = {
    1: {"none": "", "optimizer": "_offload"},
    2: {"none": "", "optimizer": "_offload"},
    3: {"none": "", "optimizer": "_offload_optimizer", "all": "_offload"},
}
GRACE = 15.0

_ON_HOST = re.compile(r"/|~/")
#: Data that hosts have in their hub cache (trainer/rows.py).
HUB = "hf://datasets/"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LOOPBACK = re.compile(r"127\.|localhost$|::1$|\[::1\]$")


@dataclass(frozen=True, kw_only=True)
class RunHost:
    """One host of a run.

    ``home`` is HOME there, absolute. ``slots`` is how many ranks fit (GPUs, or as the hosts file
    says), ``nproc_per_node`` how many are started, ``devices`` on which GPUs where not on the first
    ones. What follows is None where it is not known, and nothing is then set for it:
    ``socket_interface`` (its name), ``cores``, and ``boot_id``, which tells hosts that are one
    machine. ``store``: what was pushed there before, as ``sha256/name``. ``address`` is what the
    run's other hosts reach it at. ``numa``: how its ranks are bound to CPUs.
    """

    name: str
    slots: int
    home: str
    nproc_per_node: int
    socket_interface: str | None = None
    cores: int | None = None
    boot_id: str | None = None
    devices: tuple[int, ...] | None = None
    store: frozenset[str] = frozenset()
    address: str | None = None
    numa: Binding | None = None


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script of the user's own: its path in the code folder, and its arguments."""

    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the supervisors of a run go by, in seconds; plan.json has these names.

    ``grace``: between a graceful stop and SIGKILL, ``failure_grace``: the same after a failure.
    ``lost_after``: of silence, after which a host is lost; ``start_within``: in which every node
    must have been heard of.
    """

    grace: float = GRACE
    failure_grace: float = 3.0
    lost_after: float = 5.0
    start_within: float = 120.0


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run that can be planned.

    Paths are on the hosts; ``~/`` stands for each host's own HOME. ``output`` None means the run's
    own folder. ``accelerator`` is DeepSpeed's name of it, as in the wheel's manifest. ``flags`` are
    the trainer's: the recipe's, with ``--set`` over them. With ``script`` that is what runs, and
    what says what a trainer trains (``objective`` to ``data``, ``flags``) is empty. ``launcher`` is
    what starts the ranks of a node.
    ``by_hand``: the node_rank of the one node that a person starts, standing on it; of the other
    nodes nothing is known there, so none of them is watched from it.
    """

    run: str
    hosts: tuple[RunHost, ...]
    master_addr: str
    master_port: int
    python: str
    accelerator: str
    objective: str = ""
    zero_config: str = ""
    model: str = ""
    data: str = ""
    output: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    script: Script | None = None
    launcher: str = LAUNCHERS[0]
    environ: RunEnviron = field(default_factory=RunEnviron)
    offline: bool = False
    limits: Limits = Limits()
    by_hand: int | None = None
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)


def new_run_id(now: datetime, token: str, objective: str = "sft") -> str:
    """A run's id, e.g. ``20261121-083012-sft-3f9c``: sorts by time, and is a fine folder name."""
    return f"{now:%Y%m%d-%H%M%S}-{objective}-{token}"


def zero_config_name(stage: int, offload: str, available: Collection[str]) -> str:
    """File name of the DeepSpeed configuration for a stage and an offload.

    ``available`` are the names in zero_configs/. Raises ConfigError for what there is no
    configuration for; nothing else is ever taken in its place.
    """
    if stage not in STAGES:
        raise ConfigError(
            "--zero",
            found=stage,
            expected="1, 2 or 3",
            remedy="choose one of them; 3 splits the most",
        )
    names = {o: f"zero{stage}{ending}.json" for o, ending in OFFLOADS[stage].items()}
    usable = [o for o, name in names.items() if name in available]
    if offload not in usable:
        raise ConfigError(
            f"offload with ZeRO stage {stage}",
            found=offload,
            expected=" or ".join(usable) or "a file in zero_configs/",
            remedy="offloading parameters needs --zero 3"
            if offload == "all"
            else "choose one with --offload",
        )
    return names[offload]


def parse_hosts(hosts: Sequence[RunHost]) -> tuple[RunHost, ...]:
    """Hosts in rank order; ConfigError if there are none, or one can't take its ranks."""
    if not hosts:
        raise ConfigError(
            "hosts", found="none", expected="one or more", remedy="list them in the hosts file"
        )
    times = Counter(host.name for host in hosts)
    for host in hosts:
        if times[host.name] > 1:
            raise ConfigError(
                "hosts",
                found=f"{host.name} {times[host.name]} times",
                expected="each once: two nodes with one node_rank wait for ever",
                remedy="remove the repeated line from the hosts file",
            )
        if not 1 <= host.nproc_per_node <= host.slots:
            raise ConfigError(
                f"{host.name}: nproc_per_node",
                found=host.nproc_per_node,
                expected=f"1 to {host.slots}, its slots",
                remedy="correct --nproc, or slots= in the hosts file",
            )
    return tuple(hosts)


def _parse_master(addr: str, port: int, hosts: Sequence[RunHost]) -> None:
    machines = {host.boot_id or host.name for host in hosts}
    if len(machines) > 1 and _LOOPBACK.match(addr):
        raise ConfigError(
            "--master-addr",
            found=addr,
            expected=f"an address of {hosts[0].name} that every host reaches",
            remedy="name that address: on each host, the one given is the host itself",
        )
    if not addr or not 1 <= port <= 65535:
        raise ConfigError(
            "--master-addr and --master-port",
            found=f"{addr!r}, {port}",
            expected="an address, and a port from 1 to 65535",
            remedy="give an address that every host reaches, and a port that is free there",
        )


def _parse_path(flag: str, value: str | None) -> None:
    parts = [] if value is None else value.split(",")
    cached = [part for part in parts if flag == "data" and part.strip().startswith(HUB)]
    if not all(part in cached or _ON_HOST.match(part) for part in parts):
        raise ConfigError(
            f"--{flag}",
            found=value or "nothing",
            expected="a path on the hosts, from / or ~/",
            remedy="name it in full: a run has a working folder of its own there",
        )


def parse_run(
    *,
    run: str,
    hosts: Sequence[RunHost],
    master_addr: str,
    python: str,
    accelerator: str,
    output: str | None = None,
    master_port: int = 29500,
    launcher: str = LAUNCHERS[0],
    environ: RunEnviron | None = None,
    offline: bool = False,
    limits: Limits = RunSpec.limits,
    by_hand: int | None = None,
) -> RunSpec:
    """A run, but for what it runs (with_training, or a script).

    Raises ConfigError for the first thing that can't be honoured.
    """
    if not re.fullmatch(r"\w[\w.-]*", run):
        raise ConfigError(
            "run id",
            found=repr(run),
            expected="letters, digits, . _ -",
            remedy="take other characters out of it",
        )
    if accelerator not in ("cuda", "cpu"):  # DeepSpeed refuses an empty DS_ACCELERATOR too
        found = accelerator or "none"
        raise ConfigError(
            "--accelerator", found=found, expected="cuda or cpu", remedy="name one of them"
        )
    if launcher not in LAUNCHERS:
        raise ConfigError(
            "--launcher", found=launcher, expected=" or ".join(LAUNCHERS), remedy="name one of them"
        )
    _parse_master(master_addr, master_port, hosts)
    _parse_path("output", output)
    _parse_path("python", python)
    return RunSpec(
        run=run,
        hosts=parse_hosts(hosts),
        master_addr=master_addr,
        master_port=master_port,
        output=output,
        python=python,
        accelerator=accelerator,
        launcher=launcher,
        environ=environ or RunEnviron(),
        offline=offline,
        limits=limits,
        by_hand=by_hand,
    )


def with_training(
    spec: RunSpec,
    *,
    zero: int,
    offload: str,
    zero_configs: Collection[str],
    model: str,
    data: str,
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    objective: str = "sft",
    own_config: bool = False,
) -> RunSpec:
    """The run, of one of our trainers.

    ``zero_configs``: file names in zero_configs/; ``own_config``: the user's own is there, and
    meant; ``overrides``: ``--set``. Raises ConfigError for the first thing that can't be honoured.
    """
    _parse_path("data", data)
    if not _ON_HOST.match(model) and not _HUB_ID.fullmatch(model):
        raise ConfigError(
            "--model",
            found=model or "nothing",
            expected="a path on the hosts from / or ~/, or a hub id",
            remedy="name it in full",
        )
    return replace(
        spec,
        objective=objective,
        zero_config=OWN if own_config else zero_config_name(zero, offload, zero_configs),
        model=model,
        data=data,
        flags=override(parse_flags(recipe, "recipe"), parse_flags(overrides, "--set")),
    )
