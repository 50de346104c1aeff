"""The hosts file: which hosts, in rank order, and how many slots each has.

DeepSpeed's hostfile format (``node1 slots=8``), and beyond it bare names, ``user@host:port`` and
IPv6 addresses (``::1``, ``[::1]:2222``). Names are looked up in ``~/.ssh/config`` when connecting,
so an alias is as good as an address.
https://www.deepspeed.ai/getting-started/#resource-configuration-multi-node
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError

_LINE = re.compile(
    r"(?:(?P<user>[^@\s]*)@)?"
    r"(?P<target>[^@\s]+)"
    r"(?:\s+slots=(?P<slots>[0-9]{1,6}))?"
    r"(?:\s+python=(?P<python>[~/]\S*))?"
)
_TARGET = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]{1,9}))?")
#: In host and user names, beside letters and digits of any script. OpenSSH refuses what a shell
#: would take for more than a name, because an ssh_config may hand names to one (ProxyCommand,
#: Match exec): https://www.openssh.com/txt/release-9.6. A name is a folder's name here, too.
_IN_NAMES = "._+-"


@dataclass(frozen=True, kw_only=True)
class Host:
    """One SSH target. ``slots`` is None where the file names none: then the GPUs found count.

    ``python``: a path there, of the Python that --env-source existing is about.
    """

    name: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None
    python: str | None = None

    @property
    def label(self) -> str:
        """How this host is called everywhere: its name, with the port only where one was given."""
        if not self.port:
            return self.name
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


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

    @property
    def slots(self) -> dict[str, int]:
        """What the file says of slots, by label; nothing of a host where it says nothing."""
        return {host.label: host.slots for host in self.hosts if host.slots}


def parse_inventory(text: str, origin: str) -> Inventory:
    """Hosts of a hosts file's text; ``origin`` is its name, for messages.

    Raises ConfigError, with file and line, for a line that is no host, a host given twice (with
    both lines), a port or slot count out of range, or a file with no host.
    """
    hosts: list[Host] = []
    first: dict[tuple[str, int | None], int] = {}
    again: list[tuple[int, str, int]] = []
    # Not splitlines(): it also ends lines at control characters that an editor does not count.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.split("#", 1)[0].strip(" \t\r")
        if not line:
            continue
        host = _parse_host(line, f"{origin}:{number}")
        if first.setdefault(_key(host), number) != number:
            again.append((number, host.label, first[_key(host)]))
        hosts.append(host)
    if again:
        raise _twice(again, origin)
    if not hosts:
        raise ConfigError(
            origin, found="no host", expected="one host a line", remedy="add a line: node1 slots=8"
        )
    return Inventory(hosts=tuple(hosts))


def _key(host: Host) -> tuple[str, int | None]:
    """Equal for two spellings of one target; names differ by case to nobody who resolves them."""
    return (_address(host.name) or host.name.casefold(), host.port)


def _address(text: str) -> str:
    """An IPv6 address in its one short form; "" for what is none. A zone is an interface's name."""
    address, percent, zone = text.partition("%")
    try:
        short = ipaddress.IPv6Address(address).compressed
    except ValueError:
        return ""
    return "" if percent and not _is_name(zone) else f"{short}{percent}{zone}"


def _twice(again: Sequence[tuple[int, str, int]], origin: str) -> ConfigError:
    """The error for hosts that are given more than once."""
    number, label, first = again[0]
    found = f"{label} again (first on line {first})"
    if len(again) > 1:
        others = ", ".join(f"{label} on lines {f} and {n}" for n, label, f in again[1:4])
        found += f"; also {others}" + (f" and {len(again) - 4:,} more" if len(again) > 4 else "")
    return ConfigError(
        f"{origin}:{number}",
        found=found,
        expected="each host once",
        remedy="remove one of the two lines",
    )


def _parse_host(line: str, where: str) -> Host:
    found = repr(line if len(line) <= 80 else f"{line[:80]}…")
    match = _LINE.fullmatch(line)
    parts = _target(match["target"]) if match else None
    if match is None or parts is None:
        raise ConfigError(
            where,
            found=found,
            expected="[user@]host[:port] [slots=N] [python=PATH]",
            remedy="correct or comment out this line",
        )
    user, name, port, slots = match["user"], parts["name"], parts["port"], match["slots"]
    for what, text in (("host", parts["name"]), ("user", user)):
        if text is not None and not _address(text) and not _is_name(text):
            raise ConfigError(
                where,
                found=f"the {what} name {text[:80]!r}",
                expected=f"letters, digits and {' '.join(_IN_NAMES)}",
                remedy="give it another name in ~/.ssh/config (Host, HostName, User)",
            )
    if port is not None and not 0 < int(port) < 65536:
        remedy = "write the port of its SSH server, or leave it out"
        raise ConfigError(where, found=f"port {port}", expected="1 to 65535", remedy=remedy)
    if slots is not None and int(slots) == 0:
        raise ConfigError(
            where,
            found="slots=0",
            expected="1 or more",
            remedy="comment out a host to leave it out",
        )
    return Host(
        name=str(name),
        user=user,
        port=None if port is None else int(port),
        slots=None if slots is None else int(slots),
        python=match["python"],
    )


def _target(text: str) -> Mapping[str, str | None] | None:
    """Name and port of ``host``, ``host:port``, an IPv6 address, or ``[address]:port``."""
    if _address(text):
        return {"name": text, "port": None}
    match = _TARGET.fullmatch(text)
    if match is None or (match["six"] is not None and not _address(match["six"])):
        return None
    return {"name": match["name"] if match["six"] is None else match["six"], "port": match["port"]}


def _is_name(text: str) -> bool:
    """Whether a name is one: nothing that a shell, a path or a terminal takes for more."""
    plain = all(c.isalnum() or c in _IN_NAMES or unicodedata.category(c)[0] == "M" for c in text)
    return plain and text[:1] not in ("", "-") and text not in (".", "..")


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
            remedy="write it (a line: node1 slots=8), or name another with --hosts FILE",
        ) from None
    return parse_inventory(text, str(path))
