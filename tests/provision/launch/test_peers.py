from __future__ import annotations

from dataclasses import replace

import pytest

from provision.errors import ConfigError
from provision.launch.peers import peers_json
from provision.launch.spec import RunHost, RunSpec


def spec(*addresses: str | None, port: int = 29500) -> RunSpec:
    hosts = tuple(
        RunHost(name=f"n{i}", slots=1, home="/h", nproc_per_node=1, address=address)
        for i, address in enumerate(addresses)
    )
    return RunSpec(
        run="r", hosts=hosts, master_addr="10.0.0.1", master_port=port, python="~/p",
        accelerator="cpu", secret="s",
    )  # fmt: skip


def test_everybody_is_told_of_everybody() -> None:
    found = peers_json(spec("10.0.0.1", "10.0.0.2"), 1)
    assert found == {
        "secret": "s",
        "address": "10.0.0.2",
        "port": 29500,
        "nodes": [
            {"node_rank": 0, "host": "n0", "address": "10.0.0.1", "port": 29500},
            {"node_rank": 1, "host": "n1", "address": "10.0.0.2", "port": 29500},
        ],
    }


def test_hosts_that_share_an_address_have_a_port_each() -> None:
    shared = spec("127.0.0.1", "127.0.0.1", "127.0.0.2")
    ports = [(peers_json(shared, rank) or {})["port"] for rank in range(3)]
    assert ports == [29500, 29501, 29500]


def test_one_host_has_no_peers() -> None:
    assert peers_json(spec(None), 0) is None


def test_a_secret_is_in_no_repr_and_never_the_same_twice() -> None:
    one = spec("a", "b")
    assert "secret" not in repr(one)
    other = RunSpec(run="r", hosts=one.hosts, master_addr="a", master_port=1, python="p",
                    accelerator="cpu")  # fmt: skip
    assert len(other.secret) == 32
    assert replace(other, run="q").secret == other.secret


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (spec("10.0.0.1", None), "n1: address: found unknown"),
        (spec("::1", "::1", port=65535), "at most 65534"),
    ],
)
def test_what_can_not_be_honoured_is_refused(broken: RunSpec, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        peers_json(broken, 0)
    assert said in str(caught.value)
