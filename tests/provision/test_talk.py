"""A conversation: what is said by the way disturbs nothing."""

from __future__ import annotations

from provision.talk import Talk


class Channel:
    """A channel with room for lines, or without; or one that has ended."""

    def __init__(self, *, room: bool = True, ended: bool = False) -> None:
        self.room, self.ended, self.sent = room, ended, b""

    def send_ready(self) -> bool:
        return self.room

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
