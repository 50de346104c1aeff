"""``preflight --deep``: a real all-reduce over the run's own backend, and every pair of hosts.

Each host runs its ranks in the deployed environment (onhost/allreduce.py), told over stdin; all of
them end with the conversation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Any

from provision.errors import UNREACHABLE, ConfigError, ProvisionError
from provision.findings import Finding, Judge, Level, Report
from provision.fleet import Fleet
from provision.preflight.blame import Pair
from provision.preflight.gpus import chosen_gpus
from provision.preflight.links import rate_text, slowness
from provision.preflight.nics import interface_environ
from provision.preflight.ready import Wanted
from provision.script import said
from provision.session import Remote
from provision.talk import Talk

Say = Callable[[str], None]

#: DeepSpeed's accelerator → the backend that its runs use.
#: https://github.com/deepspeedai/DeepSpeed/tree/master/accelerator (communication_backend_name)
BACKENDS: Mapping[str, str] = {"cuda": "nccl", "cpu": "gloo"}


@dataclass(frozen=True, kw_only=True)
class Deep:
    """What was measured. ``allreduce``: {"bytes", "seconds"} of each host that finished.

    ``lost``: hosts that are not reached any more; ``errors`` have these, too.
    """

    allreduce: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rates: Mapping[Pair, float] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, ProvisionError] = field(default_factory=dict)


def make_orders(wanted: Wanted) -> dict[str, dict[str, Any]]:
    """What each host is told: its ranks' place among all of them."""
    if wanted.accelerator not in BACKENDS:
        raise ConfigError(
            "--deep",
            found=f"accelerator {wanted.accelerator}",
            expected=" or ".join(BACKENDS),
            remedy="leave --deep out: preflight without it says what it can",
        )
    counts = list(wanted.slots.values())
    leaders = [0, *accumulate(counts)][:-1]
    orders = {}
    for node_rank, (host, nproc) in enumerate(wanted.slots.items()):
        name = wanted.interfaces.get(host)
        environ = interface_environ(name) if name else {}
        if wanted.accelerator == "cuda" and host in wanted.devices:
            environ |= chosen_gpus(wanted.devices[host])
        orders[host] = {
            "first_rank": leaders[node_rank],
            "nproc": nproc,
            "world_size": wanted.world_size,
            "leaders": leaders,
            "node_rank": node_rank,
            "address": wanted.master_addr,
            "port": wanted.master_port,
            "backend": BACKENDS[wanted.accelerator],
            "environ": environ,
        }
    return orders


def gather_deep(fleet: Fleet, wanted: Wanted, say: Say) -> Deep:
    """Measure; ConfigError for an accelerator whose backend is not known."""
    orders, hosts = make_orders(wanted), tuple(wanted.slots)
    talks: dict[str, Talk] = {}

    def begin(remote: Remote) -> None:
        python = wanted.python.replace("~", wanted.homes[remote.label], 1)
        talks[remote.label] = remote.talk("allreduce", python=python)
        talks[remote.label].send(orders[remote.label])

    def on_line(line: str) -> None:
        if (text := said(line)) is not None:
            say(text)

    ranks = f"{wanted.world_size} ranks on {len(hosts)} hosts"
    say(f"deep: {ranks} meet over {BACKENDS[wanted.accelerator]}")
    try:
        begun = fleet.fan_out(begin, hosts)
        failed = {h: _gone(e) for h, e in begun.items() if isinstance(e, ProvisionError)}
        if failed:  # the others would wait for it in vain
            return make_deep(failed)
        since = time.monotonic()
        answers = {host: _receive(talks[host], since, on_line) for host in hosts}
    finally:
        for talk in talks.values():
            talk.close()
    return make_deep(answers)


def _receive(talk: Talk, since: float, on_line: Callable[[str], None]) -> dict[str, Any]:
    try:
        return dict(talk.await_answer(since, on_line))
    except ProvisionError as error:
        return _gone(error)


def _gone(error: ProvisionError) -> dict[str, Any]:
    """What stands for the answer of a host that gives none any more."""
    return {"error": f"no answer from it any more ({error.found})", "gone": error}


def make_deep(answers: Mapping[str, Mapping[str, Any]]) -> Deep:
    """The hosts' answers, with names in place of node ranks.

    Where a host is gone, the errors of the others say no more than that they waited for it.
    """
    hosts = list(answers)
    gone = [host for host, answer in answers.items() if answer.get("gone")]
    good = {h: a for h, a in answers.items() if "error" not in a}
    return Deep(
        allreduce={host: answer["allreduce"] for host, answer in good.items()},
        rates={
            (host, hosts[int(to)]): float(rate)
            for host, answer in good.items()
            for to, rate in answer["rates"].items()
        },
        errors={h: str(answers[h]["error"]) for h in gone or hosts if "error" in answers[h]},
        lost={h: answers[h]["gone"] for h in gone if answers[h]["gone"].exit_code == UNREACHABLE},
    )


def evaluate_deep(wanted: Wanted, deep: Deep) -> Report:
    """Findings: the all-reduce, then the hosts from the slowest to the fastest."""
    backend, findings = BACKENDS[wanted.accelerator], list[Finding]()
    expected = f"{wanted.world_size} ranks to reduce over {backend}"
    for host in wanted.slots:
        judge = Judge(host=host)
        if host in deep.lost:
            findings.append(judge.failed(deep.lost[host]))
        elif host in deep.errors:
            remedy = f"look at {backend} there; with NCCL_DEBUG=INFO a run says more"
            found = deep.errors[host]
            findings.append(judge("all-reduce", Level.ERROR, found, expected, remedy))
        elif host in deep.allreduce:
            findings.append(judge("all-reduce", Level.OK, _bus(wanted, deep, host), expected))
        else:
            why = "not measured: another host failed"
            findings.append(
                judge("all-reduce", Level.UNKNOWN, why, expected, "mend that one first")
            )
    return Report(findings=(*findings, *_ranking(deep)))


def _bus(wanted: Wanted, deep: Deep, host: str) -> str:
    """The bus bandwidth as nccl-tests counts it: 2 (n - 1) / n of the bytes, by the time.

    https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md#bus-bandwidth
    """
    n, found = wanted.world_size, deep.allreduce[host]
    rate = 2 * (n - 1) / n * found["bytes"] / found["seconds"]
    return f"{found['bytes'] / (1 << 20):.0f} MiB at {rate_text(rate)} (bus bandwidth)"


def _ranking(deep: Deep) -> list[Finding]:
    """Every host's usual rate, both ways, against that of all."""
    if not deep.rates:
        return []
    usual = median(deep.rates.values())
    hosts = dict.fromkeys(host for pair in deep.rates for host in pair)
    mine = {h: {p: r for p, r in deep.rates.items() if h in p} for h in hosts}
    order = sorted(hosts, key=lambda host: median(mine[host].values()))
    findings = []
    for place, host in enumerate(order, start=1):
        own = median(mine[host].values())
        level = slowness(own, usual)
        worst = min(mine[host], key=lambda pair: mine[host][pair])
        found = (
            f"{rate_text(own)}, {place} of {len(order)} from the slowest; "
            f"least {rate_text(mine[host][worst])} ({worst[0]} to {worst[1]})"
        )
        remedy = "look at its link, switch port, PCIe width and NIC placement, and what else runs"
        expected = f"about {rate_text(usual)}"
        findings.append(Judge(host=host)("pairs", level, found, expected, remedy))
    return findings
