"""The nodes of a command with --slurm: of an allocation for it alone, or of a job that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from provision.commands.deploy.deploy import apply_planned, gather_deploy
from provision.commands.deploy.packages import read_spec
from provision.commands.slurm.job import NODES
from provision.deploy.plan import deployed
from provision.errors import ConfigError
from provision.fleet import Fleet, connected, error_report
from provision.hosts.facts import HostFacts, gather_facts, parse_facts
from provision.hosts.here import HERE
from provision.hosts.machines import home_owners
from provision.inventory import Inventory
from provision.remote import SshOptions
from provision.setting_table import EXISTING
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.allocation import (
    apply_allocation,
    read_allocation,
    salloc_argv,
    step_environ,
)
from provision.slurm.node import Node, nodes_of
from provision.slurm.spec import SlurmSpec, parse_slurm_spec
from provision.wheel.manifest import read_wheel, read_wheels

#: An install takes minutes; a slow file system, many. GPUs of each node, where the wheel needs any.
TIME, GPUS = "1:00:00", "1"


def make_nodes_spec(s: Settings) -> SlurmSpec:
    """What is wanted of Slurm for a command of minutes."""
    return parse_slurm_spec(
        nodes=s.nodes or NODES,
        gpus=s.gpus or GPUS,
        time=s.time if "time" in s.given else TIME,
        job_name=s.job_name or "zerofleet",
        partition=s.slurm if isinstance(s.slurm, str) else s.partition,
        account=s.account,
        qos=s.qos,
        constraint=s.constraint,
        cpus_per_task=s.cpus_per_task,
        mem=s.mem,
        exclusive=s.exclusive,
        more=s.sbatch,
        lead=1,
    )


def read_wants_gpus(s: Settings) -> bool:
    """Whether nodes are looked at for a wheel that needs GPUs, or GPUs were asked for."""
    wheel = read_wheel(s.wheels, s.wheel) if s.wheel or read_wheels(s.wheels) else None
    return "gpus" in s.given or (wheel is not None and wheel.accelerator == "cuda")


@contextmanager
def connected_slurm(out: Answer, s: Settings) -> Iterator[Fleet]:
    """The nodes as a fleet: given back at the end, where they were had for this alone."""
    options = SshOptions(workers=s.workers, answer_timeout=s.answer_timeout)
    environ = step_environ(os.environ, s.shared)
    if isinstance(s.slurm, str) and s.slurm.isdecimal():
        inventory, reached = nodes_of(read_allocation(s.slurm, environ))
        with connected(inventory, options, reached) as fleet:
            yield fleet
        return
    argv = salloc_argv(make_nodes_spec(s), gpus=read_wants_gpus(s))
    with apply_allocation(argv, environ, out.say, s.wait or None) as allocation:
        inventory, reached = nodes_of(allocation)
        out.add(slurm={"job": allocation.job, "nodes": list(inventory.labels)})
        with connected(inventory, options, reached) as fleet:
            yield fleet


@contextmanager
def connected_slurm_homes(out: Answer, s: Settings) -> Iterator[Fleet]:
    """One node for each home of the nodes: what is done to a home is done once.

    The command ends here if a node can't be asked which home it has.
    """
    with connected_slurm(out, s) as fleet:
        gathered = gather_facts(fleet, say=out.say)
        out.require(error_report(gathered.errors))
        owners = home_owners(gathered.facts)
        hosts = tuple(host for host in fleet.inventory if owners[host.label] == host.label)
        yield replace(fleet, inventory=Inventory(hosts=hosts))


def apply_shortcuts(fleet: Fleet, hosts: Mapping[str, HostFacts]) -> None:
    """Have files put into the nodes' homes from here, where this machine sees those homes."""
    place = ""
    for host, facts in hosts.items():
        node = fleet.connections[host]
        assert isinstance(node, Node)
        place = place or parse_facts(HERE, node.gather_here("probe"))["home.place"].value or "?"
        if facts["home.place"].value == place:
            fleet.connections[host] = replace(node, here=True)


def apply_slurm_deploy(out: Answer, s: Settings) -> None:
    """Deploy to nodes, as over SSH; a dry run has nodes too, as it reads what they are."""
    if s.env_source == EXISTING:
        raise ConfigError(
            "--env-source",
            found=f"{EXISTING}, with --slurm",
            expected="wheelhouse or index, as only a hosts file says whose Python that is",
            remedy="write --env-source wheelhouse, or deploy over SSH with --hosts",
        )
    spec = read_spec(s)
    with connected_slurm(out, s) as fleet:
        first = gather_deploy(out, s, fleet, spec)
        out.plan(first.plan)
        if not first.plan.empty:
            apply_shortcuts(fleet, first.facts)
        done = apply_planned(out, s, fleet, spec, first)
    out.deployed(deployed(spec, done.plan, done.facts))
