"""So many bytes of a connection, or none: over a pair of real sockets."""

from __future__ import annotations

import errno
import socket

import pytest

from provision.onhost.stream import Closed, receive


def test_exactly_so_many_bytes_however_they_come() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"one")
        there.sendall(b"two and more")
        assert receive(here, 6) == b"onetwo"
        assert receive(here, 0) == b""
        assert receive(here, 9) == b" and more"


def test_an_end_that_comes_early_is_told() -> None:
    here, there = socket.socketpair()
    with here:
        there.sendall(b"one")
        there.close()
        with pytest.raises(Closed) as ended:
            receive(here, 4)
    assert ended.value.errno == errno.ECONNRESET  # as any that the kernel tells: an OSError
