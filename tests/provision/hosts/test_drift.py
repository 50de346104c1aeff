"""Drift: what changed since when, on which host, and how to mend or accept it."""

from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.findings import Level
from provision.hosts.drift import drift, lockable, parse_allowed
from provision.hosts.lock import LOCKED, make_lock

WHEN = "2026-11-21T11:00:00+00:00"
REST = {
    "gpu.unread": {"absent": True}, "gpu.nvlink": {"absent": True}, "infiniband": {"absent": True},
    "interfaces": {"absent": True}, "cpu.quota": {"absent": True}, "memory.limit": {"absent": True},
    "environment.now": {"absent": True},
}  # fmt: skip


@pytest.fixture
def fleet(make_facts):
    def make(*hosts, **changes):
        return {host: make_facts(host, **{**REST, **changes}) for host in hosts}

    return make


def not_ok(report):
    return [f for f in report.findings if f.level is not Level.OK]


def test_an_unchanged_fleet_is_one_ok_each(fleet, make_manifest):
    facts, manifest = fleet("node1", "node2"), make_manifest()
    report = drift(make_lock(facts, manifest, WHEN), facts, manifest)
    assert [(f.host, f.level) for f in report.findings] == [("node1", "ok"), ("node2", "ok")]
    assert f"{len(LOCKED)} facts unchanged" in str(report.findings[0])


def test_a_changed_driver_is_refused_with_since_when_and_the_fix(fleet):
    lock = make_lock(fleet("node1", "node2", gpu_driver="580.65.06"), None, WHEN)
    now = fleet("node1", gpu_driver="580.65.06") | fleet("node2", gpu_driver="570.2")
    (finding,) = not_ok(drift(lock, now, None))
    assert finding.level is Level.ERROR
    line = "node2: gpu.driver: found 570.2, expected 580.65.06, as locked 2026-11-21 11:00 UTC: "
    assert str(finding).startswith(line + "install that driver again")
    assert "--allow-drift gpu.driver" in finding.remedy
    assert "invoke lock" in finding.remedy


def test_what_is_allowed_is_a_note(fleet):
    lock = make_lock(fleet("node1", gpu_driver="580.1"), None, WHEN)
    report = drift(lock, fleet("node1", gpu_driver="570.2"), None, {"gpu.driver"})
    assert [f.level for f in not_ok(report)] == [Level.NOTE]
    assert report.ok


def test_unknown_is_not_unchanged(fleet):
    lock = make_lock(fleet("node1"), None, WHEN)
    (finding,) = not_ok(drift(lock, fleet("node1", toolkit={"unknown": "nvcc: exit 1"}), None))
    assert finding.level is Level.UNKNOWN
    assert "nvcc: exit 1" in finding.found
    without = make_lock(fleet("node1", toolkit={"absent": True}), None, WHEN)
    assert not drift(without, fleet("node1", toolkit={"unknown": "nvcc: exit 1"}), None).ok


def test_what_goes_away_is_drift_and_what_appears_too(fleet):
    with_gpu = fleet("node1", gpu_driver="580.1")
    without = fleet("node1")
    (gone,) = not_ok(drift(make_lock(with_gpu, None, WHEN), without, None))
    assert "found none, expected 580.1" in str(gone)
    (new,) = not_ok(drift(make_lock(without, None, WHEN), with_gpu, None))
    assert "found 580.1, expected none" in str(new)


def test_new_and_missing_hosts_are_drift(fleet):
    lock = make_lock(fleet("node1", "node2", "node3"), None, WHEN)
    report = drift(lock, fleet("node1", "node9"), None, unread=["node3"])
    assert [(f.host, f.subject, f.found) for f in not_ok(report)] == [
        ("node9", "hosts", "in the hosts file only"),
        ("node2", "hosts", "in the lock only"),
    ]
    assert len(report.failing) == 2
    assert drift(lock, fleet("node1"), None, {"hosts"}).ok


def test_another_wheel_is_drift(fleet, make_manifest):
    facts = fleet("node1")
    lock = make_lock(facts, make_manifest(), WHEN)
    (finding,) = not_ok(drift(lock, facts, make_manifest(sha256="ef" * 32)))
    assert (finding.subject, finding.level) == ("wheel", Level.ERROR)
    assert "efefefefefef" in finding.found
    assert "abababababab" in finding.expected
    assert not drift(lock, facts, None).ok
    assert drift(lock, facts, None, {"wheel"}).ok


def test_what_was_unknown_when_it_was_locked_is_said(fleet):
    odd = fleet("node1", toolkit={"unknown": "nvcc: exit 1"})
    assert [f.level for f in lockable(odd, set()).findings] == [Level.UNKNOWN]
    assert lockable(odd, {"toolkit"}).ok
    assert lockable(fleet("node1"), set()).findings == ()
    (finding,) = not_ok(drift(make_lock(odd, None, WHEN), fleet("node1"), None))
    assert (finding.subject, finding.level) == ("toolkit", Level.NOTE)


def test_memory_may_wobble_and_not_shrink(fleet):
    lock = make_lock(fleet("node1", memory={"total": 512 << 30}), None, WHEN)
    assert drift(lock, fleet("node1", memory={"total": 511 << 30}), None).ok
    assert not drift(lock, fleet("node1", memory={"total": 448 << 30}), None).ok


@pytest.mark.parametrize("name", [*LOCKED, "hosts", "wheel"])
def test_whatever_can_drift_can_be_allowed(name):
    assert parse_allowed(f"kernel, {name}") == {"kernel", name}


@pytest.mark.parametrize(
    ("names", "remedy"), [("gpu.drivr", "did you mean gpu.driver?"), ("moon", "choose among")]
)
def test_what_can_not_drift_is_refused(names, remedy):
    with pytest.raises(ConfigError) as caught:
        parse_allowed(names)
    assert remedy in caught.value.remedy
