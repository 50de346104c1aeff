"""Preflight as a whole: what the hosts answered, judged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import provision.preflight
from provision.errors import HostError, UnreachableError
from provision.findings import Level
from provision.hosts.fact_table import FACTS
from provision.preflight.evaluate import evaluate
from provision.preflight.nics import Way, choose_ways


@pytest.fixture
def judged(wanted, nodes, ready):
    """Findings above ok, as lines; keywords replace what is judged."""

    def judge(**given):
        values = {"wanted": wanted, "facts": nodes(), "ready": ready, **given}
        ways = given.get("ways") or choose_ways(values["facts"], values["wanted"].addresses)
        report = evaluate(values["wanted"], values["facts"], ways, values["ready"])
        return [f"{f.level}: {f}" for f in report.findings if f.level is not Level.OK]

    return judge


def test_a_healthy_fleet_has_no_finding_but_ok(judged):
    assert judged() == []


def test_an_environment_that_is_not_the_deployed_one(judged, nodes):
    (line,) = judged(facts=nodes("node2", environment={"lock": "old"}))
    assert line == (
        "error: node2: environment: found old, expected abc (this wheel and this lock): "
        "run: invoke deploy"
    )


def test_an_environment_that_somebody_installed_into(judged, nodes):
    (line,) = judged(facts=nodes("node3", **{"environment.now": {"torch": "2.12.0+cpu"}}))
    assert "node3: torch: found 2.12.0+cpu, expected 2.13.0+cpu, as deployed" in line


def test_what_a_host_did_not_answer_is_unknown_and_fails(judged, ready):
    error = HostError("node2: answer", found="noise", expected="an answer", remedy="again")
    (line,) = judged(ready=replace(ready, hosts={**ready.hosts, "node2": error}))
    assert line == "unknown: node2: preflight: found noise, expected an answer: again"


def test_a_host_that_went_away_meanwhile_is_unreachable(wanted, nodes, ready):
    gone = UnreachableError("node2: ssh", found="no answer", expected="one", remedy="is it up?")
    ready = replace(ready, hosts={**ready.hosts, "node2": gone})
    ways = choose_ways(nodes(), wanted.addresses)
    assert evaluate(wanted, nodes(), ways, ready).exit_code == 3


def test_nothing_answered_is_not_ok(wanted, nodes, ready):
    ways = choose_ways(nodes(), wanted.addresses)
    empty = replace(ready, hosts={}, mesh=replace(ready.mesh, dials={}, rates={}))
    report = evaluate(wanted, nodes(), ways, empty)
    assert {f.subject for f in report.failing} >= {"output", "model", "data", "ops"}


def test_an_own_name_on_loopback_matters_only_without_an_interface(judged, wanted, nodes):
    ways = choose_ways(nodes(), wanted.addresses)
    ways["node2"] = Way(interface=None, address="10.0.0.2")
    (line,) = [line for line in judged(ways=ways) if "own name" in line]
    assert "node2: own name: found node2 is 127.0.1.1 here" in line


def test_facts_are_asked_for_by_names_that_there_are():
    """A misspelt fact would be unknown for ever, or skipped."""
    folder = Path(provision.preflight.__file__).parent
    for name in ("gpus", "limits", "evaluate", "links", "nics", "firewall"):
        text = (folder / f"{name}.py").read_text()
        used = set(re.findall(r'facts\w*(?:\[\w+\])?\["([a-z_.]+)"\]', text))
        assert used <= set(FACTS), used - set(FACTS)
