"""What is on hosts from the first deploy to undeploy, and deploys that are broken off anywhere."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.integration.kill.points import Point, apply_points, at_work, choose_points, until_none

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
    first.send_signal(signal.SIGSTOP)  # so that it is not at its end before the other has asked
    try:
        code, answer, err = stage.invoke("clean")
    finally:
        first.send_signal(signal.SIGCONT)
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

    assert finding["remedy"].startswith("invoke deploy --anew ")
    hosts = stage.deploy("--anew")["hosts"]
    assert [(host["changed"], host["bytes_sent"]) for host in hosts.values()] == [(True, 0)] * 2
    assert used(stage) == [stage.names[1]] * 2
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
        until_none(partial(at_work, node))


def test_a_deploy_that_is_broken_off_anywhere_converges(stage: Stage) -> None:
    """Some of the points, by a seed that may be given; and always one between two switches."""
    seed = int(os.environ.get("KILL_SEED", "8"))
    hosts = [node.name for node in stage.cluster.nodes]
    points = choose_points(3, seed, hosts, ("kill", "off", "full"))
    between = Point(kind="kill", phase="switch", host="node1", share=0.5)
    print(f"KILL_SEED={seed}: {[*points, between]}")
    apply_points(stage, [*points, between])


def test_a_deploy_whose_link_is_cut_converges(stage: Stage) -> None:
    with stage.quicker():
        apply_points(stage, [Point(kind="cut", phase="install", host="node2", share=0.5)])
