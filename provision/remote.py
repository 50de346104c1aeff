"""SSH connections: the only module that imports fabric.

Stricter than Fabric's defaults on purpose: Fabric accepts any host key without a question
(https://github.com/fabric/fabric/issues/2071); here an unknown or changed key refuses the host,
unless ``--accept-new`` was given, and then only an *unknown* one. ``~/.ssh/config`` (HostName,
User, Port, IdentityFile, IdentitiesOnly, ProxyJump, UserKnownHostsFile) is honoured. Nothing ever
asks for a password: hosts are reached in parallel.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ConfigError, UnreachableError
from provision.inventory import Host

#: Without an acknowledgement for so long, a host is gone.
KEEPALIVE_SECONDS, SILENCE_SECONDS = 10, 30


@dataclass(frozen=True, kw_only=True)
class SshOptions:
    """How hosts are reached. ``config``: an ssh_config file in place of ``~/.ssh/config``."""

    config: Path | None = None
    connect_timeout: int = 10
    accept_new: bool = False
    workers: int = 32
    answer_timeout: int = 60


@dataclass(frozen=True, kw_only=True)
class SshFiles:
    """What OpenSSH's own files say: its client configuration, and the host keys known so far.

    ``known``: lines of a known_hosts file by the name they start with, those with hashed names
    below ""; parsed line by line only where a host is connected to, since a line costs much and
    paramiko would read all lines for each host.
    """

    config: Any  # a paramiko.SSHConfig, which has no types; read by threads, changed by none
    known: dict[Path, dict[str, list[str]]] = field(default_factory=dict, repr=False)


def read_ssh_files(options: SshOptions) -> SshFiles:
    """The client configuration, whole; known_hosts files are read when a host first names one.

    Raises ConfigError if the configuration named in the options is not there, or one can't be read.
    """
    # fabric costs ~1 s to import: only commands that connect pay for it.
    import fabric
    from paramiko.ssh_exception import ConfigParseError

    if options.config is not None and not options.config.is_file():
        raise ConfigError(
            f"ssh_config {options.config}",
            found="no such file",
            expected="an OpenSSH client configuration",
            remedy="correct --ssh-config or the ssh_config setting",
        )
    named = {"runtime_ssh_path": str(options.config)} if options.config else {}
    try:
        return SshFiles(config=fabric.Config(**named).base_ssh_config)
    except (OSError, UnicodeDecodeError, ConfigParseError) as error:
        raise ConfigError(
            f"ssh_config {options.config or '~/.ssh/config'}",
            found=error,
            expected="an OpenSSH client configuration",
            remedy="`ssh -G HOST` says what OpenSSH makes of it",
        ) from None


def make_connection(host: Host, options: SshOptions, files: SshFiles) -> Any:
    """A fabric.Connection to a host, not opened yet; strict about host keys, gateways included."""
    import fabric
    from paramiko.client import RejectPolicy

    # paramiko logs whole tracebacks of refused connections; explain() says it in one line.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
    limits = ("banner_timeout", "auth_timeout", "channel_timeout")
    try:
        cxn = fabric.Connection(
            host.name,
            user=host.user,
            port=host.port,
            # Its own, of parsed files: a fabric.Config that is read empties and fills itself again,
            # so two threads must not share one.
            config=fabric.Config(ssh_config=files.config),
            connect_timeout=options.connect_timeout,
            connect_kwargs=dict.fromkeys(limits, options.connect_timeout),
        )
    except ValueError as error:  # of Port and ConnectTimeout, which Fabric takes for numbers
        raise ConfigError(
            f"{host.label}: ssh_config",
            found=error,
            expected="numbers for Port and ConnectTimeout",
            remedy=f"`ssh -G {host.name}` names the line",
        ) from None
    each: Any = cxn
    while each is not None and not isinstance(each, str):
        known = known_hosts(each.ssh_config)
        policy = _accept_new_policy(known[0]) if options.accept_new else RejectPolicy()
        each.client.set_missing_host_key_policy(policy)
        name = each.host if each.port == 22 else f"[{each.host}]:{each.port}"
        for line in _lines_for(name, known, files):
            _add_key(each.client, name, line)
        for limit in limits:
            each.connect_kwargs.setdefault(limit, options.connect_timeout)
        if each.ssh_config.get("identitiesonly") == "yes":
            each.connect_kwargs.update(allow_agent=False, look_for_keys=False)
        each = each.gateway
    return cxn


def limit_silence(cxn: Any) -> None:
    """Have the kernel give up a connection on which nothing is acknowledged any more.

    Something is always under way (keepalive), so a cut link ends it, in place of a quarter of an
    hour of retries: TCP_USER_TIMEOUT, https://man7.org/linux/man-pages/man7/tcp.7.html
    """
    each: Any = cxn
    while each is not None and not isinstance(each, str):
        found = each.transport.sock if each.transport else None
        if isinstance(found, socket.socket):  # through a gateway, it is a channel of that one's
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
        each = each.gateway


def answers(cxn: Any, seconds: float) -> bool:
    """Whether the server at the other end of a connection still answers: it is asked.

    That paramiko calls a connection active says little: it ends the channels of a lost one, and
    with that whoever waits for them, a moment before it says so. A server that refuses one channel
    more (sshd's MaxSessions) answers.
    """
    from paramiko.ssh_exception import ChannelException

    try:
        cxn.transport.open_session(timeout=seconds).close()
    except ChannelException:
        return True
    except Exception:  # noqa: BLE001 - paramiko raises many unrelated types
        return False
    return True


def _lines_for(name: str, paths: tuple[Path, ...], files: SshFiles) -> Iterator[str]:
    """Lines of known_hosts files that may be about this name: its own, and all hashed ones."""
    for path in paths:
        if path not in files.known:
            files.known[path] = _read_known(path)
        yield from files.known[path].get(name, ())
        yield from files.known[path].get("", ())


def _read_known(path: Path) -> dict[str, list[str]]:
    """A known_hosts file's lines by name, hashed ones below "": sshd(8), "SSH_KNOWN_HOSTS"."""
    found: dict[str, list[str]] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found  # as OpenSSH: a file that can't be read vouches for nothing
    for line in text.splitlines():
        # Lines that start with a marker (@revoked, @cert-authority) vouch for no key by themselves.
        names = line.strip().partition(" ")[0]
        if names and not names.startswith(("#", "@")):
            for name in names.split(","):
                found.setdefault("" if name.startswith("|1|") else name, []).append(line.strip())
    return found


def _add_key(client: Any, name: str, line: str) -> None:
    """Have the client know the key of a known_hosts line, if the line is about this name."""
    from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey
    from paramiko.ssh_exception import SSHException

    names = line.partition(" ")[0].split(",")
    if name not in names and not any(
        hashed.startswith("|1|") and HostKeys.hash_host(name, hashed) == hashed for hashed in names
    ):
        return
    try:
        entry = HostKeyEntry.from_line(line)
    except (InvalidHostKey, SSHException, ValueError):
        return  # as OpenSSH: a broken line vouches for nothing
    if entry is not None and entry.key is not None:
        keys, kind = client.get_host_keys(), entry.key.get_name()
        if kind not in (keys.lookup(name) or {}):
            keys.add(name, kind, entry.key)


def _accept_new_policy(path: Path) -> Any:
    """StrictHostKeyChecking=accept-new: an unknown key is written down, a changed one refused."""
    from paramiko.client import AutoAddPolicy

    class AcceptNew(AutoAddPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as known:
                known.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")
            client.get_host_keys().add(hostname, key.get_name(), key)

    return AcceptNew()


def known_hosts(ssh_config: dict[str, Any]) -> tuple[Path, ...]:
    """The known_hosts files that OpenSSH would read for this host; it writes to the first one."""
    named: list[str] = []
    for key, default in (
        ("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
        ("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
    ):
        value = str(ssh_config.get(key, default))
        # paramiko strips the quotes of a single quoted path; such a path may hold spaces.
        # A folder that this user may not enter is not there (Path.exists() would raise).
        there = os.path.exists(Path(value).expanduser())  # noqa: PTH110
        named += [value] if there else shlex.split(value)
    return tuple(Path(name).expanduser() for name in named if name.lower() != "none")


def hung_up(error: Exception) -> bool:
    """Whether a server closed the connection in place of telling its name; not: was silent.

    paramiko says the same of both, but for what it met itself (Transport._check_banner).
    """
    met = error.__context__ if "protocol banner" in str(error) else error
    return isinstance(met, EOFError | ConnectionResetError)


def explain(label: str, error: Exception, cxn: Any) -> UnreachableError:
    """What a failed connection means, and what to do: one line in place of paramiko's types."""
    from paramiko import ssh_exception as ssh

    where = f"{cxn.user}@{cxn.host}:{cxn.port}"
    port = f"-p {cxn.port} " if cxn.port != 22 else ""
    if isinstance(error, ssh.BadHostKeyException):
        found, expected = f"a host key other than the known one ({where})", "the known host key"
        name = cxn.host if cxn.port == 22 else f"[{cxn.host}]:{cxn.port}"
        remedy = f"if the host was reinstalled: ssh-keygen -R {shlex.quote(name)}"
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
    elif any(said in str(error) for said in ("protocol banner", "No existing session")):
        # paramiko's two words for a server that accepts and is silent, whichever limit ends first
        found, expected = f"no greeting from {where}", "an SSH server"
        remedy = "is it overloaded, or is that port another service's?"
    else:
        # One error per address that was tried; the last is as good as any.
        tried = tuple(getattr(error, "errors", None) or {})
        last = error.errors[tried[-1]] if tried else error  # type: ignore[attr-defined]
        reason = getattr(last, "strerror", None) or str(last) or type(last).__name__
        reason = "the connection ended" if isinstance(last, EOFError) else reason
        found, expected = f"no SSH session to {where} ({reason})", "an SSH server"
        remedy = "is the host up, and its SSH server on that port?"
    return UnreachableError(f"{label}: ssh", found=found, expected=expected, remedy=remedy)
