from __future__ import annotations

import pytest

from provision.push.plan import compare_looks, is_local, plan_push
from provision.push.pushed import LocalFile, Pushed, make_pushed

NOTHING = {"there": False, "held": [], "path": "/h/x"}


@pytest.fixture
def folder(tmp_path) -> Pushed:
    files = [
        LocalFile(path=f"m/{c}", source=tmp_path / c, size=10, sha256=c * 64) for c in ("a", "b")
    ]
    return make_pushed("m", files, folder=True)


def test_only_what_a_host_lacks_is_sent(folder):
    looks = {
        "n1": NOTHING,
        "n2": {**NOTHING, "held": ["a" * 64]},
        "n3": {**NOTHING, "there": True},
    }
    plan = plan_push(folder, looks)
    push, arrange = plan.phases
    assert [len(push.of(host)) for host in ("n1", "n2", "n3")] == [3, 2, 0]
    assert arrange.hosts == ("n1", "n2")
    assert folder.path in str(plan)


def test_nothing_is_done_where_all_have_it(folder):
    assert plan_push(folder, {"n1": {**NOTHING, "there": True}}).empty


def test_all_is_sent_to_be_checked_where_that_is_asked_for(folder):
    looks = {"n1": NOTHING, "n2": {**NOTHING, "there": True}}
    push, arrange = plan_push(folder, looks, check=True).phases
    assert [len(push.of(host)) for host in looks] == [3, 3]
    assert {step.why for step in push.steps} == {
        "hash it there, and send it if it is lacking or has rotted"
    }
    assert arrange.hosts == ("n1", "n2")


def test_a_file_needs_no_arranging(tmp_path):
    one = LocalFile(path="x", source=tmp_path / "x", size=1, sha256="a" * 64)
    plan = plan_push(make_pushed("x", [one], folder=False), {"n1": NOTHING})
    assert [phase.name for phase in plan.phases] == ["push"]


def test_a_run_is_refused_where_it_is_not(folder):
    looks = {"n1": {**NOTHING, "there": True}, "n2": NOTHING}
    (finding,) = compare_looks("./m", "model", folder, looks)
    assert (finding.host, finding.remedy) == ("n2", "invoke push ./m")


@pytest.mark.parametrize("path", ["./m", "../m/n", "."])
def test_local_paths(path):
    assert is_local(path)


@pytest.mark.parametrize("path", ["~/m", "/m", "Qwen/Qwen3-8B", "m", "", ".hidden/x"])
def test_paths_on_hosts_and_hub_names(path):
    assert not is_local(path)
