"""Every host dials every other, for real, in one start of one script on each.

All hosts listen first and say where; then each is told all of it and dials all others at once;
then pairs measure in rounds, every host sending to one and receiving from one, so that no link
serves two measurements in one direction. n hosts take n - 1 rounds, and never more than ROUNDS.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.session import Remote
from provision.talk import Talk

Say = Callable[[str], None]

#: Bursts are for slow hosts, which are slow towards anybody; ``--deep`` measures every pair.
ROUNDS = 15
#: Ports sampled of each host's ephemeral range; fewer where there are so many pairs.
PORTS, PORTS_OF_MANY, MANY = 5, 3, 32
_HELLO_SECONDS = 30.0
#: A pair measured slower than this share of the usual is measured again: a busy moment passes, a
#: slow link stays.
RETRY_BELOW = 0.5
RETRIES = 5


def heartbeat_ports(addresses: Sequence[str | None], master_port: int) -> tuple[int, ...]:
    """Each node's UDP port: master_port's number, and the next ones where hosts share an address.

    So that one number is what a firewall has to let through, and two runs that may not share a
    master_port don't share these either.
    """
    seen: Counter[str | None] = Counter()
    ports = []
    for address in addresses:
        ports.append(master_port + seen[address])
        seen[address] += 1
    return tuple(ports)


@dataclass(frozen=True, kw_only=True)
class MeshWanted:
    """What is tested. ``addresses``: the address of each host that a run would use, in order.

    ``master_addr`` is as given, so that it is resolved on each host; ``master_port`` is listened
    on by the first host.
    """

    addresses: Mapping[str, str]
    master_addr: str
    master_port: int

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts, in node_rank order."""
        return tuple(self.addresses)

    @property
    def heartbeats(self) -> dict[str, int]:
        """Each host's UDP port for the heartbeat; 0 where a run has none, that of one host."""
        ports = heartbeat_ports(tuple(self.addresses.values()), self.master_port)
        return dict(zip(self.hosts, ports if len(ports) > 1 else (0,), strict=True))


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """What was found. ``hellos`` and ``dials`` are onhost/mesh.py's answers, keyed by host.

    ``rates``: bytes/s from the first host of a pair to the second, the best of all tries.
    ``errors``: hosts that gave no answer; they are missing in the others.
    """

    hellos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dials: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    errors: Mapping[str, ProvisionError] = field(default_factory=dict)


def plan_rounds(
    hosts: Sequence[str], most: int = ROUNDS
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Pairs (from, to) by round: in each, every host sends once and receives once."""
    n = len(hosts)
    steps = [1 + (n - 1) * i // min(most, n - 1) for i in range(min(most, n - 1))] if n > 1 else []
    return tuple(tuple((hosts[i], hosts[(i + s) % n]) for i in range(n)) for s in steps)


def plan_again(rates: Mapping[tuple[str, str], float]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Rounds that measure slow pairs again, no host twice in a round on the same side."""
    if not rates:
        return ()
    usual = sorted(rates.values())[len(rates) // 2]
    rest = [pair for pair, rate in rates.items() if rate < usual * RETRY_BELOW]
    rounds = []
    while rest:
        chosen: list[tuple[str, str]] = []
        for pair in rest:
            if all(pair[0] != other[0] and pair[1] != other[1] for other in chosen):
                chosen.append(pair)
        rounds.append(tuple(chosen))
        rest = [pair for pair in rest if pair not in chosen]
    return tuple(rounds)


def gather_mesh(fleet: Fleet, wanted: MeshWanted, say: Say) -> Mesh:
    """The mesh of these hosts, as it is now. Nothing stays behind on them."""
    errors: dict[str, ProvisionError] = {}
    talks: dict[str, Talk] = {}
    count = PORTS if len(wanted.hosts) <= MANY else PORTS_OF_MANY

    def begin(remote: Remote) -> dict[str, object]:
        port = wanted.master_port if remote.label == wanted.hosts[0] else 0
        where = [wanted.addresses[remote.label], str(wanted.heartbeats[remote.label])]
        talks[remote.label] = remote.talk("mesh", [str(port), str(count), *where])
        return talks[remote.label].receive(_HELLO_SECONDS)

    try:
        answers = fleet.fan_out(begin, wanted.hosts)
        hellos = _sorted(answers, errors)
        if "master_error" in hellos.get(wanted.hosts[0], {}):
            return Mesh(hellos=hellos, errors=errors)
        say(f"network: {len(hellos)} hosts dial one another")
        dials = _dial(wanted, {h: talks[h] for h in hellos}, hellos, errors)
        rates = _measure({h: talks[h] for h in dials}, list(hellos), dials, errors, say)
    finally:
        for talk in talks.values():
            talk.close()
    dials = {host: dial for host, dial in dials.items() if host not in errors}
    return Mesh(hellos=hellos, dials=dials, rates=rates, errors=errors)


def _sorted(
    answers: Mapping[str, Any], errors: dict[str, ProvisionError]
) -> dict[str, dict[str, Any]]:
    """The answers; what is an error instead goes to ``errors``."""
    errors.update({h: a for h, a in answers.items() if isinstance(a, ProvisionError)})
    return {h: a for h, a in answers.items() if h not in errors}


def _each(talks: Mapping[str, Talk], orders: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """Tell each host its order, then take all answers: they work side by side meanwhile."""
    answers: dict[str, Any] = {}
    since = time.monotonic()
    for host, order in orders.items():
        try:
            talks[host].send(order)
        except ProvisionError as error:
            answers[host] = error
    for host in orders:
        try:
            if host not in answers:
                answers[host] = talks[host].await_answer(since, lambda _: None)
        except ProvisionError as error:
            answers[host] = error
    return answers


def _dial(
    wanted: MeshWanted,
    talks: Mapping[str, Talk],
    hellos: Mapping[str, Mapping[str, Any]],
    errors: dict[str, ProvisionError],
) -> dict[str, dict[str, Any]]:
    token = secrets.token_hex(32)
    peers = [
        {
            "host": host,
            "address": wanted.addresses[host],
            "ports": hello["ports"],
            "udp": hello.get("udp"),
        }
        for host, hello in hellos.items()
    ]
    master = [wanted.master_addr, wanted.master_port]
    orders = {
        host: {"do": "dial", "token": token, "me": me, "master": master, "peers": peers}
        for me, host in enumerate(hellos)
    }
    return _sorted(_each(talks, orders), errors)


def _measure(
    talks: Mapping[str, Talk],
    order: Sequence[str],
    dials: Mapping[str, Mapping[str, Any]],
    errors: dict[str, ProvisionError],
    say: Say,
) -> dict[tuple[str, str], float]:
    """Bytes/s of the pairs that reach each other, the slow ones measured again.

    A host that gives no answer any more goes to ``errors``, and its pairs with it.
    """
    rates: dict[tuple[str, str], float] = {}
    rounds = plan_rounds(tuple(dials))
    for number, pairs in enumerate(rounds, start=1):
        if number == 1 or number % 5 == 0:
            say(f"network: bandwidth, round {number} of {len(rounds)}")
        _burst(talks, order, [pair for pair in pairs if _open(dials, pair)], rates, errors)
    for _ in range(RETRIES):
        for pairs in plan_again(rates):
            _burst(talks, order, pairs, rates, errors)
    return rates


def _open(dials: Mapping[str, Mapping[str, Any]], pair: tuple[str, str]) -> bool:
    """Whether full packets went both ways between two hosts."""
    packets = dials[pair[0]]["peers"].get(pair[1], {}).get("packets", {})
    return bool(packets.get("up") and packets.get("down"))


def _burst(
    talks: Mapping[str, Talk],
    order: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    rates: dict[tuple[str, str], float],
    errors: dict[str, ProvisionError],
) -> None:
    pairs = [pair for pair in pairs if not errors.keys() & {*pair}]
    orders = {a: {"do": "burst", "peer": order.index(b)} for a, b in pairs}
    answers = _sorted(_each(talks, orders), errors)
    for pair in pairs:
        if pair[0] in answers:
            rate = float(answers[pair[0]].get("rate", 0.0))
            rates[pair] = max(rate, rates.get(pair, 0.0))
    for pair in [pair for pair in rates if errors.keys() & {*pair}]:
        del rates[pair]
