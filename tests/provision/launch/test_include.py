"""Which hosts and slots --include and --exclude leave, in DeepSpeed's syntax."""

from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.inventory import parse_inventory
from provision.launch.include import choose

HOSTS = parse_inventory("node1 slots=4\nnode2 slots=4\nnode3:2222\n", "hosts.txt")


@pytest.mark.parametrize(
    ("include", "exclude", "labels"),
    [
        (None, None, ("node1", "node2", "node3:2222")),
        ("node2@node1", None, ("node1", "node2")),  # in the hosts file's order
        ("node3:2222", None, ("node3:2222",)),
        ("node3:2222:1", None, ("node3:2222",)),
        (None, "node1", ("node2", "node3:2222")),
        (None, "node1:0", ("node1", "node2", "node3:2222")),
    ],
)
def test_hosts(include: str | None, exclude: str | None, labels: tuple[str, ...]) -> None:
    assert choose(HOSTS, include, exclude).inventory.labels == labels


def test_slots() -> None:
    chosen = choose(HOSTS, "node1@node2:2,0,2", None)
    assert chosen.slots("node1", 4) is None
    assert chosen.slots("node2", 4) == (0, 2)
    left = choose(HOSTS, None, "node1:0")
    assert left.slots("node1", 4) == (1, 2, 3)
    assert left.slots("node2", 4) is None


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        ("node1", "node2", "--include and --exclude: found both"),
        ("node9", None, "--include: found 'node9' in 'node9', a name that the hosts file lacks"),
        ("node1@", None, "--include: found ''"),
        ("node1:a", None, "--include: found 'node1:a'"),
        ("node1:0@node1:1", None, "--include: found node1 twice"),
        (None, "node1@node2@node3:2222", "--exclude: found no host left"),
    ],
)
def test_what_can_not_be_honoured(include: str | None, exclude: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        choose(HOSTS, include, exclude)


def test_slots_that_a_host_does_not_have() -> None:
    with pytest.raises(ConfigError, match="--include: found slot 4 of node1, expected 0 to 3"):
        choose(HOSTS, "node1:0,4", None).slots("node1", 4)
    with pytest.raises(ConfigError, match="--exclude: found every slot of node1"):
        choose(HOSTS, None, "node1:0,1").slots("node1", 2)
