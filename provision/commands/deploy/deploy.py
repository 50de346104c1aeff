"""The steps of a deploy: what it would do, and doing it while every host is ours alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from provision.commands.connect import connected_fleet
from provision.commands.deploy.packages import (
    apply_house,
    gather_anew,
    gather_own,
    read_house,
    read_spec,
    read_verdict,
    require_whole,
)
from provision.commands.deploy.unchanged import apply_done, read_inputs
from provision.commands.push.push import push_way
from provision.deploy.anew import lacking, with_removal
from provision.deploy.apply import ApplyPhase, Deploying, apply_deploy
from provision.deploy.hold import Hold, apply_hold
from provision.deploy.plan import deployed, plan_deploy
from provision.deploy.spec import EnvSpec
from provision.deploy.wheelhouse import Wheelhouse
from provision.errors import ProvisionError
from provision.findings import Report
from provision.fleet import Fleet, error_report
from provision.hosts.facts import HostFacts, gather_facts
from provision.hosts.machines import home_owners
from provision.hosts.parity import compare
from provision.inventory import Inventory
from provision.names import fold
from provision.session import Say
from provision.settings import Settings
from provision.show import Answer
from provision.steps import Phase, Plan


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """What is to be done, on hosts that are what ``facts`` say."""

    plan: Plan
    facts: Mapping[str, HostFacts]
    house: Wheelhouse | None = None

    @property
    def before(self) -> dict[str, str | None]:
        """The environment that each host uses so far."""
        return {host: facts.environment.get("lock") for host, facts in self.facts.items()}


def apply_whole(
    out: Answer, s: Settings, inventory: Inventory
) -> Mapping[str, Mapping[str, object]]:
    """Ask the hosts everything, and do what they lack: what was done. A dry run ends with the plan.

    That nothing is left to do is kept for the next deploy (unchanged.py).
    """
    inputs = read_inputs(s)
    spec = read_spec(s)
    with connected_fleet(s, inventory) as fleet:
        first = gather_deploy(out, s, fleet, spec)
        out.plan(first.plan)
        done = apply_planned(out, s, fleet, spec, first)
        apply_done(out, s, fleet, spec, inputs)
    return deployed(spec, done.plan, done.facts)


def gather_deploy(
    out: Answer, s: Settings, fleet: Fleet, spec: EnvSpec, hosts: Sequence[str] = ()
) -> Deploy:
    """Ask the hosts what they are, hold them against the wheel, and plan.

    The command ends here if one does not fit; with ``--partial`` only if none does.
    """
    gathered = gather_facts(fleet, say=out.say)
    found = {host: f for host, f in gathered.facts.items() if not hosts or host in hosts}
    known, own = gather_own(out, s, fleet, spec, found)
    fits = compare(spec.manifest, s.torch, known, deployed=False)
    errors = error_report(gathered.errors)
    report = Report(findings=(*errors.findings, *fits.findings, *own.findings))
    facts, having = left_of(out, s, known, report), list[str]()
    if s.anew:
        report, having = gather_anew(out, fleet, spec, facts)
        facts = left_of(out, s, facts, report)
        facts = {host: lacking(here, spec.name) for host, here in facts.items()}
    house = read_house(s, spec, facts)
    facts = left_of(out, s, facts, read_verdict(spec, facts, house))
    having = [host for host in having if host in facts]
    plan = with_removal(plan_deploy(spec, facts, house), having, spec.name)
    return Deploy(plan=plan, facts=facts, house=house)


def left_of(
    out: Answer, s: Settings, facts: Mapping[str, HostFacts], report: Report
) -> Mapping[str, HostFacts]:
    """The hosts that a report leaves: all of them or, with ``--partial``, those that are well."""
    failing = {finding.host for finding in report.failing}
    left = {host: found for host, found in facts.items() if host not in failing}
    if not s.partial or not left:
        out.require(report)
    else:
        out.report(report)
    return left


@contextmanager
def locked(
    out: Answer, s: Settings, fleet: Fleet, what: str, hosts: Sequence[str] = ()
) -> Iterator[Hold]:
    """The hosts' locks; the command ends here if another controller has one (``--wait``).

    A dry run changes nothing, so it takes none.
    """
    if out.dry_run:
        yield Hold(report=Report())
        return
    with apply_hold(fleet, what, out.say, hosts=hosts, wait=s.wait) as hold:
        out.require(hold.report)
        yield hold


def apply_planned(out: Answer, s: Settings, fleet: Fleet, spec: EnvSpec, first: Deploy) -> Deploy:
    """Carry out a deploy under the hosts' locks, planned anew: another's may just have ended."""
    if first.plan.empty:
        return first
    apply_house(out, first.house)
    homes = [host for host, owner in home_owners(first.facts).items() if host == owner]
    with locked(out, s, fleet, f"deploy {spec.name}", homes) as hold:
        out.add(findings=[])  # of the hosts as they are now
        deploy = gather_deploy(out, s, fleet, spec, tuple(first.facts))
        require_whole(deploy.house)
        push, mended = push_way(s, fleet, homes), list[Phase]()
        how = Deploying(
            before=deploy.before,
            confirm=hold.apply_confirm,
            fenced=hold.fenced,
            partial=s.partial,
            ways={"push": push, "install": install_way(fleet, spec, deploy, push, mended)},
        )
        failed = apply_deploy(fleet, deploy.plan, how, out.say)
    deploy = replace(deploy, plan=replace(deploy.plan, phases=(*mended, *deploy.plan.phases)))
    owners = home_owners(deploy.facts)
    failed = {host: failed[owners[host]] for host in owners if owners[host] in failed} | failed
    return without_failed(out, deploy, failed)


def install_way(
    fleet: Fleet, spec: EnvSpec, deploy: Deploy, push: ApplyPhase, mended: list[Phase]
) -> ApplyPhase:
    """How environments are made, on hosts that have all files, and again where one was rotten.

    A host that finds a file of its store rotten removes it (onhost/install.py), so that its store
    lacks it now. What was pushed anew is put down in ``mended``.
    """

    def apply(phase: Phase, say: Say) -> dict[str, ProvisionError]:
        errors = fleet.apply_phase(phase, say)
        if not errors:
            return errors
        store = {host: facts["store"] for host, facts in gather_facts(fleet).facts.items()}
        facts = {
            host: replace(here, facts={**here.facts, "store": store[host]})
            for host, here in deploy.facts.items()
            if host in errors and host in store
        }
        rotten = [p for p in plan_deploy(spec, facts, deploy.house).phases if p.name == "push"]
        for files in rotten:
            say(f"files had rotted in the store of {fold(files.hosts)}: they are sent again")
            mended.append(files)
            errors = {host: error for host, error in errors.items() if host not in files.hosts}
            errors |= push(files, say)
            steps = (s for s in phase.steps if s.host in files.hosts and s.host not in errors)
            errors |= fleet.apply_phase(replace(phase, steps=tuple(steps)), say)
        return errors

    return apply


def without_failed(out: Answer, deploy: Deploy, failed: Mapping[str, ProvisionError]) -> Deploy:
    """The deploy of the hosts on which it came to its end; the others are findings."""
    out.report(error_report(failed))
    done = {host: facts for host, facts in deploy.facts.items() if host not in failed}
    return Deploy(plan=deploy.plan, facts=done)
