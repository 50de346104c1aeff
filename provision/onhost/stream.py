"""Reading what another host sends over a connection.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import errno
from typing import Any


class Closed(ConnectionResetError):
    """The other end closed the connection early."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "it closed the connection")


def receive(peer: Any, count: int) -> bytearray:
    """Exactly ``count`` bytes of a socket, with TLS or without; Closed if it ends before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        came = peer.recv_into(view)
        if not came:
            raise Closed
        view = view[came:]
    return data
