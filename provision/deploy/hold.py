"""One controller at a time: a lock on every host, held for one command over its connections.

The first host, by name, is taken before the others: of two controllers that begin at once, the
one that gets it gets them all. Nobody waits while it holds a lock, so no two wait for each other.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from provision.errors import HostError, ProvisionError
from provision.findings import Judge, Report
from provision.fleet import Fleet, error_report
from provision.session import Remote, Say
from provision.steps import Phase, Plan, Run, Step
from provision.talk import Talk

#: Seconds between two signs of life; onhost/hold.py takes SILENCE for the end.
_ALIVE_EVERY = 5.0
_ANSWER_SECONDS = 30.0
#: Seconds between two tries with --wait, twice as long at most: not in step with another waiter.
_TRY_AGAIN = 1.0
#: As onhost/hold.py reads it: whose lock a command is to find on its host.
_WHOSE = "ZEROFLEET_LOCK"
SUBJECT, _EXPECTED = "lock", "no other command at work on this host"

#: A conversation with a host that holds on for us, who has the lock in our place, or what failed.
Took = Talk | dict[str, Any] | ProvisionError


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks for the hosts, and for what. ``token`` is of this one command."""

    user: str
    host: str
    what: str
    token: str


def read_asker(what: str) -> Asker:
    """This user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in the user database: a container
        user = str(os.getuid())
    return Asker(user=user, host=socket.gethostname(), what=what, token=secrets.token_hex(8))


@dataclass(frozen=True, kw_only=True)
class Hold:
    """The hosts' locks, or in ``report`` why they are not ours; then none is held.

    ``token``: the asker's, which is in them.
    """

    report: Report
    token: str = ""
    talks: Mapping[str, Talk] = field(default_factory=dict)

    def fenced(self, phase: Phase) -> Phase:
        """A phase whose commands know whose lock they have to find.

        However long this machine slept since it last looked, a host that is another's by now does
        nothing of what would change or remove what is in use.
        """

        def fence(step: Step) -> Step:
            if not isinstance(step.do, Run):
                return step
            argv = ("env", f"{_WHOSE}={self.token}", *step.do.argv)
            return replace(step, do=replace(step.do, argv=argv))

        return replace(phase, steps=tuple(map(fence, phase.steps)))

    def fenced_plan(self, plan: Plan) -> Plan:
        """Likewise, every phase of a plan."""
        return replace(plan, phases=tuple(map(self.fenced, plan.phases)))

    def apply_confirm(self, without: Collection[str] = ()) -> None:
        """Ask every host whether its lock is still ours; HostError names one where it is not.

        ``without``: hosts that have dropped out, and that nothing is done on any more.
        """
        asked = {host: talk for host, talk in self.talks.items() if host not in without}
        for talk in asked.values():
            talk.send({"confirm": True})
        for host, talk in asked.items():
            if talk.receive(_ANSWER_SECONDS).get("own") is not True:
                raise HostError(
                    f"{host}: {SUBJECT}",
                    found="no longer held by this command",
                    expected="held until it ends",
                    remedy="~/.zerofleet was removed there meanwhile: run the command again",
                )

    def say_alive(self, ended: threading.Event) -> None:
        """Show every host every few seconds that this controller lives, until that event.

        By a thread for each: on a link that takes no more bytes, one may wait for minutes, and the
        locks of all others would run out meanwhile.
        """

        def body(talk: Talk) -> None:
            while not ended.wait(_ALIVE_EVERY):
                with suppress(ProvisionError):  # who is gone is found when it is asked
                    talk.send({"alive": True})

        for talk in self.talks.values():
            threading.Thread(target=body, args=(talk,), daemon=True).start()

    def close(self) -> None:
        """Give the locks up."""
        for talk in self.talks.values():
            talk.close()


@contextmanager
def apply_hold(
    fleet: Fleet, what: str, say: Say, *, hosts: Sequence[str] = (), wait: int = 0
) -> Iterator[Hold]:
    """Lock the hosts (all, or those named), or none: then ``report`` says who has them.

    ``wait``: seconds to try again, where others have them. The locks end with the block, or with
    this process, however it ends.
    """
    asker, until = read_asker(what), time.monotonic() + wait
    chosen = tuple(hosts) or fleet.inventory.labels
    while True:
        hold = _take_all(fleet, asker, chosen)
        left = until - time.monotonic()
        if hold.report.ok or left <= 0 or _is_hopeless(hold.report):
            break
        say(f"waiting, {left:.0f} s at most: {hold.report.failing[0]}")
        time.sleep(min(left, _TRY_AGAIN * random.uniform(1, 2)))  # noqa: S311
    ended = threading.Event()
    hold.say_alive(ended)
    try:
        yield hold
    finally:
        ended.set()
        hold.close()


def _is_hopeless(report: Report) -> bool:
    """Whether a host fails by more than another controller's lock."""
    return any(f.subject != SUBJECT or not f.found.startswith("held") for f in report.failing)


def _take_all(fleet: Fleet, asker: Asker, hosts: Sequence[str]) -> Hold:
    """Every host's lock; when one is not to be had, none, and all findings."""
    first = min(hosts)
    told = json.dumps(asker.__dict__)

    def take(remote: Remote) -> Took:
        talk = remote.talk("hold", ["take", told])
        try:
            answer = talk.receive(_ANSWER_SECONDS)
        except ProvisionError:
            talk.close()
            raise
        if answer.get("held") is None and "error" not in answer:
            return talk
        talk.close()
        return answer

    found: dict[str, Took] = dict(fleet.fan_out(take, (first,)))
    others = [host for host in hosts if host != first]
    if others and _is_ours(found[first], asker):
        found.update(fleet.fan_out(take, others))
    elif others:
        # Not for us: who has the others, too? Asked without touching their locks.
        found.update(fleet.fan_out(lambda remote: remote.ask("hold", ["read"]), others))
    talks = {host: took for host, took in found.items() if isinstance(took, Talk)}
    report = judge(found, asker)
    if report.ok:
        return Hold(report=report, token=asker.token, talks=talks)
    for talk in talks.values():
        talk.close()
    return Hold(report=report)


def _is_ours(took: Took, asker: Asker) -> bool:
    """Whether we hold it: by this connection, or by another to a host with the same home."""
    if isinstance(took, ProvisionError):
        return False
    return isinstance(took, Talk) or (took.get("held") or {}).get("token") == asker.token


def judge(found: Mapping[str, Took], asker: Asker) -> Report:
    """A finding for each host that is not ours, in the order of the hosts."""
    findings = list(error_report(found).findings)
    for host, took in found.items():
        if isinstance(took, Talk | ProvisionError) or _is_ours(took, asker):
            continue
        if "error" in took:
            found_, remedy = str(took["error"]), "check disk and file system"
        elif took.get("held"):
            found_ = holder_line(took["held"])
            remedy = "wait for it (--wait SECONDS does), or end it there"
        else:
            continue
        findings.append(Judge(host=host).error(SUBJECT, found_, _EXPECTED, remedy))
    return Report(findings=tuple(findings))


def holder_line(held: Mapping[str, Any]) -> str:
    """Who holds a host, for what, and since when: by the host's clock, in this one's time zone."""
    since = held.get("since")
    began = datetime.fromtimestamp(since).astimezone() if since else None
    when = f" since {began:%Y-%m-%d %H:%M:%S}" if began else ""
    return f"held by {held['user']}@{held['host']}{when}: {held['what']}"
