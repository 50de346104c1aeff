"""What is on hosts from the first deploy to undeploy, and deploys that are broken off anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.kill.points import Point, apply_points, at_work

if TYPE_CHECKING:
    from tests.integration.kill.stage import Stage


@pytest.fixture(autouse=True)
def bare(stage: Stage) -> None:
    """Hosts with nothing of ours."""
    for node in stage.cluster.nodes:
        node.run(["rm", "-rf", f"{stage.cluster.home}/.zerofleet"])


def used(stage: Stage) -> list[str]:
    """The environment that each host uses."""
    return [n.path("~/.zerofleet/current").readlink().name for n in stage.cluster.nodes]


def deploy_while_another_asks(stage: Stage) -> None:
    """A deploy; a second controller is told meanwhile who is at work, and changes nothing."""
    first = stage.start("deploy")
    assert first.stderr
    for line in first.stderr:
        if line.startswith("push:"):
            break
    code, answer, err = stage.invoke("clean")
    assert code == 1, err
    found = {finding["host"]: finding["found"] for finding in answer["findings"]}
    assert sorted(found) == ["node1", "node2"]
    assert found["node1"].startswith("held by ")
    assert f": deploy {stage.names[0]}" in found["node1"]
    out, rest = first.communicate(timeout=300)
    assert json.loads(out)["ok"], rest[-2000:]


def find_what_changed_in_an_environment(stage: Stage) -> None:
    """A file of an environment in use is another; ``envs --check`` names it, a deploy mends it."""
    node = stage.cluster.nodes[1]
    env = node.path(f"~/.zerofleet/envs/{stage.names[1]}")
    (one,) = env.glob("lib/*/site-packages/one/__init__.py")
    one.write_text("something else")
    code, answer, _ = stage.invoke("envs", "--check")
    assert code == 1
    levels = {(f["host"], f["subject"]): f["level"] for f in answer["findings"]}
    whole = [("node1", name) for name in stage.names] + [("node2", stage.names[0])]
    expected = {(host, f"envs/{name}"): "ok" for host, name in whole}
    assert levels == {**expected, ("node2", f"envs/{stage.names[1]}"): "error"}
    (finding,) = [f for f in answer["findings"] if f["level"] == "error"]
    assert finding["found"].endswith("site-packages/one/__init__.py sha256 differs")

    node.run(["sh", "-c", finding["remedy"].split("`")[1]])
    stage.deploy()
    assert stage.invoke("envs", "--check")[0] == 0


def test_from_the_first_deploy_to_the_last_byte(stage: Stage) -> None:
    first, second = stage.names
    stage.choose(0)
    deploy_while_another_asks(stage)
    assert used(stage) == [first, first]
    again = stage.deploy()["hosts"]
    assert [(host["changed"], host["bytes_sent"]) for host in again.values()] == [(False, 0)] * 2

    stage.choose(1)
    one = (stage.folder / "house" / "one-2.0-py3-none-any.whl").stat().st_size
    assert [host["bytes_sent"] for host in stage.deploy()["hosts"].values()] == [one, one]
    assert used(stage) == [second, second]

    find_what_changed_in_an_environment(stage)
    assert stage.invoke("rollback")[0] == 0
    assert used(stage) == [first, first]
    assert stage.invoke("rollback", "--to", second[:6])[0] == 0

    _, answer, _ = stage.invoke("envs")
    here = answer["hosts"]["node1"]["environments"]
    assert {env["name"]: env["complete"] for env in here} == dict.fromkeys((first, second), True)
    assert stage.invoke("clean", "--keep-last", "0")[0] == 0
    node = stage.cluster.nodes[0]
    assert not node.path(f"~/.zerofleet/envs/{first}").exists()
    kept = [path.name for path in node.path("~/.zerofleet/store").glob("*/*-*.whl")]
    assert {name.split("-")[0] for name in kept} >= {"big", "torch", "uv"}
    assert "one-1.0-py3-none-any.whl" not in kept

    code, _, err = stage.invoke("undeploy")
    assert code == 0, err
    for node in stage.cluster.nodes:
        assert not node.path("~/.zerofleet").exists()
        assert not at_work(node)


def test_a_deploy_that_is_broken_off_anywhere_converges(stage: Stage) -> None:
    points = [
        Point(kind="kill", phase="push", host="node1", share=0.5),
        Point(kind="full", phase="install", host="node2", share=0.1),
        Point(kind="off", phase="install", host="node1", share=0.5),
    ]
    apply_points(stage, points)


def test_a_deploy_whose_link_is_cut_converges(stage: Stage) -> None:
    with stage.quicker():
        apply_points(stage, [Point(kind="cut", phase="install", host="node2", share=0.5)])
