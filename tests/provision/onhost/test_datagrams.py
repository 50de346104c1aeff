"""Datagrams among hosts: two real sockets on loopback."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from provision.onhost import datagrams
from provision.onhost.datagrams import bind, hear, packet_of, sender_of

TOKEN = b"t" * 32


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in {"SECONDS": 0.3, "EVERY": 0.01, "LINGER": 0.0}.items():
        monkeypatch.setattr(datagrams, name, seconds)


def peers_of(*wires):
    ports = [wire.getsockname()[1] if wire else None for wire in wires]
    return [{"host": f"n{i}", "address": "127.0.0.1", "udp": p} for i, p in enumerate(ports)]


def test_two_hear_each_other_and_wait_for_no_host_that_has_no_port(quick, monkeypatch):
    monkeypatch.setattr(datagrams, "SECONDS", 60.0)  # each ends when it heard the other
    with closing(bind("127.0.0.1", 0)) as a, closing(bind("127.0.0.1", 0)) as b:
        peers = peers_of(a, b, None)
        with ThreadPoolExecutor(2) as pool:
            heard = [pool.submit(hear, wire, TOKEN, me, peers) for me, wire in enumerate((a, b))]
        assert [each.result() for each in heard] == [["n1"], ["n0"]]


def test_who_is_silent_or_a_stranger_is_not_heard(quick):
    with closing(bind("127.0.0.1", 0)) as a, closing(bind("127.0.0.1", 0)) as silent:
        silent.sendto(packet_of(b"another token", 1), a.getsockname())
        silent.sendto(b"", a.getsockname())
        assert hear(a, TOKEN, 0, peers_of(a, silent)) == []


def test_a_packet_says_who_sent_it_to_those_who_know_the_token():
    assert sender_of(packet_of(TOKEN, 300), TOKEN) == 300
    assert sender_of(packet_of(TOKEN, 300), b"x") is None
    assert sender_of(b"", TOKEN) is None


def test_a_port_that_is_taken_can_not_be_had():
    with closing(bind("127.0.0.1", 0)) as held, pytest.raises(OSError):
        bind("127.0.0.1", held.getsockname()[1])
