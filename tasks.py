"""ZeroFleet's commands. Each is: settings → read → decide → show or apply → exit code.

Exit codes are in provision/errors.py. Every command takes --json (one object on stdout, all else
on stderr); those that change something take --dry-run (reads happen, the plan is printed).
"""

import inspect
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from invoke import Collection, Context, task

from provision import show
from provision.build.apply import apply_build
from provision.build.cache import Layout, cache_dir
from provision.build.compare import compare_toolchain, without_missing
from provision.build.make_extra import apply_extras
from provision.build.on import Builder, apply_on, plan_on, read_cargo
from provision.build.plan import plan_build
from provision.build.shelf import COLUMNS, read_shelf
from provision.build.spec import parse_build_spec
from provision.build.state import read_state
from provision.build.toolchain import read_native_level, read_toolchain
from provision.build.with_source import plan_extras, read_sources, with_extras
from provision.demo.story import apply_demo
from provision.deploy.plan import deployed, plan_deploy
from provision.deploy.spec import read_env_spec
from provision.findings import Report
from provision.fleet import connected, error_report
from provision.hosts.drift import drift, lockable, parse_allowed
from provision.hosts.facts import gather_facts
from provision.hosts.fit import Wanted, compare_built, compare_wanted, require_python
from provision.hosts.here import read_here
from provision.hosts.lock import apply_lock, make_lock, plan_lock, read_lock, read_now
from provision.hosts.parity import compare
from provision.hosts.summary import hosts_json, one_fact, parse_fact, summarize
from provision.hosts.targets import compare_hosts, fill_flags, make_targets
from provision.inventory import parse_inventory, read_inventory
from provision.launch.apply import apply_launch
from provision.launch.plan import plan_launch, read_code_files
from provision.launch.prepare import (
    clock_offsets,
    make_run_hosts,
    make_run_spec,
    make_wanted,
    read_flags,
    read_new_run_id,
    read_run_recipe,
)
from provision.memory.advise import advise
from provision.memory.asked import make_asked, on_hosts, room_from_flags, room_of
from provision.memory.judge import (
    after_failure,
    compare_peaks,
    peak_lines,
    plan_run,
    read_peaks,
)
from provision.memory.read import read_model
from provision.memory.table import headline, part_table, stage_table
from provision.preflight.deep import evaluate_deep, gather_deep
from provision.preflight.evaluate import evaluate
from provision.preflight.nics import choose_ways
from provision.preflight.ready import gather_ready
from provision.remote import SshOptions
from provision.script import script_argv
from provision.settings import CHECKOUT, DEFAULTS, read_settings
from provision.wheel.consistency import compare_inspection, read_manifest_beside
from provision.wheel.extra import read_extras
from provision.wheel.inspect import read_inspection, read_objdump
from provision.wheel.manifest import read_wheel, read_wheels

HELP = {
    "hosts": "hosts file (default hosts.txt; builds: none): [user@]host[:port] [slots=N] lines",
    "ssh_config": "an OpenSSH client configuration in place of ~/.ssh/config",
    "accept_new": "accept, and record, keys of hosts that known_hosts does not list yet",
    "wide": "more columns: clock, kernel, network, toolkit, firewall …",
    "fact": "one fact alone, as in --fact gpu.driver, hosts grouped by its value",
    "answer_timeout": "seconds that a host may take to tell what it is (default 60)",
    "accelerator": "cuda (which --arch implies) or cpu; never guessed from this machine",
    "ops": "ops to compile, by DeepSpeed's names, or all (default for cuda: "
    "cpu_adam,fused_adam,utils; cpu: cpu_adam,shm_comm; NVMe offload is async_io, not utils)",
    "arch": "GPUs to compile for: '8.0;9.0+PTX', or names: A100,H100",
    "toolkit": "nvcc from: auto (CUDA_HOME where it fits torch, else packages), system, pypi",
    "cpu": "x86-64-v2, -v3, -v4, native (this machine's level), or auto: the lowest of --hosts, "
    "else x86-64-v3 (the default)",
    "torch": "torch release to build against; a wheel fits one release only",
    "version": "DeepSpeed release to build",
    "source": "a DeepSpeed source folder or archive in place of a release",
    "with_source": "source folders of other Python projects, comma-separated: wheels of them, too",
    "python": "interpreter whose version the hosts run (default: this one)",
    "on": "[user@]host[:port] to build on, over SSH; the wheel comes here",
    "jobs": "compilers at once (default: as many as cores and memory allow)",
    "path": "the .whl file of a DeepSpeed wheel, whoever built it",
    "wheel": "file name of the wheel, where the folder of wheels holds several",
    "wheels": "folder of built wheels (default: wheels/ of this checkout)",
    "model": "model folder on the hosts (absolute, or from ~/), or the name of a cached hub model",
    "data": "file or folder of rows on the hosts; several separated by commas",
    "output": "folder on the hosts for checkpoints and adapter (default: in the run's own folder)",
    "zero": "ZeRO stage: 1, 2, 3 (default 2), or auto: the fastest that fits the hosts",
    "offload": "what is kept in host memory: none (default), optimizer, or all (stage 3)",
    "recipe": "YAML file of trainer flags (default recipes/sft.yaml)",
    "set": "a trainer flag over the recipe's, as in --set max_steps=50; may be given several times",
    "master_addr": "address of the first host as the others reach it (default: its SSH address)",
    "master_port": "TCP port on the first host that all ranks meet at (default 29500)",
    "runs": "local folder that results are collected to (default runs/)",
    "deep": "also run a real all-reduce on all hosts, and measure every pair of them",
    "locked": "refuse to go on without a drift lock (one that is there is held to in any case)",
    "lock_file": "the drift lock (default zerofleet.lock.json beside the hosts file)",
    "allow_drift": "what may differ from the drift lock, as in gpu.driver,kernel",
    "method": "what trains: full, lora or qlora (default: as the recipe has it)",
    "objective": "sft (default), orpo (two rows at a time) or pretrain",
    "gpus": "GPUs of each host, for machines that you do not have yet",
    "nodes": "how many such hosts (default 1)",
    "gpu_memory": "GB (10^9 bytes) of each of these GPUs, as in 80",
    "host_memory": "GB of each of these hosts",
    "seq": "tokens of a row (default: as the recipe has it)",
    "batch": "rows that a GPU takes at once",
    "accum": "micro-batches in a step",
    "checkpointing": "recompute activations in backward: true or false",
    "attn": "attention implementation: sdpa, eager, flash_attention_2 or _3",
    "precision": "bf16, fp16 or fp32",
    "lora_rank": "rank of the adapter",
    "folder": "the demo's folder (default zerofleet-demo/ in the checkout)",
    "keep": "leave the demo's hosts up until Ctrl-C",
    "dry_run": "read everything, print the plan, change nothing",
    "json": "one JSON object on stdout, everything else on stderr",
}
BUILD = (
    "accelerator",
    "ops",
    "arch",
    "toolkit",
    "cpu",
    "torch",
    "version",
    "source",
    "python",
    "jobs",
)
FLEET = ("hosts", "ssh_config", "accept_new", "answer_timeout")
WHEEL = ("wheel", "wheels")
TRAIN = ("zero", "offload", "recipe", "set")
MEMORY = ("method", "objective", "gpus", "nodes", "gpu_memory", "host_memory", "seq", "batch")
MEMORY += ("accum", "checkpointing", "attn", "precision", "lora_rank")
LOCK = ("locked", "lock_file", "allow_drift")
RUN = ("model", "data", "output", "master_addr", "master_port")


def command(*flags):
    """A command with these flags and --json; its body gets an Answer and the Settings."""

    def decorate(body):
        def run(c, **given):
            json, dry_run = given.pop("json"), given.pop("dry_run", False)
            with show.answer(json=json, dry_run=dry_run) as out:
                body(out, read_settings(c.config.zerofleet, **given))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = dict.fromkeys(("accept_new", "deep", "locked", "wide", "dry_run", "json"), False)
        run.__signature__ = inspect.Signature(
            [inspect.Parameter("c", kind)]
            + [inspect.Parameter(f, kind, default=defaults.get(f)) for f in (*flags, "json")]
        )
        run.__doc__, name = body.__doc__, body.__name__.replace("_", "-")
        helps = {flag: HELP[flag] for flag in (*flags, "json")}
        lists = [flag for flag in flags if flag == "set"]
        return task(run, name=name, help=helps, iterable=lists, auto_shortflags=False)

    return decorate


def fleet_of(s, inventory=None):
    """The hosts of the hosts file, or of another inventory, to be connected to."""
    options = SshOptions(
        config=s.ssh_config,
        accept_new=s.accept_new,
        connect_timeout=s.connect_timeout,
        workers=s.workers,
        answer_timeout=s.answer_timeout,
    )
    return connected(inventory or read_inventory(s.hosts), options)


def facts_of(out, fleet, peers=()):
    """Facts of every host; the command ends here if one can't be reached."""
    gathered = gather_facts(fleet, peers, say=out.say)
    out.require(error_report(gathered.errors))
    return gathered.facts


def peers_of(fleet):
    """The addresses that every host looks up its way to: all of theirs."""
    return [fleet.address(host) for host in fleet.inventory.labels]


def wheel_of(out, s):
    """The wheel that hosts are held against, and its environment's name; None twice if none."""
    manifest = read_wheel(s.wheels, s.wheel) if s.wheel or read_wheels(s.wheels) else None
    out.say(f"wheel: {manifest or f'none in {s.wheels}: hosts against each other only'}")
    return manifest, read_env_spec(CHECKOUT, s.wheels, manifest).name if manifest else None


def ready_of(out, s, fleet, env, recipe):
    """The run's hosts, what it wants of them, and what preflight found there."""
    lock, allowed = read_lock(s.lock_file, needed=s.locked), parse_allowed(s.allow_drift)
    found = fleet.fan_out(lambda remote: str(remote.cxn.host))
    out.require(error_report(found))
    facts = facts_of(out, fleet, list(found.values()))
    ways = choose_ways(facts, found)
    hosts = make_run_hosts(fleet.inventory, facts, env.manifest.accelerator, ways)
    wanted = make_wanted(s, hosts, found[hosts[0].name], ways, env.proof, recipe)
    rows = (CHECKOUT / "trainer" / "rows.py").read_text(encoding="utf-8")
    answers = gather_ready(fleet, wanted, rows, out.say)
    memory = plan_run(wanted, facts, answers, auto=s.zero_auto)
    wanted = replace(wanted, zero=memory.zero, offload=memory.offload)
    ready = evaluate(wanted, facts, ways, answers)
    fits = compare(env.manifest, s.torch, facts, deployed=False, slots=fleet.inventory.slots)
    drifted = drift(lock, facts, env.manifest, allowed)
    parts = (fits.hurting, drifted.findings, ready.findings, memory.report.findings)
    report = Report(findings=tuple(finding for part in parts for finding in part))
    out.add(memory=memory.as_json())
    if not memory.report.ok:
        out.table(*stage_table(memory.advice))
    return hosts, wanted, report, clock_offsets(facts), memory


def ended(out, memory, node0, result):
    """How a run ended; what it took beside what was planned; for want of memory, what to change."""
    out.outcome(result)
    peaks = read_peaks(result.collected / "hosts" / node0 / "metrics.jsonl")
    rows, first = compare_peaks(memory, peaks), result.outcome.first_failure
    out.add(peaks=rows)
    out.text("\n".join(peak_lines(rows))) if rows else None
    advice = first and after_failure(memory, first.reason, first.lines)
    if advice:
        out.add(memory_advice=advice)
        out.text(advice)


def room_for(out, s, spec):
    """The run on the hosts of the hosts file and their room, or on the machines of the flags."""
    if s.gpus is not None or not (s.hosts.is_file() or "hosts" in s.given):
        return spec, room_from_flags(s)
    with fleet_of(s) as fleet:
        facts = facts_of(out, fleet)
    slots = {h.label: h.slots or len(facts[h.label].gpus) or 1 for h in fleet.inventory}
    return on_hosts(spec, slots), room_of(facts, slots)


def targets_of(out, s):
    """The hosts that a build is for; None unless --hosts was given on this command line."""
    if "hosts" not in s.given:
        return None
    with fleet_of(s) as fleet:
        facts = facts_of(out, fleet)
    out.require(compare_hosts(facts, s.accelerator))
    targets = make_targets(facts, s.accelerator)
    out.say(f"for {targets}")
    return targets


def require_fit(out, spec, targets, tag, builder=None):
    """End the command here if what is about to be built does not fit the hosts it is for."""
    if targets is not None:
        wanted = Wanted(
            accelerator=spec.accelerator,
            archs=spec.archs,
            cpu=spec.cpu.name,
            python_tag=tag,
            ops=spec.op_names,
        )
        out.require(compare_wanted(targets, wanted, builder or read_here()))


def built_here(out, spec, targets, sources):
    """The wheel, built on this machine, and the extra ones."""
    cache = cache_dir(os.environ)
    toolchain = read_toolchain(Context(), spec, cache)
    spec = without_missing(spec, toolchain)
    out.require(compare_toolchain(spec, toolchain))
    require_fit(out, spec, targets, toolchain.python.tag)
    plan = plan_build(spec, toolchain, read_state(spec, toolchain, cache))
    extras = plan_extras(plan, sources, read_extras(spec.out) if sources else ())
    out.plan(with_extras(plan.steps, extras))
    return apply_build(plan, out.say), apply_extras(plan, extras, out.say)


def built_on(out, s, spec, targets, flags, sources):
    """The wheel, built on the one host that --on names, and the extra ones."""
    with fleet_of(s, parse_inventory(s.on, "--on")) as fleet:
        (facts,) = facts_of(out, fleet).values()
        python = require_python(targets, facts, s.python)
        require_fit(out, spec, targets, python.tag, facts)
        builder = Builder(
            host=facts.host,
            home=facts.home,
            python=python.path,
            tag=python.tag,
            store=frozenset(facts["store"].value or ()),
        )
        cargo = read_cargo(CHECKOUT, s.source, tuple(one.folder or one.path for one in sources))
        plan = plan_on(builder, {**flags, "python": None}, cargo)
        out.plan(plan.steps)
        built = apply_on(fleet, plan, s.wheels, out.say)
    out.require(built.report)
    return built.manifest, built.extras


@command(*BUILD, *FLEET, "on", "with_source", "wheels", "dry_run")
def build_deepspeed(out, s):
    """Build a DeepSpeed wheel from source, with its ops compiled and proved to load."""
    sources, targets = read_sources(s.with_source), targets_of(out, s)
    flags = fill_flags({flag: getattr(s, flag) for flag in BUILD}, targets)
    spec = parse_build_spec(**flags, native=read_native_level(), out=str(s.wheels))
    build = partial(built_on, s=s, flags=flags) if s.on else built_here
    manifest, extras = build(out, spec=spec, targets=targets, sources=sources)
    out.require(compare_built(targets, manifest))
    out.built(s.wheels, manifest, extras)


@task(auto_shortflags=False, help={flag: HELP[flag] for flag in ("path", "json")})
def inspect_wheel(_, path, json=False):
    """Say what a DeepSpeed wheel is, whoever built it, and where it contradicts itself."""
    with show.answer(json=json) as out:
        found = read_inspection(Path(path), read_objdump())
        manifest, findings = read_manifest_beside(Path(path))
        out.add(**found.as_json(manifest))
        out.table(("what", "found"), found.rows(manifest))
        out.report(compare_inspection(found, manifest, findings), full=True)


@command("wheels")
def wheels(out, s):
    """List the wheels that are there: in the folder of wheels, and in the build cache."""
    now = datetime.now(UTC)
    found = read_shelf(s.wheels, Layout(root=cache_dir(os.environ)))
    out.add(folder=str(s.wheels), wheels=[one.as_json(now) for one in found])
    out.table(COLUMNS, [one.row(now) for one in found])


@command(*BUILD)
def toolchain(out, s):
    """Show what a wheel would be built with here, and everything that would stop the build."""
    flags = fill_flags({flag: getattr(s, flag) for flag in BUILD}, None)
    flags["accelerator"] = s.accelerator or (None if s.arch else "cpu")
    spec = parse_build_spec(**flags, native=read_native_level())
    found = read_toolchain(Context(), spec, cache_dir(os.environ))
    out.report(compare_toolchain(without_missing(spec, found), found), full=True)


@command(*FLEET, "wide", "fact")
def hosts(out, s):
    """Show what each host is: OS, CPU, memory, GPUs, driver, Pythons, environment in use."""
    fact = parse_fact(s.fact) if s.fact else None
    with fleet_of(s) as fleet:
        gathered = gather_facts(fleet, say=out.say)
    found = gathered.facts
    out.add(hosts=hosts_json(found, fact))
    out.summary(one_fact(found, fact) if fact else summarize(found, wide=s.wide))
    out.report(error_report(gathered.errors))


@command(*FLEET, *WHEEL, *LOCK)
def parity(out, s):
    """Hold the hosts against the wheel, if one is built, each other and (--locked) the lock."""
    old, allowed = s.locked and read_lock(s.lock_file, needed=True), parse_allowed(s.allow_drift)
    manifest, env = wheel_of(out, s)
    with fleet_of(s) as fleet:
        gathered = gather_facts(fleet, peers_of(fleet), say=out.say)
    out.report(error_report(gathered.errors))
    report = compare(manifest, s.torch, gathered.facts, lock=env, slots=fleet.inventory.slots)
    drifted = drift(old or None, gathered.facts, manifest, allowed, unread=gathered.errors)
    out.report(Report(findings=(*report.findings, *drifted.findings)), full=True)


@command(*FLEET, *WHEEL, "lock_file", "allow_drift", "dry_run")
def lock(out, s):
    """Record what every host is: preflight and train then refuse when one is not so any more."""
    old, allowed = read_lock(s.lock_file), parse_allowed(s.allow_drift)
    manifest, _ = wheel_of(out, s)
    with fleet_of(s) as fleet:
        facts = facts_of(out, fleet, peers_of(fleet))
    out.require(lockable(facts, allowed))
    plan = plan_lock(s.lock_file, old, make_lock(facts, manifest, read_now()))
    out.plan(plan)
    apply_lock(plan)
    out.locked(plan)


@command(*FLEET, *WHEEL, "dry_run")
def deploy(out, s):
    """Give every host the same proved environment with the wheel, or none of them."""
    spec = read_env_spec(CHECKOUT, s.wheels, read_wheel(s.wheels, s.wheel))
    with fleet_of(s) as fleet:
        facts = facts_of(out, fleet)
        out.require(compare(spec.manifest, s.torch, facts, deployed=False))
        plan = plan_deploy(spec, facts)
        out.plan(plan)
        fleet.apply(plan, out.say)
    out.deployed(deployed(spec, plan, facts))


@command(*FLEET, *WHEEL, *LOCK, *RUN, *TRAIN, "deep")
def preflight(out, s):
    """Ask every host, and the network between them, whether this run could start now."""
    recipe = read_flags(s)
    env = read_env_spec(CHECKOUT, s.wheels, read_wheel(s.wheels, s.wheel))
    with fleet_of(s) as fleet:
        _, wanted, report, _, _ = ready_of(out, s, fleet, env, recipe)
        out.report(report, full=True)
        if s.deep and report.ok:
            out.report(evaluate_deep(wanted, gather_deep(fleet, wanted, out.say)), full=True)


@command(*FLEET, *WHEEL, *LOCK, *RUN, *TRAIN, "runs", "dry_run")
def train(out, s):
    """Train over all hosts: preflight, torchrun under a supervisor on each, results collected."""
    code = read_code_files(CHECKOUT)
    recipe = read_run_recipe(s, code)
    env = read_env_spec(CHECKOUT, s.wheels, read_wheel(s.wheels, s.wheel))
    with fleet_of(s) as fleet:
        hosts, wanted, report, clocks, memory = ready_of(out, s, fleet, env, recipe)
        out.require(report)
        spec = make_run_spec(s, wanted, hosts, read_new_run_id(), recipe, code)
        out.plan(launch := plan_launch(spec, code, script_argv))
        result = apply_launch(fleet, launch, s.runs, out.say, clocks)
        ended(out, memory, wanted.node0, result)


@command(*FLEET, *TRAIN, "model", "accelerator", *MEMORY)
def memory(out, s):
    """Plan a run's memory by GPU and host: every ZeRO stage, what fits, and what to change."""
    spec, room = room_for(out, s, make_asked(s, read_model(s.model), read_flags(s)))
    advice = advise(spec, room, auto=s.zero_auto)
    out.add(model=spec.model.name, parameters=spec.model.parameters, **advice.as_json())
    out.text(headline(advice))
    out.table(*part_table(advice))
    out.table(*stage_table(advice))
    out.text(advice.text)
    out.exit = 1 if advice.asked.fits is False else 0


@task(auto_shortflags=False, help={flag: HELP[flag] for flag in ("folder", "keep", "json")})
def demo(_, folder=None, keep=False, json=False):
    """Show the whole chain on this machine: two SSH hosts, a wheel, a fine-tune over both."""
    with show.answer(json=json) as out:
        result = apply_demo(folder=folder, keep=keep, json=json, say=out.say)
        out.add(**result)
        out.exit = result["exit"]


ns = Collection(
    build_deepspeed,
    toolchain,
    inspect_wheel,
    wheels,
    hosts,
    parity,
    lock,
    deploy,
    preflight,
    train,
    memory,
    demo,
)
ns.configure({"zerofleet": DEFAULTS})
