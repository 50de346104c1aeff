"""A deploy with nothing to do: nothing changed here, and every host is what it was, and says so.

What a deploy comes to follows from what it reads here (the lock, the wheels, our own rules) and
from the hosts' facts. Where a deploy found nothing left to do, that is kept on this machine: with a
digest of the former, and a mark of each host for the latter (hosts/mark.py). The next one compares.
Hosts tell their marks through OpenSSH and sh: no Python starts there, and hardly any here. Where
anything differs, or a host does not answer at once, all of it is read as if nothing were known.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.commands.deploy.package_lock import read_lock_path
from provision.errors import ConfigError
from provision.findings import Finding, Level, Report
from provision.hosts.mark import COVERED, changed, parse_mark, read_mark_argv
from provision.inventory import Inventory
from provision.openssh import apply_question
from provision.places import CHECKOUT, cache_home
from provision.setting_table import EXISTING
from provision.settings import Settings
from provision.show import Answer
from provision.steps import Plan

if TYPE_CHECKING:
    from provision.deploy.spec import EnvSpec
    from provision.fleet import Fleet
    from provision.hosts.facts import Gathered

#: Seconds for all marks: nvidia-smi may take several where persistence mode is off.
_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a deploy came to when it found nothing to do: ``at`` (time.time()), what it said.

    ``inputs``: a digest of all that it read on this machine; ``marks``: each host's, read just
    before its facts.
    """

    inputs: str
    marks: Mapping[str, str]
    at: float
    title: str
    findings: list[dict[str, str]]
    hosts: Mapping[str, Mapping[str, Any]]

    @property
    def report(self) -> Report:
        """The findings as values; none of them failed."""
        rows = [{**row, "level": Level(row["level"])} for row in self.findings]
        return Report(findings=tuple(Finding(**row) for row in rows))  # type: ignore[arg-type]


def is_covered(s: Settings) -> bool:
    """Whether marks cover what such a deploy goes by: not the user's own Pythons on hosts.

    Nor is there anything to compare where all is made anew.
    """
    return not s.partial and not s.anew and s.env_source != EXISTING


def done_path(s: Settings, inventory: Inventory) -> Path:
    """Where it is kept what a deploy to these hosts came to, as they are reached now."""
    hosts = [[host.label, host.user, host.port] for host in inventory]
    reached = json.dumps([str(s.ssh_config), hosts])
    name = hashlib.sha256(reached.encode()).hexdigest()[:16]
    return cache_home(os.environ) / "deployed" / f"{name}.json"


def read_inputs(s: Settings) -> str:
    """A digest of what a deploy reads on this machine: settings, lock, wheels, and our own code.

    Files count by name, size, times and inode: whatever is written to one changes these.
    """
    code = [path for path in (CHECKOUT / "provision").rglob("*.*") if path.suffix in (".py", ".sh")]
    found: list[object] = [s.torch, s.env_source, s.wheel, str(s.wheels)]
    for path in [read_lock_path(s), *sorted(s.wheels.glob("*")), *sorted(code)]:
        try:
            is_ = path.stat()
        except OSError as error:
            found.append([str(path), str(error)])
            continue
        found.append([str(path), is_.st_size, is_.st_mtime_ns, is_.st_ctime_ns, is_.st_ino])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def read_done(path: Path) -> Done | None:
    """What is kept there; None where there is nothing that can be gone by."""
    try:
        done = Done(**json.loads(path.read_text(encoding="utf-8")))
        return done if done.report.ok else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def gather_done(s: Settings, inventory: Inventory) -> tuple[Done | None, str]:
    """What the deploy before this one came to, if it is as true now; else why it can't be said."""
    done = read_done(done_path(s, inventory)) if is_covered(s) else None
    if done is None or done.inputs != read_inputs(s):
        return None, ""
    argv, config = read_mark_argv(), s.ssh_config
    with apply_question(inventory, argv, config=config, at_once=s.workers) as question:
        answers = question.gather(_SECONDS)
    marks = {host: parse_mark(answers.get(host, "")) for host in inventory.labels}
    if changed(done.marks, marks) or set(done.hosts) != set(marks):
        return None, "not every host is as it was, or says so at once: all of it is read again"
    return done, ""


def gather_unchanged(out: Answer, s: Settings, inventory: Inventory) -> bool:
    """Whether nothing changed since a deploy found nothing to do; then the answer is that one's."""
    done, why_not = gather_done(s, inventory)
    if why_not:
        out.say(why_not)
    if done is None:
        return False
    when = datetime.fromtimestamp(done.at).astimezone()
    out.say(f"every host is as it was on {when:%Y-%m-%d %H:%M:%S}, when all of it was read")
    out.report(done.report)
    out.plan(Plan(title=done.title, phases=()))
    out.deployed(done.hosts)
    return True


def make_done(spec: EnvSpec, torch: str, inputs: str, gathered: Gathered) -> Done | None:
    """What may be kept of hosts that were just asked: None unless all fit and none lacks anything.

    Judged by what marks cover alone: a rule that goes by more finds that unknown, and none is kept.
    Pure, but for the time.
    """
    from provision.deploy.plan import deployed, plan_deploy
    from provision.hosts.parity import compare

    facts = {
        host: replace(found, facts={k: v for k, v in found.facts.items() if k in COVERED})
        for host, found in gathered.facts.items()
    }
    marks = {host: parse_mark(gathered.marks.get(host, "")) for host in facts}
    report = compare(spec.manifest, torch, facts, deployed=False)
    if gathered.errors or not all(marks.values()) or not report.ok:
        return None
    plan = plan_deploy(spec, facts)
    if not plan.empty:
        return None
    return Done(
        inputs=inputs,
        marks={host: mark for host, mark in marks.items() if mark},
        at=time.time(),
        title=plan.title,
        findings=report.as_json(),
        hosts=deployed(spec, plan, facts),
    )


def apply_done(out: Answer, s: Settings, fleet: Fleet, spec: EnvSpec, inputs: str) -> None:
    """Keep for the next deploy that nothing is left to do, if that is so: ask hosts once more.

    ``inputs`` were read before the deploy that just ended, so that what changed since counts.
    """
    from provision.files import apply_text
    from provision.hosts.facts import gather_facts

    if not is_covered(s):
        return
    done = make_done(spec, s.torch, inputs, gather_facts(fleet, mark=read_mark_argv(), say=out.say))
    if done is None:
        return
    path = done_path(s, fleet.inventory)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        apply_text(path, json.dumps(asdict(done)), remedy="till then each deploy reads all anew")
    except (ConfigError, OSError) as error:
        out.say(f"not kept for the next deploy: {error}")
