"""Facts: known, absent and unknown stay three different things."""

from __future__ import annotations

from provision.hosts.fact_table import FACTS
from provision.hosts.facts import Fact, clock_offset


def test_a_recorded_answer_reads_back(make_facts):
    facts = make_facts()
    assert facts.home == "/home/ubuntu"
    assert facts["cpu.level"].value == "x86-64-v3"
    assert facts["gpus"].absent
    assert facts.gpus == ()
    assert facts.environment == {}
    assert facts.route("10.0.0.1")["interface"] == "eth0"
    assert facts.route("10.9.9.9") == {}


def test_absent_unknown_and_known_differ():
    assert str(Fact()) == "-"
    assert str(Fact(unknown="no ldconfig")) == "unknown (no ldconfig)"
    assert str(Fact(value="2.36")) == "2.36"
    assert Fact().as_json() == {"absent": True}
    assert Fact(unknown="x").as_json() == {"unknown": "x"}
    assert not Fact(unknown="x").absent


def test_a_fact_that_was_never_asked_for_is_unknown(make_facts):
    assert make_facts()["gpu.temperature"].unknown


def test_the_python_for_a_tag_prefers_one_that_can_make_a_venv(make_facts):
    rows = [
        {"path": "/opt/a/python3", "version": "3.11.9", "venv": False},
        {"path": "/usr/bin/python3.11", "version": "3.11.2", "venv": True},
    ]
    assert make_facts(pythons=rows).python_for("cp311").path == "/usr/bin/python3.11"
    assert make_facts(pythons=rows[:1]).python_for("cp311").venv is False
    assert make_facts(pythons=rows).python_for("cp312") is None


def test_json_holds_every_fact(make_facts):
    json = make_facts().as_json()
    assert json["glibc"] == {"value": "2.36"}
    assert json["gpu.driver"] == {"absent": True}


def test_the_recorded_answer_holds_every_fact(make_facts):
    assert set(make_facts().facts) == set(FACTS)


def clock(value, took):
    return {"clock": {"value": value}, "clock.took": {"value": took}}


def test_a_clock_s_offset_is_known_to_half_of_the_time_that_is_unaccounted_for():
    # Sent at 100.0, answered at 101.0; the probe itself took 0.6 s of that.
    offset = clock_offset(100.0, clock(150.2, 0.6), 101.0).value
    assert offset == {"seconds": 50.0, "bound": 0.2}
    # Whatever of the 0.4 s lay before the probe, the truth is within the bound.
    for before in (0.0, 0.1, 0.4):
        found = clock_offset(100.0, clock(100.0 + before + 7, 0.6), 101.0).value
        assert abs(found["seconds"] - 7) <= found["bound"] + 1e-9


def test_a_host_that_tells_no_time_has_an_unknown_offset():
    assert clock_offset(1.0, {"clock": {"unknown": "x"}}, 2.0).unknown
