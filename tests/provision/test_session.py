"""What a step that failed on a host is told as."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from paramiko import ChannelException, SSHException

from provision.errors import HostError, UnreachableError
from provision.session import Remote
from provision.steps import Phase, Put, Run, Step


class Transport:
    """A connection whose server takes one more channel, or that fails so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def open_session(self, timeout: float) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(close=lambda: None)


@pytest.mark.parametrize(
    ("exited", "stderr", "said"),
    [
        (3, "one\nno room\n\n", "found no room, expected exit 0 (it exited 3): this step was to x"),
        (3, "", "found exit 3, expected exit 0 (it exited 3)"),
        (-1, "", "found no exit status: a signal ended it there, expected exit 0: this step was"),
    ],
)
def test_a_step_that_failed_says_why_as_far_as_that_is_known(exited, stderr, said) -> None:
    result = SimpleNamespace(exited=exited, stdout="ZEROFLEET-SAY at work\n", stderr=stderr)
    cxn = SimpleNamespace(run=lambda *_, **__: result, is_connected=True, transport=Transport())
    remote = Remote(label="node1", cxn=cxn)
    step = Step(host="node1", do=Run(argv=("make",)), why="x")
    with pytest.raises(HostError) as failed:
        remote.apply(Phase(name="install", steps=(step,)), print)
    assert str(failed.value).startswith(f"node1: make: {said}")


@pytest.mark.parametrize(
    ("timeout", "transport", "said"),
    [
        (0.0, Transport(), "found no answer in 0 s after the login"),
        (60.0, Transport(SSHException("Timeout opening channel.")), "found the connection ended"),
        (None, Transport(EOFError()), "found the connection ended"),
        (None, None, "found the connection ended"),
    ],
)
def test_a_command_that_gives_no_status_is_a_host_that_is_not_reached(
    timeout, transport, said
) -> None:
    """Though paramiko may still call the connection active."""
    result = SimpleNamespace(exited=-1, stdout="", stderr="")
    cxn = SimpleNamespace(run=lambda *_, **__: result, is_connected=True, transport=transport)
    with pytest.raises(UnreachableError, match=f"node1: ssh: {said}"):
        Remote(label="node1", cxn=cxn).run(["true"], timeout=timeout)


@pytest.mark.parametrize(
    ("error", "transport", "kind"),
    [
        (FileNotFoundError(2, "No such file"), Transport(), HostError),
        (OSError("size mismatch in get!  3 != 4"), Transport(), HostError),
        (OSError("No room"), Transport(ChannelException(1, "too many sessions")), HostError),
        (OSError("Socket is closed"), Transport(EOFError()), UnreachableError),
        (EOFError(), Transport(), UnreachableError),
    ],
)
def test_a_file_that_does_not_come_or_go_is_an_error_of_ours(
    tmp_path, error, transport, kind
) -> None:
    class Files:
        def get(self, _: str, target: str) -> None:
            Path(target).write_text("half")
            raise error

        def putfo(self, *_: object, **__: object) -> None:
            raise error

    place = f"ZEROFLEET<<{json.dumps({'targets': ['/there']})}>>ZEROFLEET"
    cxn = SimpleNamespace(
        sftp=Files, transport=transport, is_connected=True, user="u", host="node1", port=22,
        run=lambda *_, **__: SimpleNamespace(exited=0, stdout=place, stderr=""),
    )  # fmt: skip
    remote = Remote(label="node1", cxn=cxn)
    with pytest.raises(kind, match="node1: "):
        remote.get("/there", tmp_path / "here")
    assert not list(tmp_path.iterdir())
    with pytest.raises(kind, match="node1: "):
        remote.put([Put(target="there", sha256="", size=1, content=b"x", mode=0o600)], print)


@pytest.mark.parametrize(
    ("transport", "kind"), [(Transport(), HostError), (None, UnreachableError)]
)
def test_a_script_that_ended_is_told_from_a_connection_that_did(transport, kind) -> None:
    channel = SimpleNamespace(
        exec_command=lambda _: None, settimeout=lambda _: None, recv=lambda _: b"ZEROFLEET-ALIVE\n",
        recv_stderr_ready=lambda: False, close=lambda: None,
    )  # fmt: skip
    began = SimpleNamespace(open_session=lambda **_: channel)
    cxn = SimpleNamespace(transport=began)
    talk = Remote(label="node1", cxn=cxn).talk("hold")
    channel.recv, cxn.transport = (lambda _: b""), transport
    with pytest.raises(kind, match="node1: "):
        talk.receive(1)


def test_a_connection_that_was_cut_is_not_made_anew_for_the_next_step() -> None:
    cxn = SimpleNamespace(is_connected=False)  # and nothing that could run
    with pytest.raises(UnreachableError, match="node1: ssh: found the connection ended"):
        Remote(label="node1", cxn=cxn).run(["true"])


def test_silence_is_a_host_that_is_not_reached() -> None:
    def recv(_: int) -> bytes:
        raise TimeoutError

    channel = SimpleNamespace(exec_command=lambda _: None, settimeout=lambda _: None, recv=recv)
    cxn = SimpleNamespace(transport=SimpleNamespace(open_session=lambda **_: channel))
    with pytest.raises(UnreachableError, match="node1: ssh: found no answer in 7 s"):
        Remote(label="node1", cxn=cxn).talk("hold").receive(7)


def test_a_connection_made_anew_has_file_transfers_of_its_own() -> None:
    closed: list[bool] = []
    cxn = SimpleNamespace(
        is_connected=False, close=lambda: closed.append(True), open=lambda: None, gateway=None,
        transport=SimpleNamespace(set_keepalive=lambda _: None, sock=None),
    )  # fmt: skip
    Remote(label="node1", cxn=cxn).open()
    assert closed


def test_a_connection_is_closed_though_its_file_transfers_can_not_be_told() -> None:
    ends = [EOFError()]

    def close() -> None:
        if ends:
            raise ends.pop()

    Remote(label="node1", cxn=SimpleNamespace(close=close)).close()
    assert not ends
