"""A conversation: what is said by the way disturbs nothing."""

from __future__ import annotations

import signal
import sys
from functools import partial

import pytest

from provision.errors import HostError, UnreachableError
from provision.talk import ProcessChannel, Talk


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


def test_a_script_that_ends_without_a_word_is_named_so() -> None:
    with pytest.raises(HostError, match="node1: conversation: found closed, expected an answer"):
        Talk(label="node1", channel=Channel(ended=True)).receive(1)


def test_a_connection_that_has_ended_is_whoever_knows_its_to_tell() -> None:
    class Cut(Channel):
        def sendall(self, data: bytes) -> None:
            raise EOFError  # as paramiko does, until its own thread has seen the end

        send = sendall

    lost = UnreachableError("node1: ssh", found="x", expected="y", remedy="z")
    talk = Talk(label="node1", channel=Cut(), why=lambda _: lost)
    for say in (talk.send, partial(talk.send_bytes, data=b"x")):
        with pytest.raises(UnreachableError):
            say({"do": "it"})
    talk.nudge({"do": "it"})
    talk.channel.close = partial(talk.channel.sendall, b"")
    talk.close()


ECHO = """\
import sys
for line in sys.stdin:
    print("ZEROFLEET<<" + line.strip() + ">>ZEROFLEET", flush=True)
"""


def test_a_process_is_talked_to_like_a_channel_and_ends_with_it() -> None:
    channel = ProcessChannel([sys.executable, "-c", ECHO])
    talk = Talk(label="here", channel=channel)
    talk.send({"some": "thing"})
    assert talk.receive(120) == {"some": "thing"}
    assert channel.send_ready()
    talk.close()
    assert channel.process.returncode == 0
    talk.close()  # once more does nothing
    talk.nudge({"some": "thing"})  # nor does this
    with pytest.raises(HostError, match="here: conversation: found closed"):
        talk.send({"some": "thing"})


def test_a_process_that_gives_up_has_its_last_words_told() -> None:
    code = "import sys; sys.stderr.write('x' * 200_000 + '\\nno such thing'); sys.exit(3)"
    talk = Talk(label="here", channel=ProcessChannel([sys.executable, "-c", code]))
    with pytest.raises(HostError, match="found no such thing, expected an answer"):
        talk.receive(120)
    talk.close()


def test_a_process_that_does_not_end_with_its_stdin_is_made_to() -> None:
    code = "import os, time; os.write(1, b'up'); time.sleep(600)"
    channel = ProcessChannel([sys.executable, "-c", code], patience=0.05)
    channel.settimeout(120)
    assert channel.recv(100) == b"up"
    channel.close()
    assert channel.process.returncode == -signal.SIGTERM
