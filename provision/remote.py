"""SSH: the only module that imports fabric.

Stricter than Fabric's defaults on purpose: Fabric accepts any host key without a question
(https://github.com/fabric/fabric/issues/2071); here an unknown or changed key refuses the host,
unless ``--accept-new`` was given, and then only an *unknown* one. ``~/.ssh/config`` (HostName,
User, Port, IdentityFile, IdentitiesOnly, ProxyJump, UserKnownHostsFile) is honoured. Nothing ever
asks for a password: hosts are reached in parallel.
"""

from __future__ import annotations

import io
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ConfigError, HostError, UnreachableError
from provision.inventory import Host
from provision.script import parse_answer, script_argv, text_argv
from provision.steps import Phase, Put, Run, Step
from provision.talk import Talk

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """How hosts are reached. ``config``: an ssh_config file in place of ``~/.ssh/config``."""

    config: Path | None = None
    connect_timeout: int = 10
    accept_new: bool = False
    workers: int = 32


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One host, connected."""

    label: str
    cxn: Any  # a fabric.Connection, which has no types
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open(self) -> None:
        """Connect if not connected; UnreachableError names why not, and what to do."""
        with self.lock:
            if self.cxn.is_connected:
                return
            try:
                self.cxn.open()
                transport = self.cxn.transport
                transport.set_keepalive(15)
            except Exception as error:  # noqa: BLE001 - paramiko raises many unrelated types
                raise explain(self.label, error, self.cxn) from None

    def close(self) -> None:
        """Disconnect."""
        self.cxn.close()

    def run(self, argv: Sequence[str], on_line: Say | None = None) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of argv there; ``on_line`` sees stdout as it comes."""
        streams: dict[str, Any] = {}
        if on_line is not None:
            streams = {"out_stream": _Lines(on_line), "err_stream": _Lines(lambda _: None)}
        try:
            result = self.cxn.run(
                shlex.join(argv), warn=True, hide=True, in_stream=False, encoding="utf-8", **streams
            )
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        return int(result.exited), str(result.stdout), str(result.stderr)

    def talk(self, script: str, args: Sequence[str] = ()) -> Talk:
        """Start ``onhost/<script>.py args…`` there, to be told more over its stdin."""
        try:
            channel = self.cxn.transport.open_session(timeout=30)
            channel.exec_command(shlex.join(script_argv(script, args)))
        except Exception as error:  # noqa: BLE001 - likewise
            raise explain(self.label, error, self.cxn) from None
        return Talk(label=self.label, channel=channel)

    def ask(self, script: str, args: Sequence[str] = (), python: str = "") -> dict[str, object]:
        """The answer of ``onhost/<script>.py args…`` there (HostError if it gives none)."""
        _, out, err = self.run(script_argv(script, args, python))
        return parse_answer(self.label, out, err)

    def ask_text(self, text: str, name: str, args: Sequence[str]) -> dict[str, object]:
        """As :meth:`ask`, for a program given as text."""
        _, out, err = self.run(text_argv(text, name, args))
        return parse_answer(self.label, out, err)

    def apply(self, phase: Phase, say: Say) -> None:
        """This host's steps of a phase, in order; puts that follow one another go as one batch."""
        batch: list[Put] = []
        for step in phase.of(self.label):
            if isinstance(step.do, Put):
                batch.append(step.do)
                continue
            self.put(batch, say)
            batch = []
            self._apply_run(step, step.do, say)
        self.put(batch, say)

    def _apply_run(self, step: Step, do: Run, say: Say) -> None:
        def progress(line: str) -> None:
            if line.startswith("ZEROFLEET-SAY "):
                say(f"[{self.label}] {line.removeprefix('ZEROFLEET-SAY ')}")

        code, out, err = self.run(do.argv, progress)
        if code == 0:
            return
        tail = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
        raise HostError(
            f"{self.label}: {do}",
            found=tail[-1][:300] if tail else f"exit {code}",
            expected=f"exit 0 (it exited {code})",
            remedy=f"this step was to {step.why}",
        )

    def put(self, batch: Sequence[Put], say: Say) -> None:
        """Files to this host: written beside their target, hashed *there*, then renamed."""
        if not batch:
            return
        sftp = self.cxn.sftp()
        checks: list[str] = []
        made = self.ask("place", ["folders", *[put.target for put in batch]])
        targets = made["targets"]
        assert isinstance(targets, list)
        for put, target in zip(batch, targets, strict=True):
            source = put.source.open("rb") if put.source else io.BytesIO(put.content or b"")
            with source as stream:
                sftp.putfo(
                    stream, f"{target}.partial", file_size=put.size, callback=self._meter(put, say)
                )
            checks += [str(target), put.sha256, format(put.mode, "o")]
        problems = self.ask("place", ["files", *checks]).get("problems")
        if problems:
            raise HostError(
                f"{self.label}: sha256 after the push",
                found=problems,
                expected="what was sent",
                remedy="check that disk and memory, then run the command again",
            )

    def _meter(self, put: Put, say: Say) -> Callable[[int, int], None]:
        """A line every few seconds for a file that takes longer."""
        last = [time.monotonic()]

        def callback(sent: int, total: int) -> None:
            if time.monotonic() - last[0] > 3:
                last[0] = time.monotonic()
                say(f"[{self.label}] {put.target}: {sent:,} of {total:,} bytes")

        return callback

    def get(self, source: str, target: Path) -> None:
        """A file of this host to ``target`` here, complete or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        self.cxn.sftp().get(source, str(partial))
        partial.replace(target)


class _Lines(io.StringIO):
    """A stream that hands over whole lines as they come."""

    def __init__(self, on_line: Say) -> None:
        super().__init__()
        self._on_line = on_line
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line.rstrip("\r"))
        return len(text)


def make_connection(host: Host, options: SshOptions) -> Any:
    """A fabric.Connection to a host, not opened yet; strict about host keys, gateways included."""
    # fabric costs ~1 s to import: only commands that connect pay for it.
    import fabric
    from paramiko.client import RejectPolicy

    # paramiko logs whole tracebacks of refused connections; explain() says it in one line.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
    if options.config is not None and not options.config.is_file():
        raise ConfigError(
            f"ssh_config {options.config}",
            found="no such file",
            expected="an OpenSSH client configuration",
            remedy="correct --ssh-config or the ssh_config setting",
        )
    path = str(options.config) if options.config else None
    config = fabric.Config(runtime_ssh_path=path) if path else fabric.Config()
    cxn = fabric.Connection(
        host.name,
        user=host.user,
        port=host.port,
        config=config,
        connect_timeout=options.connect_timeout,
    )
    each: Any = cxn
    while each is not None and not isinstance(each, str):
        policy = _accept_new_policy() if options.accept_new else RejectPolicy()
        each.client.set_missing_host_key_policy(policy)
        for known in _known_hosts(each.ssh_config):
            each.client.load_system_host_keys(str(known))
        each.connect_kwargs.setdefault("banner_timeout", options.connect_timeout)
        each.connect_kwargs.setdefault("auth_timeout", options.connect_timeout)
        if each.ssh_config.get("identitiesonly") == "yes":
            each.connect_kwargs.update(allow_agent=False, look_for_keys=False)
        each = each.gateway
    return cxn


def _accept_new_policy() -> Any:
    """StrictHostKeyChecking=accept-new: an unknown key is written down, a changed one refused."""
    from paramiko.client import AutoAddPolicy

    class AcceptNew(AutoAddPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            path = Path("~/.ssh/known_hosts").expanduser()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with path.open("a", encoding="utf-8") as known:
                known.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")
            client.get_host_keys().add(hostname, key.get_name(), key)

    return AcceptNew()


def _known_hosts(ssh_config: dict[str, Any]) -> tuple[Path, ...]:
    """The known_hosts files that OpenSSH would read for this host, where they exist."""
    named: list[str] = []
    for key, default in (
        ("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
        ("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
    ):
        value = str(ssh_config.get(key, default))
        # paramiko strips the quotes of a single quoted path; such a path may hold spaces.
        named += [value] if Path(value).expanduser().exists() else shlex.split(value)
    paths = (Path(name).expanduser() for name in named if name.lower() != "none")
    return tuple(path for path in paths if path.is_file() and str(path) != "/dev/null")


def explain(label: str, error: Exception, cxn: Any) -> UnreachableError:
    """What a failed connection means, and what to do: one line in place of paramiko's types."""
    from paramiko import ssh_exception as ssh

    where = f"{cxn.user}@{cxn.host}:{cxn.port}"
    port = f"-p {cxn.port} " if cxn.port != 22 else ""
    if isinstance(error, ssh.BadHostKeyException):
        found, expected = f"a host key other than the known one ({where})", "the known host key"
        remedy = f"if the host was reinstalled: ssh-keygen -R '[{cxn.host}]:{cxn.port}'"
    elif isinstance(error, ssh.AuthenticationException | ssh.PasswordRequiredException):
        found, expected = f"login refused for {where}", "key authentication"
        remedy = f"check user and key: ssh {port}{cxn.user}@{cxn.host} true"
    elif isinstance(error, ssh.SSHException) and "known_hosts" in str(error):
        found, expected = f"unknown host key ({where})", "a key in known_hosts"
        remedy = f"check its fingerprint: ssh {port}{cxn.user}@{cxn.host} true, or --accept-new"
    elif isinstance(error, socket.gaierror):
        found, expected = f"no address for the name {cxn.host}", "a name that resolves"
        remedy = "correct the hosts file, or add HostName to ~/.ssh/config"
    elif isinstance(error, TimeoutError | socket.timeout):
        found, expected = f"no answer from {where}", "an SSH server"
        remedy = "is the host up, and reachable from here?"
    else:
        reason = str(error) or type(error).__name__
        found, expected = f"no SSH session to {where} ({reason})", "an SSH server"
        remedy = "is the host up, and its SSH server on that port?"
    return UnreachableError(f"{label}: ssh", found=found, expected=expected, remedy=remedy)
