"""Plans: what a dry run prints is the object that is applied."""

from __future__ import annotations

from provision.steps import Phase, Plan, Put, Run, Step

PUT = Step(
    host="node1",
    do=Put(target=".zerofleet/store/ab/x.whl", sha256="ab" * 32, size=1234, content=b""),
    why="the host lacks it",
)
RUN = Step(host="node2", do=Run(argv=("echo", "a b")), why="greet")
PLAN = Plan(title="deploy", phases=(Phase(name="push", steps=(PUT, RUN)),))


def test_an_empty_plan_says_so():
    assert str(Plan(title="deploy")) == "deploy: nothing to do"
    assert Plan(title="deploy", phases=(Phase(name="push", steps=()),)).empty


def test_text_shows_host_action_and_reason():
    assert str(PLAN).splitlines() == [
        "deploy:",
        "  push",
        "    node1: push generated (1,234 bytes, sha256 abababababab…) to "
        ".zerofleet/store/ab/x.whl  # the host lacks it",
        "    node2: echo 'a b'  # greet",
    ]


def test_json_has_phases_and_steps():
    assert PLAN.as_json() == {
        "phases": [
            {
                "name": "push",
                "steps": [
                    {"host": "node1", "action": PUT.action, "why": "the host lacks it"},
                    {"host": "node2", "action": "echo 'a b'", "why": "greet"},
                ],
            }
        ]
    }


def test_hosts_of_a_phase():
    assert PLAN.phases[0].hosts == ("node1", "node2")
    assert PLAN.phases[0].of("node2") == (RUN,)
