from __future__ import annotations

import json

from provision.launch.failure import parse_outcome
from provision.launch.states import State
from provision.onhost import state as onhost


def test_the_words_are_those_that_hosts_say() -> None:
    said = {onhost.RUNNING, onhost.LOST, onhost.NEVER_STARTED, *onhost.ENDED}
    assert set(State) - {State.UNKNOWN} == said
    assert (json.dumps(State.LOST), f"{State.LOST}") == ('"lost"', "lost")


def test_a_word_of_another_version_is_unknown_and_never_ok() -> None:
    assert State.parse("paused") is State.UNKNOWN
    rank = {"local_rank": 0, "rank": 0, "state": "paused", "exit": None}
    ended = {
        "node_rank": 0, "state": "paused", "started_at": 1.0, "ended_at": 2.0, "loss": None,
        "jit_compiled": [], "ranks": [rank], "first_failure": None,
    }  # fmt: skip
    outcome = parse_outcome("r", {"node1": ended})
    assert (outcome.state, outcome.ranks[0].state) == (State.UNKNOWN, State.UNKNOWN)
    assert outcome.exit_code == 5
