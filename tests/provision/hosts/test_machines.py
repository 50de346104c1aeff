"""Two names that reach one machine."""

from __future__ import annotations

import pytest

from provision.findings import Level
from provision.hosts.machines import compare_machines, home_owners

GPU = {"index": "0", "uuid": "GPU-1", "mig": "Disabled"}


@pytest.fixture
def host(make_facts):
    def make(name, boot, home, **rest):
        return make_facts(name, **{"boot_id": boot, "home.id": home, **rest})

    return make


def judged(*hosts, **keywords):
    found = compare_machines({facts.host: facts for facts in hosts}, **keywords)
    return [(f.host, f.level, f.found) for f in found]


def test_machines_of_their_own_are_not_mentioned(host):
    # Cloned images share the machine id, and a network home its inode.
    assert judged(host("a", "boot1", "1:2"), host("b", "boot2", "1:2")) == []


def test_two_names_for_one_machine_and_home(host):
    found = judged(host("a", "b1", "1:2"), host("b", "b2", "1:2"), host("c", "b1", "1:2"))
    assert found == [("c", Level.ERROR, "the machine and home of a")]


def test_containers_on_one_machine(host):
    found = judged(host("a", "b1", "1:2"), host("b", "b1", "1:9"))
    assert found == [("b", Level.NOTE, "the machine of a, as a container of its own")]


def test_containers_on_one_machine_that_share_their_home(host):
    inner, outer = {"namespaces": {"net": "1"}}, {"namespaces": {"net": "2"}}
    found = judged(host("a", "b1", "1:2", **inner), host("b", "b1", "1:2", **outer))
    assert found == [("b", Level.NOTE, "the machine of a, as a container of its own")]
    found = judged(host("a", "b1", "1:2", **inner), host("b", "b1", "1:2", **inner))
    assert found == [("b", Level.ERROR, "the machine and home of a")]


def test_a_shared_home_is_its_first_host_s(make_facts):
    places = {"a": "nas:/home 7 me", "b": "disk 7 me", "c": "nas:/home 7 me", "d": None}
    hosts = {name: make_facts(name, **{"home.place": place}) for name, place in places.items()}
    hosts["e"] = make_facts("e", **{"home.place": {"unknown": "timed out"}})
    assert home_owners(hosts) == {"a": "a", "b": "b", "c": "a", "d": "d", "e": "e"}


def test_containers_that_share_a_gpu(host):
    one, two = host("a", "b1", "1:2", gpus=[GPU]), host("b", "b1", "1:9", gpus=[GPU])
    assert judged(one, two) == [("b", Level.ERROR, "GPU 0 is a GPU of a too")]
    assert [level for _, level, _ in judged(one, two, gpu=False)] == [Level.NOTE]
    unread = {**GPU, "uuid": None}
    mine, theirs = host("a", "b1", "1:2", gpus=[unread]), host("b", "b1", "1:9", gpus=[unread])
    assert [level for _, level, _ in judged(mine, theirs)] == [Level.NOTE]
    sliced = host("b", "b1", "1:9", gpus=[{**GPU, "mig": "Enabled"}])
    mine = host("a", "b1", "1:2", gpus=[{**GPU, "mig": "Enabled"}])
    assert [level for _, level, _ in judged(mine, sliced)] == [Level.NOTE]


def test_what_could_not_be_read_is_unknown(host):
    no_boot = host("a", {"unknown": "no /proc"}, "1:2")
    assert [level for _, level, _ in judged(no_boot, host("b", "b1", "1:2"))] == [Level.UNKNOWN]
    no_home = host("b", "b1", {"unknown": "permission denied"})
    assert [level for _, level, _ in judged(host("a", "b1", "1:2"), no_home)] == [Level.UNKNOWN]


def test_one_host_has_nobody_to_share_with(host):
    assert judged(host("a", {"unknown": "no /proc"}, "1:2")) == []
