"""One SSH host on this machine: what the demo and the integration tests deploy to.

``python -m provision.demo.sshd --address 127.0.0.2 --port 0 --home DIR …`` serves SSH for the
current user, with a home folder of its own, until SIGTERM, SIGINT or the end of its standard input
(so it never outlives the process that holds the other end of that pipe). It prints one JSON line,
``{"address", "port", "pid"}``, once it listens.

Commands run as under OpenSSH's sshd: ``/bin/sh -c``, in their own session, the home folder as
current folder. When a client goes away its pipes close, and with a terminal the session gets
SIGHUP; a command without a terminal is *not* killed, exactly as sshd leaves it. The host's own end
is a power cut: every process that was ever started on it is stopped, daemons too. For that this
process adopts orphans: https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import getpass
import json
import os
import signal as signals
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import asyncssh

from provision.demo.login import login_environ, read_user_pip_config
from provision.demo.power import apply_power_cut
from provision.demo.terminal import apply_own, apply_size

PR_SET_CHILD_SUBREAPER = 36
#: What sshd_config's AcceptEnv lets a client set on Debian and Fedora.
ACCEPTED = ("LANG", "LC_")
#: Bytes copied at once between a channel and a command.
CHUNK = 256 * 1024


@dataclass(kw_only=True)
class Served:
    """The host being served: who may log in, and the commands now running."""

    user: str
    keys: frozenset[bytes]
    environ: Mapping[str, str]
    running: dict[int, asyncio.Future[int]] = field(default_factory=dict)

    def reap(self) -> None:
        """Collect ended children: commands, and orphans that this process adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self.running.pop(pid, None)
            if ended and not ended.done():
                ended.set_result(os.waitstatus_to_exitcode(status))


class Login(asyncssh.SSHServer):
    """One connection: the current user, by key, and nobody else."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Keep the connection: commands see its addresses in SSH_CONNECTION."""
        self.conn = conn

    def public_key_auth_supported(self) -> bool:
        """Keys are the only way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether this key opens this account."""
        return username == self.served.user and key.public_data in self.served.keys

    def session_requested(self) -> asyncssh.SSHServerProcess[bytes]:
        """A shell, a command, or SFTP."""
        return Session(self.served, self.conn)

    def connection_requested(self, *_: object) -> bool:
        """Forwarding is allowed, as it is by default in sshd: this host can be a ProxyJump."""
        return True


class Session(asyncssh.SSHServerProcess[bytes]):
    """One exec, shell or SFTP channel."""

    def __init__(self, served: Served, conn: asyncssh.SSHServerConnection) -> None:
        sftp = lambda channel: asyncssh.SFTPServer(channel)  # noqa: E731, PLW0108 (typed so)
        super().__init__(self.run, sftp, 3, True)
        self.served = served
        self.conn = conn
        self.child: subprocess.Popen[bytes] | None = None
        self.terminal: int | None = None

    def signal_received(self, signal: str) -> None:
        """A signal from the client goes to the command's process group."""
        self.kill(getattr(signals, f"SIG{signal}", None))

    def exception_received(self, exc: Exception) -> None:
        """A new window size reaches the terminal; a break means nothing to a command."""
        if self.terminal is not None and isinstance(exc, asyncssh.TerminalSizeChanged):
            apply_size(self.terminal, exc.width, exc.height)

    def kill(self, number: int | None) -> None:
        """Signal the command's process group, while it is ours (not yet reaped)."""
        if number is not None and self.child and self.child.pid in self.served.running:
            os.killpg(self.child.pid, number)

    async def run(self, *_: object) -> None:
        """Run the command to its end, or to the end of the channel."""
        self.child = child = self.start()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.served.running[child.pid] = ended
        copying = asyncio.ensure_future(self.copy_streams(child))
        gone = asyncio.ensure_future(self.wait_closed())
        # As sshd: the channel stays open while anything still holds the command's output.
        for step in (copying, ended):
            await asyncio.wait([step, gone], return_when=asyncio.FIRST_COMPLETED)
        if not (copying.done() and ended.done()):
            copying.cancel()  # closes the pipes: the command's next write to them fails
            if self.terminal is not None:
                self.kill(signals.SIGHUP)
            child.returncode = 0  # Served.reap will collect it
            return
        child.returncode = code = ended.result()
        if code >= 0:
            self.exit(code)
        else:
            self.exit_with_signal(signals.Signals(-code).name.removeprefix("SIG"))

    async def copy_streams(self, child: subprocess.Popen[bytes]) -> None:
        """Copy the channel to and from the command until its output ends."""
        if self.terminal is not None:
            given: IO[bytes] = os.fdopen(os.dup(self.terminal), "wb", buffering=0)
            shown = [copy_out(os.fdopen(self.terminal, "rb", buffering=0), self.stdout)]
        else:
            assert child.stdin
            assert child.stdout
            assert child.stderr
            given = child.stdin
            shown = [copy_out(child.stdout, self.stdout), copy_out(child.stderr, self.stderr)]
        feed = asyncio.ensure_future(copy_in(self.stdin, given))
        try:
            await asyncio.gather(*shown)
        finally:
            feed.cancel()
            self.terminal = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own, with pipes or on a new terminal."""
        here, there = self.conn.get_extra_info("sockname"), self.conn.get_extra_info("peername")
        environ = {
            **self.served.environ,
            "SSH_CONNECTION": f"{there[0]} {there[1]} {here[0]} {here[1]}",
            **{k: v for k, v in self.env.items() if k.startswith(ACCEPTED)},
        }
        shell = ["/bin/sh", "-c", self.command] if self.command else ["/bin/sh"]
        home = environ["HOME"]
        if self.term_type is None:
            pipe = subprocess.PIPE
            return subprocess.Popen(
                shell, stdin=pipe, stdout=pipe, stderr=pipe,
                cwd=home, env=environ, start_new_session=True,
            )  # fmt: skip
        self.terminal, other = os.openpty()
        apply_size(self.terminal, *self.term_size[:2])
        environ["TERM"] = self.term_type
        with os.fdopen(other, "r+b", buffering=0) as side:
            return subprocess.Popen(
                shell, stdin=side, stdout=side, stderr=side,
                cwd=home, env=environ, start_new_session=True, preexec_fn=apply_own,  # noqa: PLW1509 (one thread)
            )  # fmt: skip


async def copy_out(source: IO[bytes], sink: asyncssh.SSHWriter[bytes]) -> None:
    """Copy a pipe to the channel until the pipe's last writer is gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source
    )
    try:
        while data := await reader.read(CHUNK):
            sink.write(data)
            await sink.drain()
    except (OSError, asyncssh.Error):
        pass  # the channel is gone, or the terminal's other side is (EIO)
    finally:
        transport.close()


async def copy_in(source: asyncssh.SSHReader[bytes], sink: IO[bytes]) -> None:
    """Copy the channel to a pipe until the client's end of file; then close the pipe."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), sink
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while data := await source.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncssh.Error):
        pass  # the command closed its standard input, or the channel is gone
    finally:
        writer.close()


def apply_make_key(path: Path) -> str:
    """Make an ed25519 key at ``path`` (0600) unless there is one; return its public line."""
    if not path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519", comment="zerofleet-demo")
        new = path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key.export_private_key())
        new.replace(path)
    return asyncssh.read_private_key(path).export_public_key().decode().strip()


def stop_at_end(stop: asyncio.Event) -> None:
    """Stop when standard input ends: whoever started this host is gone, or has let go of it."""
    if not os.read(0, CHUNK):
        stop.set()


async def apply_serve(options: argparse.Namespace) -> None:
    """Listen until told to stop, then take the host's processes down with it."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("this kernel can't hand orphans to this process: Linux 3.4 or newer is needed")
    user, home = getpass.getuser(), options.home.resolve()
    keys = asyncssh.read_public_key_list(options.authorized_keys)
    environ = read_user_pip_config(os.environ) | dict(os.environ)
    login = login_environ(environ, home=home, user=user, cache=options.pip_cache, prefix=sys.prefix)
    served = Served(user=user, keys=frozenset(k.public_data for k in keys), environ=login)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signals.SIGCHLD, served.reap)
    for number in (signals.SIGTERM, signals.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        loop.add_reader(0, stop_at_end, stop)
    except PermissionError:  # a file, or /dev/null
        sys.exit("standard input must be a pipe or a terminal: its end stops this host")
    os.chdir(home)  # relative SFTP paths start here
    listener = await asyncssh.create_server(
        lambda: Login(served),
        options.address,
        options.port,
        server_host_keys=[options.host_key],
        password_auth=False,
        kbdint_auth=False,
        gss_host=None,
        encoding=None,
        line_editor=False,
        compression_algs=None,
        keepalive_interval=30,
        reuse_address=True,
    )
    ready = {"address": options.address, "port": listener.get_port(), "pid": os.getpid()}
    print(json.dumps(ready), flush=True)  # noqa: T201 (this process's own stdout)
    await stop.wait()
    listener.close()
    loop.remove_signal_handler(signals.SIGCHLD)
    apply_power_cut(served.reap)


def main(argv: list[str]) -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(prog="python -m provision.demo.sshd", description=__doc__)
    parser.add_argument("--address", default="127.0.0.2")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host-key", type=Path, required=True)
    parser.add_argument("--authorized-keys", type=Path, required=True)
    parser.add_argument("--pip-cache", type=Path, help="pip's cache, shared by hosts")
    asyncio.run(apply_serve(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
