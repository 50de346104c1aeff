"""An environment is made anew: removed where it is, once all is there that it is made from."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from provision.deploy.anew import judge_anew, lacking, with_removal
from provision.deploy.envs import parse_envs
from provision.deploy.plan import plan_deploy
from provision.deploy.spec import make_env_spec


@pytest.fixture
def spec(make_manifest):
    manifest = make_manifest()
    return make_env_spec("sympy==1.14.0 --hash=sha256:bb\n", manifest, Path("w") / manifest.wheel)


@pytest.fixture
def hosts(spec, make_facts):
    """Two hosts with it in use, and one that has another."""
    there = {"environment": {"lock": spec.name}, "environments": ["old", spec.name]}
    facts = {name: make_facts(name, **there) for name in ("node1", "node2")}
    return {**facts, "node3": make_facts("node3", environments=["old"])}


def test_all_of_it_is_made_again_and_put_to_use(spec, hosts):
    assert [phase.name for phase in plan_deploy(spec, hosts).phases][-1] == "switch"
    assert {s.host for p in plan_deploy(spec, hosts).phases for s in p.steps} == {"node3"}
    bare = {host: lacking(facts, spec.name) for host, facts in hosts.items()}
    plan = with_removal(plan_deploy(spec, bare), ["node1", "node2"], spec.name)
    assert [phase.name for phase in plan.phases] == ["push", "remove", "install", "prove", "switch"]
    hosts_of = {phase.name: sorted(set(phase.hosts)) for phase in plan.phases}
    assert hosts_of.pop("remove") == ["node1", "node2"]
    assert set(map(tuple, hosts_of.values())) == {("node1", "node2", "node3")}
    (step, _) = plan.phases[1].steps
    assert str(step.do) == f"remove ~/.zerofleet/envs/{spec.name}"
    assert json.loads(json.loads(base64.b64decode(step.do.argv[-1]))[-1]) == {"name": spec.name}
    assert bare["node1"]["environments"].value == ["old"]


def test_where_no_host_has_it_nothing_is_removed(spec, hosts):
    plan = plan_deploy(spec, {"node3": hosts["node3"]})
    assert with_removal(plan, [], spec.name) == plan


def test_what_uses_it_is_named_and_other_environments_do_not_matter():
    row = {"complete": True, "bytes": 1}
    answer = {
        "there": True, "place": "x", "current": "aa", "store": [], "history": [], "held": None,
        "runs": {"names": [], "bytes": 0, "alive": []}, "bytes": 1,
        "environments": [
            {**row, "name": "aa", "used_by": ["run r1", "run r2"]},
            {**row, "name": "bb", "used_by": []},
            {**row, "name": "cc", "used_by": ["run r3"]},
        ],
    }  # fmt: skip
    found = {"node1": parse_envs(answer)}
    assert [str(finding) for finding in judge_anew(found, "aa").findings] == [
        "node1: envs/aa: found in use by run r1, run r2, expected nothing that uses what is to be "
        "removed: stop it first, or wait for its end"
    ]
    assert judge_anew(found, "bb").ok
