"""Host names folded, and that nothing is lost by it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.names import fold


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ("node1 node2 node3 node4 node5 node6 node7 node9", "node[1-7,9]"),
        ("node1 node2", "node1,node2"),
        ("node1", "node1"),
        ("", ""),
        ("node08 node09 node10 node11", "node[08-11]"),
        ("node9 node10 node11", "node[9-11]"),
        ("node1 node01 node2 node02 node3 node03", "node[1-3,01-03]"),
        ("node98 node99 node100 node101", "node[98-101]"),
        ("node099 node100 node101", "node[099-101]"),
        ("node3 node1 node2", "node[1-3]"),
        ("10.0.0.1 10.0.0.2 10.0.0.3", "10.0.0.[1-3]"),
        ("r1n1 r1n2 r1n3 r2n1 r2n2 r2n3", "r1n[1-3],r2n[1-3]"),
        ("a1.x1.de a2.x1.de a3.x1.de", "a[1-3].x1.de"),
        ("a1.lab a2.lab a3.lab a1.dc", "a[1-3].lab,a1.dc"),
        ("fd00::1 fd00::2 fd00::3 fd00::a", "fd00::1,fd00::2,fd00::3,fd00::a"),
        ("node1:2222 node2:2222 node3:2222", "node[1-3]:2222"),
        ("login node1 node2 node3", "login,node[1-3]"),
        ("ñandú1 ñandú2 ñandú3", "ñandú[1-3]"),
    ],
)
def test_fold(names, folded):
    assert fold(names.split()) == folded


def unfold(text):
    """The names that a folded text stands for."""
    found = set()
    for part in re.findall(r"[^,\[\]]*\[[^\]]*\][^,]*|[^,]+", text):
        match = re.fullmatch(r"(.*)\[(.*)\](.*)", part)
        if not match:
            found.add(part)
            continue
        before, ranges, after = match.groups()
        for span in ranges.split(","):
            first, _, last = span.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found.add(f"{before}{str(number).zfill(len(first))}{after}")
    return found


NAMES = st.from_regex(r"[a-c]{0,2}[0-9]{1,3}(-[0-2])?(\.x)?", fullmatch=True)


@given(st.lists(NAMES, max_size=30))
def test_folding_keeps_every_name_and_adds_none(names):
    assert unfold(fold(names)) == set(names)
