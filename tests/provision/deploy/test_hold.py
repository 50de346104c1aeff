"""Locks on many hosts: all or none, and every host's finding."""

from __future__ import annotations

import json
import threading

import pytest

from provision.deploy import hold as holds
from provision.deploy.hold import Asker, Hold, apply_hold, holder_line, judge
from provision.errors import HostError, UnreachableError
from provision.fleet import Fleet
from provision.inventory import parse_inventory

ANA = {"user": "ana", "host": "login1", "what": "deploy abc", "token": "t1", "since": None}
ME = Asker(user="ben", host="login2", what="clean", token="t2")


class Hosts:
    """Hosts as far as a lock goes: who has which. Stands in for SSH, not for what is tested."""

    def __init__(self, monkeypatch, names, held=()):
        self.held = dict.fromkeys(held, ANA)
        self.taken, self.asked = [], []
        self.fleet = Fleet(inventory=parse_inventory("\n".join(names), "hosts"))
        monkeypatch.setattr(Fleet, "_remote", lambda _, host: HostAt(self, host.label))


class HostAt:
    def __init__(self, hosts, label):
        self.hosts, self.label = hosts, label

    def talk(self, script, args):
        assert (script, args[0]) == ("hold", "take")
        return Held(label=self.label, channel=None, hosts=self.hosts, asker=json.loads(args[1]))

    def ask(self, script, args):
        assert (script, args) == ("hold", ["read"])
        self.hosts.asked.append(self.label)
        return {"held": self.hosts.held.get(self.label)}


class Held(holds.Talk):
    def __init__(self, *, hosts, asker, **rest):
        super().__init__(**rest)
        self.hosts, self.asker = hosts, asker

    def send(self, message):
        pass

    def receive(self, timeout, on_line=None):
        held = self.hosts.held.get(self.label)
        if held is None:
            self.hosts.held[self.label] = self.asker
            self.hosts.taken.append(self.label)
        return {"held": held, "own": held == self.asker}

    def close(self):
        if self.hosts.held.get(self.label) == self.asker:
            del self.hosts.held[self.label]


def test_all_are_held_in_the_block_the_first_by_name_before_the_others(monkeypatch):
    hosts = Hosts(monkeypatch, ["node2", "node3", "node1"])
    with apply_hold(hosts.fleet, "deploy", print) as hold:
        assert hold.report.ok
        assert hosts.taken[0] == "node1"
        assert sorted(hosts.held) == ["node1", "node2", "node3"]
        hold.apply_confirm()
    assert not hosts.held


def test_one_that_is_anothers_and_none_is_held(monkeypatch):
    hosts = Hosts(monkeypatch, ["node1", "node2", "node3"], held=["node2"])
    with apply_hold(hosts.fleet, "deploy", print) as hold:
        (finding,) = hold.report.failing
        assert (finding.host, finding.found) == ("node2", "held by ana@login1: deploy abc")
        assert list(hosts.held) == ["node2"]


def test_who_does_not_get_the_first_touches_no_other_and_names_them_all(monkeypatch):
    hosts = Hosts(monkeypatch, ["node1", "node2", "node3"], held=["node1", "node3"])
    with apply_hold(hosts.fleet, "deploy", print) as hold:
        assert [finding.host for finding in hold.report.failing] == ["node1", "node3"]
    assert not hosts.taken
    assert sorted(hosts.asked) == ["node2", "node3"]


def test_waiting_ends_when_the_other_does(monkeypatch):
    hosts, told = Hosts(monkeypatch, ["node1", "node2"], held=["node2"]), []
    monkeypatch.setattr(holds.time, "sleep", lambda _: hosts.held.clear())
    with apply_hold(hosts.fleet, "deploy", told.append, wait=60) as hold:
        assert hold.report.ok
    assert "held by ana@login1" in told[0]


def test_nobody_waits_for_a_host_that_is_down():
    found = {
        "node1": {"held": ANA},
        "node2": UnreachableError("node2: ssh", found="no answer", expected="one", remedy="boot"),
    }
    report = judge(found, ME)
    assert report.exit_code == 3
    assert holds._is_hopeless(report)
    assert not holds._is_hopeless(judge({"node1": {"held": ANA}}, ME))


def test_two_hosts_with_one_home_are_one_lock():
    assert judge({"node1": {"held": {**ANA, "token": "t2"}}}, ME).ok


def test_what_keeps_a_lock_from_being_taken_is_said():
    (finding,) = judge({"node1": {"error": "~/.zerofleet/lock: No locks available"}}, ME).failing
    assert "No locks available" in str(finding)


def test_since_when():
    line = holder_line({**ANA, "since": 1_700_000_000.0})
    assert line.startswith("held by ana@login1 since 2023-11-1")


def test_a_lock_that_was_lost_ends_the_command(monkeypatch):
    hosts = Hosts(monkeypatch, ["node1", "node2"])
    with apply_hold(hosts.fleet, "deploy", print) as hold:
        hosts.held["node2"] = ANA
        with pytest.raises(HostError, match="node2: lock: found no longer held by this command"):
            hold.apply_confirm()
        hold.apply_confirm(without={"node2": "it dropped out before"})


def test_hosts_are_told_that_the_controller_lives_though_one_takes_no_more_bytes(monkeypatch):
    told, ended, stuck = [], threading.Event(), threading.Event()
    monkeypatch.setattr(holds, "_ALIVE_EVERY", 0.001)

    class Told(Held):
        def send(self, message):
            if self.label == "node1":
                stuck.wait()
            told.append((self.label, message))
            ended.set()

    talks = {h: Told(label=h, channel=None, hosts=None, asker={}) for h in ("node1", "node2")}
    Hold(report=judge({}, ME), talks=talks).say_alive(ended)
    assert ended.wait(20)
    assert told == [("node2", {"alive": True})]
    stuck.set()
