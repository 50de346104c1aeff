from __future__ import annotations

from dataclasses import replace

from provision.launch.byhand import by_hand_json
from provision.launch.nodes import plan_nodes
from provision.launch.plan import plan_json
from provision.launch.spec import RunHost, RunSpec, Script


def spec(nnodes: int, by_hand: int, **more: object) -> RunSpec:
    hosts = tuple(
        RunHost(name=f"host{i}", slots=4, home="/h", nproc_per_node=4) for i in range(nnodes)
    )
    made = RunSpec(
        run="r", hosts=hosts, master_addr="10.0.0.1", master_port=29501, python="~/p",
        accelerator="cpu", script=Script(path="train.py"), by_hand=by_hand, secret="",
    )  # fmt: skip
    return replace(made, **more)


def test_a_node_knows_its_own_name_and_where_all_meet() -> None:
    found = by_hand_json(spec(3, 1))
    assert found is not None
    assert found["meet"] == ["10.0.0.1", 29501]
    assert found["nodes"] == [{"node_rank": 0}, {"node_rank": 1, "host": "host1"}, {"node_rank": 2}]


def test_what_differs_between_nodes_without_harm_is_not_held_against_them() -> None:
    one, other = spec(2, 0), spec(2, 1, run="s", output="/elsewhere", model="/m")
    first, second = by_hand_json(one), by_hand_json(other)
    assert first
    assert second
    assert first["common"] == second["common"]
    third = by_hand_json(spec(2, 1, script=Script(path="other.py")))
    assert third
    assert third["common"] != first["common"]


def test_one_node_has_nobody_to_watch() -> None:
    assert by_hand_json(spec(1, 0)) is None


def test_the_plan_has_them() -> None:
    made = spec(2, 1)
    (plan,) = [plan_json(made, node) for node in plan_nodes(made) if node.node_rank == 1]
    assert plan["peers"] == by_hand_json(made)
