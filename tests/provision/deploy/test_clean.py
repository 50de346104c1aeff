"""What is on hosts, and what of it may go: values in, plan out."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace

import pytest

from provision.deploy.clean import judge_undeploy, plan_clean, plan_undeploy, removal
from provision.deploy.envs import by_home, lines, parse_envs, rows
from provision.deploy.rollback import judge_rollback, plan_rollback, targets

PLACES = itertools.count()
A, B, C = "a" * 16, "b" * 16, "c" * 16
OLD_LOCK, NEW_LOCK, SHARED, OLD_ONLY, NEW_ONLY, STRAY, MODEL, SHARD = (
    f"{number:x}" * 64 for number in range(1, 9)
)


def entry(sha256, *names, names_also=(), used_by=()):
    return {
        "sha256": sha256,
        "names": list(names),
        "bytes": 1000,
        "names_also": list(names_also),
        "used_by": list(used_by),
    }


def environment(name, *, complete=True, used_by=()):
    record = {"at": 1e9, "torch": "2.13.0+cpu", "deepspeed": "0.19.8"} if complete else {}
    used = list(used_by)
    return {"name": name, "complete": complete, "bytes": 10**6, "used_by": used, **record}


def line(env, was, what="deploy", **rest):
    return {"at": 1e9, "env": env, "was": was, "by": "ana@login1", "what": what, **rest}


def make_answer(**changes):
    """A host on which A, B, then C were deployed; C is in use."""
    return {
        "there": True,
        "place": f"a home of its own: {next(PLACES)}",
        "current": C,
        "environments": [environment(name) for name in (A, B, C)],
        "store": [
            entry(OLD_LOCK, "requirements.txt", names_also=[SHARED, OLD_ONLY]),
            entry(NEW_LOCK, "requirements.txt", names_also=[SHARED, NEW_ONLY]),
            entry(SHARED, "shared.whl"),
            entry(OLD_ONLY, "old.whl"),
            entry(NEW_ONLY, "new.whl"),
            entry(STRAY, "stray.whl"),
            entry(MODEL, "manifest", "model", names_also=[SHARD]),
            entry(SHARD, "model.safetensors"),
        ],
        "runs": {"names": [], "bytes": 0, "alive": []},
        "history": [
            line(A, None, store=[OLD_LOCK]),
            line(B, A, store=[OLD_LOCK]),
            line(C, B, store=[NEW_LOCK]),
            line(C, B, store=None),
        ],
        "held": None,
        "bytes": 3 * 10**6,
        **changes,
    }


def host(**changes):
    return parse_envs(make_answer(**changes))


def test_clean_keeps_what_is_in_use_what_was_before_and_what_they_were_made_from():
    what = removal(host(), keep=1)
    assert what.envs == (A,)
    assert [one.sha256 for one in what.store] == [STRAY]
    what = removal(host(), keep=0)
    assert what.envs == (A, B)
    assert [one.sha256 for one in what.store] == [OLD_LOCK, OLD_ONLY, STRAY]
    assert str(what) == f"remove envs/{A}, envs/{B}, 3 files of the store (2.0 MB)"


def test_clean_never_takes_what_a_run_or_process_uses():
    used = [environment(A, used_by=["run r1"]), environment(B), environment(C)]
    what = removal(host(environments=used), keep=0)
    assert what.envs == (B,)
    assert OLD_ONLY not in [one.sha256 for one in what.store]


def test_one_that_was_made_anew_is_rolled_back_to_what_was_before_it():
    after = [*make_answer()["history"], line(None, C, "anew"), line(C, None)]
    assert host(history=after).gone_back_to() == (B, A)
    found = {"node1": host(history=after)}
    assert targets(found, None) == {"node1": B}


@pytest.mark.parametrize("how", ["rollback", "back"])
def test_what_the_next_rollback_goes_back_to_stays_rather_than_what_was_left(how):
    here = host(current=B, history=[*make_answer()["history"], line(B, C, how)])
    assert targets({"node1": here}, None) == {"node1": A}
    assert removal(here, keep=1).envs == (C,)
    assert removal(here, keep=2).envs == ()


def test_what_is_done_to_a_shared_home_is_done_once_and_what_any_host_uses_stays():
    used = [environment(A, used_by=["process 7 (python)"]), environment(B), environment(C)]
    shared = host(place="nfs", environments=used)
    found = {"node1": host(place="nfs"), "node2": shared, "node3": host()}
    assert removal(by_home(found)["node1"], keep=0).envs == (B,)
    assert [step.host for step in plan_clean(found, 0).phases[0].steps] == ["node1", "node3"]
    assert plan_undeploy(found, with_runs=True).phases[0].hosts == ("node1", "node3")
    assert plan_rollback(found, targets(found, None)).phases[0].hosts == ("node1", "node3")


def test_half_an_environment_goes():
    found = host(environments=[environment(A, complete=False), environment(C)])
    assert removal(found, keep=5).envs == (A,)


def test_models_and_data_go_only_when_asked_and_unused():
    def pushed(here):
        return {one.sha256 for one in removal(here, keep=1, pushed=True).store} - {STRAY}

    assert pushed(host()) == {MODEL, SHARD}
    store = make_answer()["store"]
    store[6] = entry(MODEL, "manifest", "model", names_also=[SHARD], used_by=["run r1"])
    assert pushed(host(store=store)) == set()


def test_a_pushed_folder_keeps_a_file_that_has_the_name_of_one_of_an_environment():
    part, folder = "ab" * 32, "cd" * 32
    store = [entry(part, "requirements.txt"), entry(folder, "project.tree", names_also=[part])]
    assert removal(host(store=store), keep=1).store == ()
    assert [one.sha256 for one in removal(host(store=store[:1]), keep=1).store] == [part]


def test_what_is_not_known_to_be_unused_stays():
    history = [line(A, None), line(C, A)]  # written before entries of the store were noted
    what = removal(host(history=history), keep=0)
    assert what.envs == (A, B)
    assert not what.store


def test_the_plan_names_what_goes_and_is_empty_where_nothing_does():
    bare = host(environments=[environment(C)], store=[])
    plan = plan_clean({"node1": host(), "node2": bare}, 1)
    (step,) = plan.phases[0].steps
    assert step.host == "node1"
    told = json.loads(json.loads(base64.b64decode(step.do.argv[-1]))[-1])
    assert told == {"envs": [A], "store": [STRAY[:16]]}
    assert plan_clean({"node2": bare}, 1).empty


def test_more_than_a_command_line_holds_goes_in_parts():
    many = host(
        store=[entry(f"{number:064x}", "stray.whl") for number in range(10**6, 10**6 + 4500)]
    )
    steps = plan_clean({"node1": many}, 1).phases[0].steps
    parts = [step.action.rpartition(", ")[2] for step in steps]
    assert parts == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]


def test_back_to_the_one_before_and_from_there_to_the_one_before_that():
    found = {"node1": host(), "node2": host()}
    chosen = targets(found, None)
    assert chosen == {"node1": B, "node2": B}
    assert judge_rollback(found, chosen, None).ok
    steps = plan_rollback(found, chosen).phases[0].steps
    assert [(step.host, step.action) for step in steps] == [
        ("node1", f"~/.zerofleet/current -> envs/{B}"),
        ("node2", f"~/.zerofleet/current -> envs/{B}"),
    ]
    after = make_answer()["history"] + [line(B, C, "rollback"), line(C, B, "back"), line(B, C, "x")]
    assert targets({"node1": host(current=B, history=after)}, None) == {"node1": A}


def test_back_to_one_by_how_its_name_begins():
    found = {"node1": host(), "node2": host(current=A)}
    assert targets(found, "a") == {"node1": A, "node2": A}
    assert plan_rollback(found, targets(found, "a")).phases[0].hosts == ("node1",)
    assert plan_rollback(found, targets(found, "c")).phases[0].hosts == ("node2",)


@pytest.mark.parametrize(
    ("changes", "to", "line"),
    [
        ({"history": []}, None, f"found no environment that was in use before {C}"),
        ({"environments": [environment(C)]}, None, f"found {B} removed, expected that one; there"),
        ({}, "d", f"found environments {A}, {B}, {C}, expected one that begins with d"),
    ],
)
def test_where_there_is_no_way_back_every_host_says_so(changes, to, line):
    found = {"node1": host(**changes), "node2": host(**changes)}
    report = judge_rollback(found, targets(found, to), to)
    assert [finding.host for finding in report.failing] == ["node1", "node2"]
    assert line in str(report.failing[0])


def test_hosts_that_would_go_back_to_different_ones_stay():
    other = host(history=[line(C, A, store=[])])
    found = {"node1": host(), "node2": other}
    report = judge_rollback(found, targets(found, None), None)
    assert [finding.found for finding in report.failing] == [
        f"{B} in use before",
        f"{A} in use before",
    ]


def test_undeploy_is_refused_while_a_run_goes_on_or_results_lie_there():
    alive = {"names": ["r1"], "bytes": 5, "alive": ["r1"]}
    ended = {"names": ["r1"], "bytes": 5, "alive": []}
    found = {"node1": host(runs=alive), "node2": host(runs=ended), "node3": host()}
    report = judge_undeploy(found, with_runs=False)
    assert [(f.host, f.subject) for f in report.failing] == [("node1", "in use"), ("node2", "runs")]
    (finding,) = judge_undeploy(found, with_runs=True).failing
    assert finding.host == "node1"


def test_undeploy_touches_only_hosts_that_have_something():
    found = {"node1": host(), "node2": host(there=False)}
    plan = plan_undeploy(found, with_runs=False)
    assert plan.phases[0].hosts == ("node1",)
    assert "remove ~/.zerofleet (3.0 MB)" in str(plan)


def test_the_table_folds_hosts_that_have_the_same():
    found = {f"node{number}": host() for number in (1, 2, 3)}
    found["node4"] = replace(host(), current=B)
    shown = rows(found)
    assert shown[0][:5] == ("node[1-4]", A, "complete", "1.0 MB", "-")
    assert ("node[1-3]", C, "current") in [row[:3] for row in shown]
    assert ("node4", B, "current") in [row[:3] for row in shown]
    assert shown[0][7].endswith(" by ana@login1")
    assert any("hosts use different environments" in said for said in lines(found))


def test_who_is_at_work_is_said():
    held = {"user": "ana", "host": "login1", "what": "deploy abc", "since": None}
    assert lines({"node1": host(held=held)})[0] == "node1: held by ana@login1: deploy abc"
