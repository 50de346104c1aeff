"""A plan carried out: all hosts or none, also when the switch itself fails somewhere."""

from __future__ import annotations

import pytest

from provision.deploy.apply import Deploying, apply_deploy
from provision.deploy.hold import Hold
from provision.deploy.switch import DEPLOY, SWITCH, use_step
from provision.errors import HostError, UnreachableError
from provision.findings import Report
from provision.fleet import Fleet
from provision.inventory import parse_inventory
from provision.steps import Phase, Plan, Run, Step

HOSTS = ("node1", "node2", "node3")
FENCED = Hold(report=Report(), token="t1").fenced


class Hosts:
    """Records what each host is told; ``fails``: (phase, host) where it goes wrong."""

    def __init__(self, monkeypatch, *fails, kind=HostError):
        self.done, self.fails, self.kind, self.confirmed = [], fails, kind, []
        self.fleet = Fleet(inventory=parse_inventory("\n".join(HOSTS), "hosts"))
        monkeypatch.setattr(Fleet, "_remote", lambda _, host: HostAt(self, host.label))

    def confirm(self, without):
        self.confirmed.append(sorted(without))

    def apply(self, partial=False, before=None):
        used = dict.fromkeys(HOSTS, "old") if before is None else before
        how = Deploying(before=used, confirm=self.confirm, fenced=FENCED, partial=partial)
        return apply_deploy(self.fleet, PLAN, how, print)

    def of(self, name):
        return [(host, what) for phase, host, what in self.done if phase == name]


class HostAt:
    def __init__(self, hosts, label):
        self.hosts, self.label = hosts, label

    def apply(self, phase, say):
        if (phase.name, self.label) in self.hosts.fails:
            what = f"{self.label}: {phase.name}"
            raise self.hosts.kind(what, found="x", expected="y", remedy="z")
        argvs = [step.do.argv[:2] for step in phase.of(self.label)]
        assert argvs == [("env", "ZEROFLEET_LOCK=t1")] * len(argvs), "for whoever has the lock"
        self.hosts.done += [(phase.name, self.label, step.action) for step in phase.of(self.label)]


PLAN = Plan(
    title="deploy",
    phases=(
        Phase(
            name="prove",
            steps=tuple(Step(host=h, do=Run(argv=("true",)), why="prove it") for h in HOSTS),
        ),
        Phase(name=SWITCH, steps=tuple(use_step(h, "new", DEPLOY, "all have it") for h in HOSTS)),
    ),
)
TO_NEW, TO_OLD = "~/.zerofleet/current -> envs/new", "~/.zerofleet/current -> envs/old"


def test_every_host_switches_once_all_are_proved_and_ours(monkeypatch):
    hosts = Hosts(monkeypatch)
    assert hosts.apply() == {}
    assert sorted(hosts.of(SWITCH)) == [(host, TO_NEW) for host in HOSTS]
    assert hosts.confirmed == [[]]


def test_no_host_switches_when_one_is_not_proved(monkeypatch):
    hosts = Hosts(monkeypatch, ("prove", "node2"))
    with pytest.raises(HostError, match="node2: prove"):
        hosts.apply()
    assert not hosts.of(SWITCH)


def test_no_host_switches_when_one_is_no_longer_ours(monkeypatch):
    hosts = Hosts(monkeypatch)

    def lost(without):
        raise HostError("node3: lock", found="x", expected="y", remedy="z")

    hosts.confirm = lost
    with pytest.raises(HostError, match="node3: lock"):
        hosts.apply()
    assert not hosts.of(SWITCH)


def test_those_that_switched_are_switched_back(monkeypatch):
    hosts = Hosts(monkeypatch, (SWITCH, "node2"))
    with pytest.raises(HostError, match="node2: switch: found x, expected y"):
        hosts.apply(before={"node1": "old", "node2": "old", "node3": None})
    back = dict(hosts.of("switch back"))
    assert back["node1"] == back["node2"] == TO_OLD
    assert back["node3"] == "no ~/.zerofleet/current, as before"


@pytest.mark.parametrize("kind", [HostError, UnreachableError])
def test_a_host_that_can_not_be_switched_back_is_named(monkeypatch, kind):
    hosts = Hosts(monkeypatch, (SWITCH, "node2"), ("switch back", "node2"), kind=kind)
    with pytest.raises(kind, match="not known which environment node2 uses now"):
        hosts.apply()


def test_partial_leaves_out_the_hosts_that_fail(monkeypatch):
    hosts = Hosts(monkeypatch, ("prove", "node1"), (SWITCH, "node2"))
    assert sorted(hosts.apply(partial=True)) == ["node1", "node2"]
    assert hosts.confirmed == [["node1"]]  # whoever has dropped out by then has no say
    assert hosts.of(SWITCH) == [("node3", TO_NEW)]
    assert not hosts.of("switch back")


def test_a_phase_may_have_a_way_of_its_own(monkeypatch):
    hosts, seen = Hosts(monkeypatch), []
    ways = {"prove": lambda phase, _: seen.append(phase.hosts) or {}}
    how = Deploying(before={}, confirm=hosts.confirm, fenced=FENCED, ways=ways)
    apply_deploy(hosts.fleet, PLAN, how, print)
    assert seen == [HOSTS]
    assert not hosts.of("prove")


def test_ctrl_c_during_the_switch_says_that_hosts_may_differ(monkeypatch):
    hosts, said = Hosts(monkeypatch), []

    def interrupted(*_):
        raise KeyboardInterrupt

    how = Deploying(before={}, confirm=hosts.confirm, fenced=FENCED, ways={SWITCH: interrupted})
    with pytest.raises(KeyboardInterrupt):
        apply_deploy(hosts.fleet, PLAN, how, said.append)
    assert "stopped while node[1-3] switched: they may differ now" in said
