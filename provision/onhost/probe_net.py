"""What a host's network is: interfaces, the way to each peer, InfiniBand, what filters packets.

Standard library only, Python 3.8 or later; no command but the firewall's own, so that a host
without iproute2 is read as well.
"""

from __future__ import annotations

import array
import fcntl
import glob
import os
import re
import shutil
import socket
import struct
from functools import partial
from typing import Any, Iterator

from provision.onhost.probe_read import Failed, first_match, output, read_file, reason, side_by_side

#: Seconds for one name: a resolver that is out of reach takes 5 s a try.
NAME_SECONDS = 12
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
# linux/sockios.h, linux/if.h, linux/ethtool.h
SIOCGIFFLAGS, SIOCGIFMTU, SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8913, 0x8921, 0x8946, 3
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
# linux/netlink.h, linux/rtnetlink.h
RTM_GETADDR, NLM_F_REQUEST_DUMP, NLMSG_ERROR, NLMSG_DONE = 22, 0x301, 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
#: linux/in.h, which Python's socket module does not name: the MTU of a connected socket's route.
IP_MTU, IPV6_MTU = 14, 24
#: Drivers, as the kernel names them, of interfaces that are no hardware.
KINDS = {"bonding": "bond", "802.1Q VLAN Support": "vlan", "tun": "tunnel", "wireguard": "tunnel"}


def resolve(name: str) -> list[str]:
    """Every address of a name, in the resolver's order."""
    found = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def read_hostname_addresses() -> object:
    """What this host's own name resolves to here; absent if to nothing."""
    try:
        return resolve(socket.gethostname())
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise
        return None


def read_netlink_addresses() -> Iterator[tuple[int, str]]:
    """(interface index, "address/prefix length") of this network namespace: rtnetlink(7)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.bind((0, 0))
        link.send(struct.pack("=LHHLLB3x", 20, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0, 0))
        while True:
            data = link.recv(1 << 16)
            while data:
                size, kind = struct.unpack_from("=LH", data)
                if kind == NLMSG_ERROR:
                    raise Failed("netlink: error %d" % struct.unpack_from("=i", data, 16)[0])
                if kind == NLMSG_DONE:
                    return
                family, prefix, _, _, index = struct.unpack_from("=BBBBL", data, 16)
                attributes = dict(read_attributes(data[24:size]))
                raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
                if raw and family in (socket.AF_INET, socket.AF_INET6):
                    yield index, "%s/%d" % (socket.inet_ntop(family, raw), prefix)
                data = data[(size + 3) & ~3 :]


def read_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a netlink message."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:size]
        data = data[(size + 3) & ~3 :]


def ask_interface(request: int, name: str) -> int | None:
    """The number that an ioctl of netdevice(7) gives for an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            asked = struct.pack("16s24x", name.encode())
            return int(struct.unpack_from("=i", fcntl.ioctl(sock, request, asked), 16)[0])
        except OSError:
            return None


def ask_driver(name: str) -> str | None:
    """The kernel driver of an interface, in this network namespace whatever /sys shows."""
    info = array.array("B", struct.pack("=I192x", ETHTOOL_GDRVINFO))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            asked = struct.pack("16sP16x", name.encode(), info.buffer_info()[0])
            fcntl.ioctl(sock, SIOCETHTOOL, asked)
        except OSError:
            return None
    return info.tobytes()[4:36].split(b"\0", 1)[0].decode() or None


def kind_of(name: str, flags: int, driver: str | None, sys: str) -> str:
    """What an interface is; ``sys``: its folder in /sys/class/net, "" where there is none."""
    if flags & IFF_LOOPBACK:
        return "loopback"
    if driver in ("bridge", "veth"):
        return driver
    if driver in KINDS:
        return KINDS[driver]
    if sys and read_file(sys + "/type") == "32":
        return "infiniband"
    if sys and os.path.exists(sys + "/device"):
        return "physical"
    if re.match(r"(tun|tap|wg|tailscale|ppp|gre|sit|ipip|vxlan|geneve)", name):
        return "tunnel"
    return "virtual"


def read_interfaces() -> list[dict[str, Any]]:
    """Every interface of this network namespace."""
    addresses: dict[int, list[str]] = {}
    for index, address in read_netlink_addresses():
        addresses.setdefault(index, []).append(address)
    found = []
    for index, name in socket.if_nameindex():
        folder = "/sys/class/net/" + name
        # A /sys that was mounted in another network namespace shows that one's interfaces.
        sys = folder if read_file(folder + "/ifindex") == str(index) else ""
        flags, driver = (ask_interface(SIOCGIFFLAGS, name) or 0) & 0xFFFF, ask_driver(name)
        try:
            speed = int(read_file(sys + "/speed") or -1) if sys else -1
        except OSError:  # EINVAL: it has no speed, or no carrier
            speed = -1
        row = {
            "name": name,
            "state": "up" if flags & IFF_UP and flags & IFF_RUNNING else "down",
            "mtu": ask_interface(SIOCGIFMTU, name),
            "speed": speed if speed > 0 else None,
            "kind": kind_of(name, flags, driver, sys),
            "driver": driver,
            "addresses": addresses.get(index, []),
        }
        found.append(row)
    return found


def read_route(peer: str, interfaces: dict[str, str]) -> dict[str, object]:
    """What a peer's name means here, the address this host would use to it, and over which NIC.

    A UDP socket that is connected, and never sent on, asks the kernel's routing table.
    """
    info = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)
    with socket.socket(info[0][0], socket.SOCK_DGRAM) as udp:
        udp.connect(info[0][4])
        source = str(udp.getsockname()[0])
        ipv6 = info[0][0] == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, IPV6_MTU) if ipv6 else (socket.IPPROTO_IP, IP_MTU)
        mtu = udp.getsockopt(level, option)
    return {
        "address": info[0][4][0],
        "source": source,
        "interface": interfaces.get(source) or ("lo" if source.startswith("127.") else None),
        "mtu": mtu,
        "addresses": list(dict.fromkeys(str(row[4][0]) for row in info)),
    }


def read_routes(peers: list[str]) -> dict[str, object]:
    """The way to each peer, or the error in its place."""
    names = dict(socket.if_nameindex())
    interfaces = {
        address.partition("/")[0]: names.get(index, "")
        for index, address in read_netlink_addresses()
    }
    calls = {peer: partial(read_route, peer, interfaces) for peer in peers}
    return {
        peer: {"error": reason(route)} if isinstance(route, Exception) else route
        for peer, route in side_by_side(calls, NAME_SECONDS).items()
    }


def read_infiniband() -> object:
    """InfiniBand and RoCE ports; absent without such hardware."""
    found = []
    for folder in sorted(glob.glob("/sys/class/infiniband/*/ports/*")):
        parts = folder.split("/")
        state = (read_file(folder + "/state") or "").rpartition(": ")[2]
        row = {"device": parts[4], "port": int(parts[6]), "state": state}
        row.update(rate=read_file(folder + "/rate"), link=read_file(folder + "/link_layer"))
        found.append(row)
    return found or None


def read_ephemeral() -> object:
    """First and last of the ports that the kernel hands out."""
    text = read_file("/proc/sys/net/ipv4/ip_local_port_range")
    return [int(part) for part in text.split()] if text else None


def read_firewall_tool() -> object:
    """What rules are made with on this host: the one that is in charge, else what is there."""
    # systemd keeps such a link for every unit that runs.
    if os.path.lexists("/run/systemd/units/invocation:firewalld.service"):
        return "firewalld"
    if first_match(r"^ENABLED=(yes)", read_file("/etc/ufw/ufw.conf")):
        return "ufw"
    return next((tool for tool in ("nft", "iptables") if shutil.which(tool, path=SBIN)), None)


def parse_nft(text: str) -> tuple[dict[str, str], list[str]]:
    """Policies of base chains, and the rules that drop or reject: of `nft list ruleset`."""
    table = chain = ""
    policies, rules = {}, []
    for line in (line.strip() for line in text.splitlines()):
        table = first_match(r"^table (\S+ \S+) \{", line) or table
        chain = first_match(r"^chain (\S+) \{", line) or chain
        policy = first_match(r"^type filter hook .*policy (\w+);", line)
        if policy:
            policies[table + " " + chain] = policy
        elif re.search(r"\b(drop|reject)\b", line):
            rules.append("%s %s: %s" % (table, chain, line))
    return policies, rules


def parse_iptables(text: str, table: str) -> tuple[dict[str, str], list[str]]:
    """The same of `iptables -S`."""
    policies = dict(re.findall(r"^-P (\S+) (\S+)", text, re.MULTILINE))
    rules = re.findall(r"^(-A .*-j (?:DROP|REJECT).*)$", text, re.MULTILINE)
    return (
        {"%s %s" % (table, chain): policy.lower() for chain, policy in policies.items()},
        ["%s: %s" % (table, rule) for rule in rules],
    )


def read_firewall() -> object:
    """What filters packets here; absent where nothing drops or rejects any."""
    if os.geteuid() != 0:
        raise Failed("only root may read firewall rules")
    policies: dict[str, str] = {}
    rules: list[str] = []
    nft = shutil.which("nft", path=SBIN)
    asked = [(nft, ["list", "ruleset"], "")] if nft else []
    # iptables over nft shows in nft's own list; asking the old kind would load its modules.
    for family, name in (("ip", "iptables"), ("ip6", "ip6tables")):
        legacy = shutil.which(name + "-legacy", path=SBIN) or shutil.which(name, path=SBIN)
        if legacy and (not nft or read_file("/proc/net/%s_tables_names" % family)):
            asked.append((legacy, ["-S"], family + " filter"))
    if not asked:
        raise Failed("no nft or iptables command")
    for tool, args, table in asked:
        text = output([str(tool), *args])
        more = parse_iptables(text, table) if table else parse_nft(text)
        policies.update(more[0])
        rules += more[1]
    if not rules and not set(policies.values()) - {"accept"}:
        return None
    return {"policies": policies, "rules": rules[:50]}
