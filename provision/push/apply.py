"""Carry out a push: what hosts lack, out of the controller once, passed on from host to host."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from provision.errors import HostError, ProvisionError
from provision.fleet import Fleet
from provision.numbers import size
from provision.push.certificate import make_certificate
from provision.push.end import End, Uplink, say_alive
from provision.push.parcel import Parcel, read_parcels
from provision.push.rate import Pace, progress
from provision.push.route import plan_sources
from provision.session import Remote, Say
from provision.steps import Phase, Put

STORE = ".zerofleet/store/"
#: Less than this is not worth a port, a certificate and a dial.
RELAY_LEAST = 1_000_000
#: Hosts that hold everything already, and are asked to pass it on.
HOLDERS = 2
_SAY_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a push came to. ``fetched``: bytes by host; ``sent``: those out of the controller.

    ``errors``: hosts on which it failed.
    """

    fetched: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    errors: Mapping[str, ProvisionError] = field(default_factory=dict)


def apply_push(
    fleet: Fleet,
    phase: Phase,
    say: Say,
    *,
    rate: float = 0.0,
    holders: Sequence[str] = (),
    partial: bool = False,
    check: bool = False,
) -> Moved:
    """Every host's files of a push phase into its store, verified there. ``rate``: bytes/s at most.

    ``holders``: other hosts, of which the first few pass on what they hold. What came before an
    interruption is verified and kept. A host that fails has only whole files in its store; where
    one can't even begin, nothing is sent to any (unless ``partial``). ``check``: what hosts have
    is hashed there, and sent again where it has rotted.
    """
    puts = list(dict.fromkeys(step.do for step in phase.steps if isinstance(step.do, Put)))
    relayed = sum(put.size for put in puts) >= RELAY_LEAST
    holders = list(holders[:HOLDERS]) if relayed else []
    what = f"{size(sum(put.size for put in puts))} {'on' if check else 'to'}"
    say(f"{'check' if check else phase.name}: {what} {', '.join(phase.hosts)}")
    parcels = read_parcels(puts)
    ends: dict[str, End] = {}
    pool, ended = ThreadPoolExecutor(2 * len(phase.hosts) + len(holders) + 1), threading.Event()
    threading.Thread(target=say_alive, args=(ends, ended), daemon=True).start()
    try:
        push = _Push(
            fleet=fleet, phase=phase, parcels=parcels, ends=ends, rate=rate, check=check, say=say
        )
        begun = push.apply_begin([*phase.hosts, *holders], serve=relayed)
        answers = {h: a for h, a in begun.items() if not isinstance(a, ProvisionError)}
        errors = {h: begun[h] for h in phase.hosts if h not in answers}
        return push.apply_fetch(answers if partial or not errors else {}, errors, pool)
    finally:
        ended.set()
        for end in ends.values():
            end.talk.close()
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Push:
    """One push under way."""

    fleet: Fleet
    phase: Phase
    parcels: Sequence[Parcel]
    ends: dict[str, End]
    rate: float
    check: bool
    say: Say

    def apply_begin(
        self, hosts: Sequence[str], *, serve: bool
    ) -> dict[str, dict[str, Any] | ProvisionError]:
        """What each host holds and where it serves; an error where one can't take part."""
        serve = serve and len(hosts) > 1
        secret: dict[str, object] = {"cert": "", "key": "", "token": ""}
        if serve:
            cert, key = make_certificate()
            secret = {"cert": cert, "key": key, "token": secrets.token_hex(32)}
        wanted = {host: {step.do for step in self.phase.of(host)} for host in hosts}

        def begin(remote: Remote) -> dict[str, Any]:
            host = remote.label
            end = self.ends[host] = End(host=host, talk=remote.talk("relay"))
            files = [
                parcel.order(wanted=parcel.put in wanted[host], check=self.check)
                for parcel in self.parcels
            ]
            address = self.fleet.address(host)
            order = {"do": "begin", "files": files, "serve": serve, "address": address}
            return end.apply_begin({**order, **secret, "rate": self.rate}, self.say)

        begun = self.fleet.fan_out(begin, hosts, say=self.say)
        for host, answer in begun.items():
            if isinstance(answer, ProvisionError):
                if host not in self.phase.hosts:  # it holds all, and is not waited for
                    self.say(f"passes nothing on: {answer}")
            elif answer["closed"]:
                self.say(f"[{host}] passes nothing on, gets all from here: {answer['closed']}")
        return {host: self._roomy(host, answer) for host, answer in begun.items()}

    def _needed(self, answer: Mapping[str, Any]) -> int:
        """Bytes that a host still lacks."""
        held = zip(self.parcels, answer["held"], strict=True)
        return sum(parcel.put.size - have for parcel, have in held if have is not None)

    def _roomy(
        self, host: str, answer: dict[str, Any] | ProvisionError
    ) -> dict[str, Any] | ProvisionError:
        """The answer of a host with room for what it lacks, else the error of that."""
        if isinstance(answer, ProvisionError) or self._needed(answer) <= answer["free"]:
            return answer
        return HostError(
            f"{host}: disk of ~/.zerofleet/store",
            found=f"{size(answer['free'])} free",
            expected=f"{size(self._needed(answer))}, which it still lacks",
            remedy="make room there; what came so far is kept",
        )

    def apply_fetch(
        self,
        begun: Mapping[str, dict[str, Any]],
        errors: Mapping[str, Any],
        pool: ThreadPoolExecutor,
    ) -> Moved:
        """Have all fetch, side by side; a line of progress every few seconds."""
        peers = {
            host: {"address": answer["address"], "port": answer["port"]}
            for host, answer in begun.items()
            if "port" in answer
        }
        held = {host: answer["held"] for host, answer in begun.items()}
        sources = plan_sources(held, [parcel.put.size for parcel in self.parcels], peers)
        needed = {host: self._needed(answer) for host, answer in begun.items()}
        needed = {host: count for host, count in needed.items() if host in self.phase.hosts}
        uplink = Uplink(parcels=self.parcels, pace=Pace(self.rate), say=self.say, pool=pool)
        fetch = {h: {"do": "fetch", "from": sources[h], "peers": peers} for h in needed}
        outcomes = self.apply_orders(fetch, needed, uplink)
        outcomes |= self.apply_mended(outcomes, uplink)
        list(pool.map(End.apply_end, self.ends.values()))
        fetched = {host: count for host, count in outcomes.items() if isinstance(count, int)}
        failed = {host: e for host, e in outcomes.items() if isinstance(e, ProvisionError)}
        return Moved(fetched=fetched, sent=uplink.sent, errors={**errors, **failed})

    def apply_orders(
        self, orders: Mapping[str, Mapping[str, object]], needed: Mapping[str, int], uplink: Uplink
    ) -> dict[str, int | ProvisionError]:
        """Have hosts do what brings files to them: each one's count of bytes, or its error."""

        def attend(host: str) -> int | ProvisionError:
            try:
                return self.ends[host].apply_fetch(orders[host], uplink)
            except ProvisionError as error:
                return error

        for host in orders:
            uplink.come.setdefault(host, 0)
        futures = {host: uplink.pool.submit(attend, host) for host in orders}
        _await(futures, needed, uplink)
        return {host: future.result() for host, future in futures.items()}

    def apply_mended(
        self, outcomes: Mapping[str, int | ProvisionError], uplink: Uplink
    ) -> dict[str, int | ProvisionError]:
        """Send what rotted on a host's disk there again; others were given it from here."""
        rotten = {
            host: sorted(files)
            for host, files in uplink.rotten.items()
            if not isinstance(outcomes.get(host), ProvisionError)
        }
        sizes = [parcel.put.size for parcel in self.parcels]
        needed = {h: uplink.come.get(h, 0) + sum(sizes[n] for n in rotten[h]) for h in rotten}
        orders = {host: {"do": "mend", "files": files} for host, files in rotten.items()}
        return self.apply_orders(orders, needed, uplink)


def _await(
    futures: Mapping[str, Future[int | ProvisionError]], needed: Mapping[str, int], uplink: Uplink
) -> None:
    left, before, since = set(futures.values()), 0, time.monotonic()
    while left:
        _, left = wait(left, timeout=_SAY_SECONDS, return_when=FIRST_COMPLETED)
        now = time.monotonic()
        if left and now - since >= _SAY_SECONDS:
            come = dict(uplink.come)
            total = sum(come.values())
            rate, before, since = (total - before) / (now - since), total, now
            uplink.say(progress(needed, come, rate))
