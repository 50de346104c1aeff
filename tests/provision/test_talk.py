"""A conversation: what is said by the way disturbs nothing."""

from __future__ import annotations

import pytest

from provision.errors import HostError
from provision.talk import Talk


class Channel:
    """A channel with room for lines, or without; or one that has ended."""

    def __init__(self, *, room: bool = True, ended: bool = False) -> None:
        self.room, self.ended, self.sent = room, ended, b""

    def send_ready(self) -> bool:
        return self.room

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, _: int) -> bytes:
        return b""

    def recv_stderr_ready(self) -> bool:
        return False

    def sendall(self, data: bytes) -> None:
        if self.ended:
            raise OSError("Socket is closed")
        self.sent += data


def test_a_nudge_goes_at_once_or_not_at_all_and_finds_nothing_out() -> None:
    for channel, sent in (
        (Channel(), b'{"do": "ping"}\n'),
        (Channel(room=False), b""),
        (Channel(ended=True), b""),
    ):
        Talk(label="node1", channel=channel).nudge({"do": "ping"})
        assert channel.sent == sent


def test_a_connection_that_ends_without_a_word_is_named_so() -> None:
    with pytest.raises(HostError, match="node1: connection: found it ended, expected an answer"):
        Talk(label="node1", channel=Channel(ended=True)).receive(1)
