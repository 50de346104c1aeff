"""The hosts file: which hosts, in rank order, and how many slots each has.

DeepSpeed's hostfile format (``node1 slots=8``), and beyond it bare names and ``user@host:port``.
Names are looked up in ``~/.ssh/config`` when connecting, so an alias is as good as an address.
https://www.deepspeed.ai/getting-started/#resource-configuration-multi-node
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError

_LINE = re.compile(
    r"^(?:(?P<user>[^@\s]+)@)?"
    r"(?P<name>\[[0-9A-Fa-f:.%\w]+\]|[^\s@:\[\]#=]+)"
    r"(?::(?P<port>\d+))?"
    r"(?:\s+slots=(?P<slots>\d+))?$"
)


@dataclass(frozen=True, kw_only=True)
class Host:
    """One SSH target. ``slots`` is None where the file names none: then the GPUs found count."""

    name: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None

    @property
    def label(self) -> str:
        """How this host is called everywhere: its name, with the port only where one was given."""
        return f"{self.name}:{self.port}" if self.port else self.name


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Hosts in the file's order, which is their node_rank order."""

    hosts: tuple[Host, ...]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The hosts' labels, in node_rank order."""
        return tuple(host.label for host in self.hosts)


def parse_inventory(text: str, origin: str) -> Inventory:
    """Hosts of a hosts file's text; ``origin`` is its name, for messages.

    Raises ConfigError, with file and line, for a line that is no host, a host given twice, a port
    or slot count out of range, or a file with no host.
    """
    hosts: dict[str, tuple[Host, int]] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        host = _parse_host(line, f"{origin}:{number}")
        if host.label in hosts:
            raise ConfigError(
                f"{origin}:{number}",
                found=f"{host.label} again (first on line {hosts[host.label][1]})",
                expected="each host once",
                remedy="remove one of the two lines",
            )
        hosts[host.label] = (host, number)
    if not hosts:
        raise ConfigError(
            origin, found="no host", expected="one host a line", remedy="add a line: node1 slots=8"
        )
    return Inventory(hosts=tuple(host for host, _ in hosts.values()))


def _parse_host(line: str, where: str) -> Host:
    match = _LINE.match(line)
    if match is None:
        raise ConfigError(
            where,
            found=repr(line),
            expected="[user@]host[:port] [slots=N]",
            remedy="correct or comment out this line",
        )
    port = int(match["port"]) if match["port"] else None
    slots = int(match["slots"]) if match["slots"] else None
    if port is not None and not 0 < port < 65536:
        raise ConfigError(where, found=f"port {port}", expected="1 to 65535", remedy="correct it")
    if slots == 0:
        raise ConfigError(
            where,
            found="slots=0",
            expected="1 or more",
            remedy="comment out a host to leave it out",
        )
    return Host(name=match["name"].strip("[]"), user=match["user"], port=port, slots=slots)


def read_inventory(path: Path) -> Inventory:
    """The hosts in the file at ``path``; ConfigError if it can't be read or parsed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"hosts file {path}",
            found=reason,
            expected="a text file, one host a line",
            remedy="name yours with --hosts FILE",
        ) from None
    return parse_inventory(text, str(path))
