"""What a host gives to its peers, between real processes: see relay_host.py."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from provision.onhost import relay_serve
from tests.provision.onhost.relay_host import BYTES, Push, fed


def test_a_host_passes_on_what_it_has_while_more_comes(hosts, push) -> None:
    first, second = hosts("node1", "node2")
    port = first.begin(push)["port"]
    assert second.begin(push)["held"] == [0]
    second.fetch("node1", port)  # before there is anything
    first.fetch("")
    first.feed(push)
    assert first.answer() == second.answer() == {"event": "done", "bytes": len(BYTES)}
    for host in (first, second):
        assert host.path(push).read_bytes() == BYTES
        assert host.path(push).stat().st_mode & 0o777 == 0o444
        assert not host.path(push, ".partial").exists()
    first.tell(do="end")
    assert first.answer() == {"event": "ended"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_several_files_and_empty_ones(hosts) -> None:
    push = Push(b"", BYTES, b"small")
    _first, second, port = fed(hosts, push)
    second.begin(push)
    second.fetch("node1", port)
    assert second.answer() == {"event": "done", "bytes": len(BYTES) + 5}
    for parcel in push.parcels:
        with parcel.read_open() as stream:
            assert (second.home / parcel.put.target).read_bytes() == stream.read()


def test_a_stranger_is_refused_and_holds_nobody_up(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        first.until("127.0.0.1: no certificate of this push")
    with socket.create_connection(("127.0.0.1", port)):  # one that says nothing at all
        second.begin(push)
        second.fetch("node1", port)
        assert second.answer()["event"] == "done"
    first.tell(do="end")
    first.answer()
    assert len([line for line in first.lines if "refused a connection" in line]) == 1


def test_a_low_rate_waits_as_long_as_it_takes_and_says_that_it_lives(monkeypatch) -> None:
    slept, sent = [], []
    monkeypatch.setattr(relay_serve.time, "sleep", slept.append)
    pace = relay_serve.Pace(1000)
    assert pace.book(5000) == 0
    assert 4.5 < pace.book(5000) <= 5
    server = relay_serve.Server.__new__(relay_serve.Server)
    peer = SimpleNamespace(sendall=sent.append)
    server._wait(peer, 5.0)
    assert slept == [2.0, 2.0, 1.0]
    assert sent == [relay_serve.FRAME.pack(relay_serve.WAIT, 0, 0)] * 2
