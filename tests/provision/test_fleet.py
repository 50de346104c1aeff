"""Many hosts: what is said while they are awaited, and the files that they need."""

from __future__ import annotations

import resource
import threading

import pytest

from provision import fleet as fleets
from provision.errors import ConfigError, HostError
from provision.fleet import Fleet, apply_file_limit, awaiting, error_report
from provision.inventory import parse_inventory
from provision.remote import SshOptions


def test_the_first_few_that_are_awaited_are_named():
    names = [f"node{number}" for number in range(1, 10)]
    assert awaiting(names[:2], 64) == "62/64 answered, waiting for node1, node2"
    expected = "55/64 answered, waiting for node1, node2, node3, node4, node5, node6 and 3 more"
    assert awaiting(names, 64) == expected


def test_who_is_slow_is_told_and_holds_up_nobody(monkeypatch):
    done, told, answered = threading.Event(), [], []

    def say(line):
        told.append(line)
        if line.startswith("2/3"):
            done.set()

    def call(name):
        if name == "node2":
            done.wait(120)
        answered.append(name)
        return name

    monkeypatch.setattr(fleets, "SAY_EVERY", 0.01)
    monkeypatch.setattr(Fleet, "_remote", lambda _, host: host.label)
    fleet = Fleet(inventory=parse_inventory("node1\nnode2\nnode3\n", "hosts"))
    assert fleet.fan_out(call, say=say) == {name: name for name in ("node1", "node2", "node3")}
    assert told[-1] == "2/3 answered, waiting for node2"
    assert answered[-1] == "node2"


def test_ctrl_c_begins_with_no_host_that_waited_for_its_turn(monkeypatch):
    begun, workers, started, cut = [], [], threading.Event(), threading.Event()

    def call(name):
        begun.append(name)
        workers.append(threading.current_thread())
        started.set()
        cut.wait(120)

    def interrupt(futures, say):
        started.wait(120)
        raise KeyboardInterrupt

    def close(self):
        cut.set()
        workers[0].join(5)  # it has no more to do

    monkeypatch.setattr(fleets, "_await", interrupt)
    monkeypatch.setattr(Fleet, "_remote", lambda _, host: host.label)
    monkeypatch.setattr(Fleet, "close", close)
    hosts = parse_inventory("node1\nnode2\n", "hosts")
    with pytest.raises(KeyboardInterrupt):
        Fleet(inventory=hosts, options=SshOptions(workers=1)).fan_out(call)
    assert begun == ["node1"]


def test_the_limit_of_open_files_is_raised_as_far_as_allowed(monkeypatch):
    found = {}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: found.update(limits=limits))
    apply_file_limit(2)
    assert not found
    apply_file_limit(256)
    soft, hard = found["limits"]
    assert 256 * 2 < soft <= hard == 4096
    with pytest.raises(ConfigError, match="open files for 2000 hosts: found a hard limit of 4096"):
        apply_file_limit(2000)


def test_an_error_is_reported_under_what_it_is_about():
    error = HostError("node1: python", found="none", expected="one", remedy="install it")
    (finding,) = error_report({"node1": error, "node2": {}}).findings
    assert (finding.host, finding.subject) == ("node1", "python")


def test_what_is_wrong_with_the_ssh_config_is_no_hosts_fault(tmp_path):
    options = SshOptions(config=tmp_path / "none")
    fleet = Fleet(inventory=parse_inventory("node1\nnode2", "hosts"), options=options)
    with pytest.raises(ConfigError, match="no such file"):
        fleet.fan_out(lambda remote: remote.label)
