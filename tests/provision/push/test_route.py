from __future__ import annotations

from provision.push.route import CONTROLLER, plan_sources


def test_hosts_form_a_chain_whose_head_the_controller_feeds():
    held = {"a": [0], "b": [0], "c": [0]}
    assert plan_sources(held, [9], {"a", "b", "c"}) == {"a": [CONTROLLER], "b": ["a"], "c": ["b"]}


def test_who_has_more_comes_first():
    held = {"a": [0], "b": [5], "c": [9]}
    assert plan_sources(held, [9], held) == {"a": ["b"], "b": ["c"], "c": [CONTROLLER]}


def test_a_host_that_is_not_served_gets_all_from_the_controller_and_passes_nothing_on():
    held = {"a": [0], "b": [0], "c": [0]}
    assert plan_sources(held, [9], {"a", "c"}) == {"a": [""], "b": [""], "c": ["a"]}


def test_each_file_goes_its_own_way_and_only_to_those_that_want_it():
    held = {"a": [0, None], "b": [None, 0], "c": [0, 0]}
    assert plan_sources(held, [9, 9], held) == {"a": ["", ""], "b": ["", ""], "c": ["a", "b"]}


def test_nobody_waits_for_oneself_in_a_circle():
    held = {"a": [9, 0], "b": [0, 9], "c": [3, 3]}
    sources = plan_sources(held, [9, 9], held)
    for number in range(2):
        for host in held:
            seen, at = set(), host
            while sources[at][number]:
                assert at not in seen
                seen.add(at)
                at = sources[at][number]
