"""Preflight: may this run start now? Pure: judges what facts.py and ready.py read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.errors import ProvisionError
from provision.findings import UNREAD, Finding, Judge, Level, Report
from provision.hosts.facts import HostFacts
from provision.preflight.beats import judge_beats
from provision.preflight.gpus import judge_gpus
from provision.preflight.limits import judge_among, judge_limits
from provision.preflight.links import judge_mesh
from provision.preflight.nics import Way, is_loopback, judge_way
from provision.preflight.ready import Ready, Wanted
from provision.preflight.storage import judge_bytes, judge_folders, judge_model, judge_rows


def evaluate(
    wanted: Wanted, facts: Mapping[str, HostFacts], ways: Mapping[str, Way], ready: Ready
) -> Report:
    """All findings of all hosts, host by host."""
    answers = {h: a for h, a in ready.hosts.items() if not isinstance(a, ProvisionError)}
    links = judge_mesh(wanted.mesh, ready.mesh, facts)
    beats = judge_beats(wanted.mesh, ready.mesh, facts)
    among = judge_among(wanted, facts, answers)
    same = {
        subject: judge_bytes(subject, _digests(subject, answers), path)
        for subject, path in (("model", wanted.model), ("data", wanted.data))
    }
    findings: list[Finding] = []
    for host in wanted.slots:
        judge = Judge(host=host)
        findings += _environment(judge, wanted, facts[host])
        findings += judge_gpus(judge, wanted, facts[host])
        findings += _host(judge, wanted, facts[host], ready.hosts.get(host, {}))
        findings += [f for each in same.values() for f in each.get(host, ())]
        findings += [f for f in among if f.host == host]
        findings += judge_way(host, ways[host])
        findings += _own_name(judge, ways[host], ready.mesh.hellos.get(host, {}))
        findings += links.get(host, ())
        findings += [f for f in beats if f.host == host]
    return Report(findings=tuple(findings))


def _digests(subject: str, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Digests by host, of the hosts that have the files; the others have a finding of their own."""
    if subject == "model":
        found = {host: (a.get("model") or {}).get("digest") for host, a in answers.items()}
    else:
        found = {host: a.get("data") for host, a in answers.items()}
    return {host: digest for host, digest in found.items() if digest and "sha256" in digest}


def _environment(judge: Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    """The environment in use; and that what it holds is still what was proved."""
    if not wanted.lock:
        return []
    expected = f"{wanted.lock} (this wheel and this lock)"
    if facts["environment"].unknown:
        return [judge("environment", Level.UNKNOWN, facts["environment"], expected, UNREAD)]
    found = str(facts.environment.get("lock", "none"))
    if found != wanted.lock:
        return [judge("environment", Level.ERROR, found, expected, "run: invoke deploy")]
    now = facts["environment.now"].value or {}
    for name in ("torch", "deepspeed"):
        proved, is_now = facts.environment.get(name), now.get(name)
        if proved and name in now and is_now != proved:
            where = facts.environment.get("path", "it")
            remedy = f"somebody installed into {where}: remove it there, then invoke deploy"
            return [judge(name, Level.ERROR, is_now or "none", f"{proved}, as deployed", remedy)]
    return [judge("environment", Level.OK, found, expected)]


def _host(
    judge: Judge,
    wanted: Wanted,
    facts: HostFacts,
    answer: Mapping[str, Any] | ProvisionError,
) -> list[Finding]:
    """What the host said about itself."""
    if isinstance(answer, ProvisionError):
        return [judge.unanswered("preflight", answer)]
    findings = judge_folders(judge, wanted, answer)
    if wanted.model:
        findings += judge_model(judge, wanted.model, answer.get("model") or {})
    if wanted.data:
        rows, skip = answer.get("rows") or {}, wanted.on("skip_bad_rows", default=False)
        findings += judge_rows(judge, wanted.data, rows, facts.home, skip_bad=skip)
    return findings + judge_limits(judge, wanted, facts, answer)


def _own_name(judge: Judge, way: Way, hello: Mapping[str, Any]) -> list[Finding]:
    """The host's own name: gloo goes by it where it is told no interface, and only there.

    Debian's installer writes it as 127.0.1.1, so with an interface that is as it should be.
    """
    if not hello or way.interface:
        return []
    own, name = hello.get("own") or {}, hello.get("hostname")
    expected = "an address of the host: it has no interface to be told"
    remedy = f"write {name} with its address into /etc/hosts there"
    if "error" in own:
        found = f"{name} does not resolve here ({own['error']})"
        return [judge("own name", Level.ERROR, found, expected, remedy)]
    here = own.get("addresses") or ()
    if any(is_loopback(each) for each in here):
        found = f"{name} is {', '.join(here)} here"
        return [judge("own name", Level.ERROR, found, expected, remedy)]
    return []
