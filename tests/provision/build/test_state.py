from __future__ import annotations

import pytest

from provision.build.plan import plan_build
from provision.build.state import miss_of


@pytest.mark.parametrize(
    ("nearest", "words"),
    [
        (None, "no wheel in the cache yet"),
        (("a.whl", ("cpu", "ops")), "a.whl in the cache differs in cpu, ops"),
        (("a.whl", ()), "a.whl in the cache is damaged"),
    ],
)
def test_why_a_wheel_has_to_be_compiled(nearest, words: str) -> None:
    assert miss_of(nearest) == words


def test_a_dry_run_says_why(spec, make_toolchain, make_state, environment) -> None:
    state = make_state(environment=environment, miss="a.whl in the cache differs in ops")
    plan = plan_build(spec, make_toolchain(), state)
    assert "# a.whl in the cache differs in ops" in str(plan.steps)
    unknown = plan_build(spec, make_toolchain(), make_state())
    assert "so that no host compiles anything" in str(unknown.steps)
