"""relay.py as it runs on hosts: real processes, each with a home of its own, on loopback."""

from __future__ import annotations

import io
import math
import socket
import sys

import pytest

from provision.onhost import relay
from tests.provision.onhost.relay_host import BYTES, fed, flip, nothing_installed


def test_a_byte_flipped_on_the_disk_of_the_host_that_passes_it_on(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    flip(first.path(push), push.parcels[0].chunk + 17)
    second.begin(push)
    second.fetch("node1", port)
    failed = second.answer()
    assert failed["event"] == "failed"
    assert failed["what"] == "bytes from node1"
    assert "chunk 1 of a file hashes wrong" in failed["found"]
    assert nothing_installed(second, push)
    assert second.path(push, ".partial").read_bytes() == BYTES[: push.parcels[0].chunk]


def test_a_byte_flipped_on_the_way_from_the_controller(hosts, push) -> None:
    (host,) = hosts("node1")
    host.begin(push, serve=False)
    host.fetch("")
    assert host.answer()["event"] == "want"
    data = b"?" + BYTES[1 : push.parcels[0].chunk]
    host.tell(data, do="bytes", file=0, chunk=0, size=len(data))
    failed = host.answer()
    assert (failed["event"], failed["what"]) == ("failed", "bytes from the controller")
    assert nothing_installed(host, push)


def test_a_peer_that_is_not_there_is_gone_around(hosts, push) -> None:
    (host,) = hosts("node1")
    host.begin(push)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host.fetch("node9", port)
    lost = host.answer()
    assert (lost["event"], lost["peer"]) == ("lost", "node9")
    assert "Connection refused" in lost["why"]
    host.feed(push)
    assert host.answer()["event"] == "done"


def test_a_peer_that_dies_on_the_way_is_gone_around(hosts, push) -> None:
    first, second = hosts("node1", "node2")
    port = first.begin(push)["port"]
    second.begin(push)
    second.fetch("node1", port)
    first.fetch("")
    assert first.answer()["event"] == "want"
    size = push.parcels[0].chunk
    first.tell(BYTES[:size], do="bytes", file=0, chunk=0, size=size)
    partial = second.path(push, ".partial")
    while not partial.exists() or not partial.stat().st_size:
        pass  # bounded by the test's own timeout
    first.process.kill()
    assert second.answer()["event"] == "lost"
    second.feed(push)
    assert second.answer() == {"event": "done", "bytes": len(BYTES)}


def test_the_port_is_closed_when_the_controller_is_gone(hosts, push) -> None:
    first, _, port = fed(hosts, push)
    first.process.stdin.close()  # what the kernel does when it is killed -9
    first.process.wait(120)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_after_a_failure_the_controllers_end_is_heard_behind_what_was_on_its_way(
    hosts, push
) -> None:
    (host,) = hosts("node1")
    host.begin(push)
    partial = host.path(push, ".partial")
    reserved = partial.stat().st_blocks
    host.fetch("")
    assert host.answer()["event"] == "want"
    for _ in range(9):  # the first is wrong, and nobody waits for the others
        host.tell(b"?", do="bytes", file=0, chunk=0, size=1)
    assert host.answer()["event"] == "failed"
    host.process.stdin.close()
    assert host.process.wait(120) == 0
    assert partial.stat().st_blocks < reserved


def test_a_slow_link_and_a_long_begin_are_no_silence(monkeypatch) -> None:
    this, when = relay.Relay(), []
    this.heard = -math.inf
    assert this.take(io.BytesIO(b"fewer"), 6) == b"fewer"
    assert this.heard > 0  # the piece counts, though the order is not whole

    def begin(_: object) -> dict[str, object]:
        when.append(this.heard)
        return {}

    monkeypatch.setattr(this, "begin", begin)
    orders = io.BytesIO(b'{"do": "begin"}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(orders))
    relay.converse(this)
    assert when == [math.inf]  # nobody reads while it hashes what is there
    assert this.heard < math.inf
