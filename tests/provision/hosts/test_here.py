"""This machine, read with the hosts' own script."""

from __future__ import annotations

from provision.hosts.here import HERE, read_here


def test_this_machine_is_read_as_a_host_is():
    facts = read_here()
    assert facts.host == HERE
    assert facts["machine"].value
