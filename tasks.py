"""ZeroFleet's commands. Each is: settings → read → decide → show or apply → exit code.

What a command needs in several steps is in provision/commands/, its flags too. Exit codes are in
provision/errors.py. Every command takes --json (one object on stdout, all else
on stderr); those that change something take --dry-run (reads happen, the plan is printed).

What one command alone works with is imported where it begins: the others start sooner.
"""

import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from invoke import Collection, Context, task

from provision import show
from provision.commands.connect import connected_fleet
from provision.commands.deploy import tasks as deploy_tasks
from provision.commands.flags import (
    AS_JOB,
    BUILD,
    FLEET,
    LAUNCH,
    LIMITS,
    LOCK,
    MEMORY,
    NODES,
    ON_NODES,
    RUN,
    SCRIPT,
    SLURM,
    TRAIN,
    WHEEL,
    Command,
    command,
    helps_of,
)
from provision.commands.help_texts import FOR_BUILDS, FOR_MEMORY, FOR_TOOLCHAIN, FOR_WAITING
from provision.commands.node import tasks as node_tasks
from provision.commands.push import tasks as push_tasks
from provision.commands.refusals import take_over
from provision.commands.runs import tasks as runs_tasks
from provision.commands.slurm import tasks as slurm_tasks
from provision.commands.slurm.flag import (
    apply_job,
    apply_nodes,
    connected_hosts,
    deploy_to_nodes,
    wants_nodes,
    wants_slurm,
)
from provision.commands.trainer_calls import tasks as trainer_tasks
from provision.findings import Report
from provision.settings import CHECKOUT, DEFAULTS


@command(*BUILD, *FLEET, "on", "with_source", "wheels", "dry_run", helps=FOR_BUILDS)
def build_deepspeed(out, s):
    """Build a DeepSpeed wheel from source, with its ops compiled and proved to load.

    Example: invoke build-deepspeed --arch A100,H100
    """
    from provision.build.spec import parse_build_spec
    from provision.build.toolchain import read_native_level
    from provision.build.with_source import read_sources
    from provision.commands.build import apply_here, apply_there, gather_targets
    from provision.hosts.fit import compare_built
    from provision.hosts.targets import fill_flags

    sources, targets = read_sources(s.with_source), gather_targets(out, s)
    flags = fill_flags({flag: getattr(s, flag) for flag in BUILD}, targets)
    spec = parse_build_spec(**flags, native=read_native_level(), out=str(s.wheels))
    build = partial(apply_there, s=s, flags=flags) if s.on else apply_here
    manifest, extras = build(out, spec=spec, targets=targets, sources=sources)
    out.require(compare_built(targets, manifest))
    out.built(s.wheels, manifest, extras)


@task(klass=Command, auto_shortflags=False, help=helps_of("path", "json"))
def inspect_wheel(_, path, json=False):
    """Show what a DeepSpeed wheel contains, whoever built it, and where it contradicts itself.

    Example: invoke inspect-wheel wheels/deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl
    """
    from provision.wheel.consistency import compare_inspection, read_manifest_beside
    from provision.wheel.inspect import read_inspection, read_objdump

    with show.answer(json=json) as out:
        found = read_inspection(Path(path), read_objdump())
        manifest, findings = read_manifest_beside(Path(path))
        out.add(**found.as_json(manifest))
        out.table(("what", "found"), found.rows(manifest))
        out.report(compare_inspection(found, manifest, findings), full=True)


@command("wheels")
def wheels(out, s):
    """List the wheels in the folder of wheels and in the build cache.

    Example: invoke wheels
    """
    from provision.build.cache import Layout, cache_dir
    from provision.build.shelf import COLUMNS, read_shelf

    now = datetime.now(UTC)
    found = read_shelf(s.wheels, Layout(root=cache_dir(os.environ)))
    out.add(folder=str(s.wheels), wheels=[one.as_json(now) for one in found])
    out.table(COLUMNS, [one.row(now) for one in found])


@command(*BUILD, helps=FOR_TOOLCHAIN)
def toolchain(out, s):
    """Show the tools that a build would use here, and everything that would stop it.

    Example: invoke toolchain --arch H100
    """
    from provision.build.cache import cache_dir
    from provision.build.compare import compare_toolchain, without_missing
    from provision.build.source import read_source
    from provision.build.spec import parse_build_spec
    from provision.build.toolchain import read_native_level, read_toolchain
    from provision.hosts.targets import fill_flags

    flags = fill_flags({flag: getattr(s, flag) for flag in BUILD}, None)
    flags["accelerator"] = s.accelerator or (None if s.arch else "cpu")
    spec = parse_build_spec(**flags, native=read_native_level())
    read_source(spec)  # one of your own may not be there
    found = read_toolchain(Context(), spec, cache_dir(os.environ))
    out.report(compare_toolchain(without_missing(spec, found), found), full=True)


@command(
    *FLEET, "wide", "fact", "slurm",
    helps={"slurm": "show the nodes of this job or partition, instead of hosts over SSH"},
)  # fmt: skip
def hosts(out, s):
    """Show what each host is: OS, CPU, memory, GPUs, driver, Pythons, environment in use.

    Example: invoke hosts --fact gpu.driver
    """
    from provision.fleet import error_report
    from provision.hosts.facts import gather_facts
    from provision.hosts.summary import hosts_json, one_fact, parse_fact, summarize

    if s.slurm:
        apply_nodes(out, s)
        return
    fact = parse_fact(s.fact) if s.fact else None
    with connected_fleet(s) as fleet:
        gathered = gather_facts(fleet, say=out.say)
    found = gathered.facts
    out.add(hosts=hosts_json(found, fact))
    out.summary(one_fact(found, fact) if fact else summarize(found, wide=s.wide))
    out.report(error_report(gathered.errors))


@command(*FLEET, *WHEEL, *LOCK, *NODES, helps=ON_NODES)
def parity(out, s):
    """Compare the hosts with the wheel, with each other and (--locked) with the drift lock.

    Example: invoke parity --hosts hosts.txt
    """
    from provision.commands.connect import peers_of
    from provision.commands.deploy.packages import read_wheel_and_lock
    from provision.fleet import error_report
    from provision.hosts.drift import drift, parse_allowed
    from provision.hosts.facts import gather_facts
    from provision.hosts.lock import read_lock
    from provision.hosts.parity import compare

    old, allowed = s.locked and read_lock(s.lock_file, needed=True), parse_allowed(s.allow_drift)
    manifest, env = read_wheel_and_lock(out, s)
    with connected_hosts(out, s) as fleet:
        gathered = gather_facts(fleet, peers_of(fleet), say=out.say)
    out.report(error_report(gathered.errors))
    report = compare(manifest, s.torch, gathered.facts, lock=env, slots=fleet.inventory.slots)
    drifted = drift(old or None, gathered.facts, manifest, allowed, unread=gathered.errors)
    out.report(Report(findings=(*report.findings, *drifted.findings)), full=True)


@command(*FLEET, *WHEEL, "lock_file", "allow_drift", "dry_run")
def lock(out, s):
    """Record what every host is: preflight and train then refuse hosts that have changed.

    Example: invoke lock
    """
    from provision.commands.connect import gather_all, peers_of
    from provision.commands.deploy.packages import read_wheel_and_lock
    from provision.hosts.drift import lockable, parse_allowed
    from provision.hosts.lock import apply_lock, make_lock, plan_lock, read_lock, read_now

    old, allowed = read_lock(s.lock_file), parse_allowed(s.allow_drift)
    manifest, _ = read_wheel_and_lock(out, s)
    with connected_fleet(s) as fleet:
        facts = gather_all(out, fleet, peers_of(fleet))
    out.require(lockable(facts, allowed))
    plan = plan_lock(s.lock_file, old, make_lock(facts, manifest, read_now()))
    out.plan(plan)
    apply_lock(plan)
    out.locked(plan)


@command(
    *FLEET, *WHEEL, *NODES, "limit", "wait", "partial", "anew", "dry_run",
    helps=ON_NODES | FOR_WAITING,
)  # fmt: skip
def deploy(out, s):
    """Install one tested environment, wheel included, on every host, or on none.

    Example: invoke deploy --hosts hosts.txt
    """
    if wants_nodes(s):
        deploy_to_nodes(out, s)
        return
    from provision.commands.connect import read_choice
    from provision.commands.deploy.unchanged import gather_unchanged

    inventory = read_choice(s).inventory
    if not gather_unchanged(out, s, inventory):
        from provision.commands.deploy.deploy import apply_whole  # and all it needs

        out.deployed(apply_whole(out, s, inventory))


@command(*FLEET, *WHEEL, *LOCK, *RUN, *TRAIN, *SCRIPT, "deep")
def preflight(out, s):
    """Check every host, and the network between them: could this run start now?

    Example: invoke preflight --model '~/models/qwen3' --data '~/data/chat.jsonl'
    """
    from provision.commands.deploy.packages import read_spec
    from provision.commands.train.readiness import gather_readiness
    from provision.launch.prepare import read_flags
    from provision.preflight.deep import evaluate_deep, gather_deep

    recipe = read_flags(s)
    env = read_spec(s)
    with connected_fleet(s) as fleet:
        ready = gather_readiness(out, s, fleet, env, recipe)
        out.report(ready.report, full=True)
        if s.deep and ready.report.ok:
            found = gather_deep(fleet, ready.wanted, out.say)
            out.report(evaluate_deep(ready.wanted, found), full=True)


@command(
    *FLEET, *WHEEL, *LOCK, *RUN, *TRAIN, *SCRIPT, *LAUNCH, *LIMITS, "resume", "runs", "slurm",
    *SLURM, "python", "accelerator", "dry_run", helps=AS_JOB,
)  # fmt: skip
def train(out, s):
    """Train on all hosts: preflight, torchrun under a supervisor on each, results collected.

    Example: invoke train --zero 2 --model '~/models/qwen3' --data '~/data/chat.jsonl'
    """
    from provision.commands.train.train import apply_train
    from provision.launch.prepare import read_program

    if wants_slurm(s):
        apply_job(out, s)
    elif s.resume:
        from provision.commands.train.resume import apply_resumed

        apply_resumed(out, s)
    else:
        apply_train(out, s, read_program(s, CHECKOUT, sys.argv))


@command(*FLEET, *TRAIN, "model", "accelerator", *MEMORY, helps=FOR_MEMORY)
def memory(out, s):
    """Estimate a run's memory per GPU and host: every ZeRO stage, what fits, what to change.

    Example: invoke memory --model qwen3-8b --gpus 8 --gpu-memory 80
    """
    from provision.commands.memory import gather_room
    from provision.launch.prepare import read_flags
    from provision.memory.advise import advise
    from provision.memory.asked import make_asked
    from provision.memory.read import read_model
    from provision.memory.table import headline, part_table, stage_table

    spec, room = gather_room(out, s, make_asked(s, read_model(s.model), read_flags(s)))
    advice = advise(spec, room, auto=s.zero_auto)
    out.add(model=spec.model.name, parameters=spec.model.parameters, **advice.as_json())
    out.text(headline(advice))
    out.table(*part_table(advice))
    out.table(*stage_table(advice))
    out.text(advice.text)
    out.exit = 1 if advice.asked.fits is False else 0


@task(klass=Command, auto_shortflags=False, help=helps_of("folder", "keep", "json"))
def demo(_, folder=None, keep=False, json=False):
    """Show the whole chain on this machine: two SSH hosts, a wheel, a fine-tune across both.

    Example: invoke demo --keep
    """
    from provision.demo.story import apply_demo

    with show.answer(json=json) as out:
        result = apply_demo(folder=folder, keep=keep, json=json, say=out.say)
        out.add(**result)
        out.exit = result["exit"]


#: Commands that belong together have a package, with its own tasks.py.
FAMILIES = (deploy_tasks, push_tasks, node_tasks, slurm_tasks, runs_tasks, trainer_tasks)
HERE = (
    build_deepspeed, toolchain, inspect_wheel, wheels, hosts, parity, lock, deploy, preflight,
    train, memory, demo,
)  # fmt: skip
ns = Collection(*HERE, *(one for family in FAMILIES for one in family.TASKS))
ns.configure({"zerofleet": DEFAULTS})
take_over()  # Invoke parses the command line and reads invoke.yaml next
