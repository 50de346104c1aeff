"""A script on each host that stands by while the checks go on, then takes the run and starts it.

It imports torchrun meanwhile (onhost/ahead.py, onhost/waiting.py), so that a run begins as soon as
it may; and it carries out the plan's steps, as orders: no other script has to be started there for
them. A host where there is none (any more) has the same steps carried out one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from provision.errors import HostError, ProvisionError
from provision.fleet import Fleet
from provision.script import read_onhost
from provision.session import Remote, Say
from provision.steps import Phase, Put, Step
from provision.talk import Talk

#: An answer takes as long as a disk takes to write and read again what was sent.
_ANSWER_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Standby:
    """The scripts that stand by, by host; ``errors``: hosts that can't be reached."""

    talks: dict[str, Talk] = field(default_factory=dict)
    errors: Mapping[str, ProvisionError] = field(default_factory=dict)

    def apply(self, remote: Remote, phase: Phase, say: Say) -> None:
        """A host's steps of a phase, in order: by who stands by there, or else by itself."""
        talk = self.talks.get(remote.label)
        if talk is None or not _is_there(talk, remote):
            self.talks.pop(remote.label, None)
            remote.apply(phase, say)
            return
        for step in phase.of(remote.label):
            answer = _apply_step(talk, step)
            if "error" in answer:
                raise HostError(
                    f"{remote.label}: {step.do}",
                    found=str(answer["error"])[:300],
                    expected="success",
                    remedy=f"this step was to {step.why}",
                )

    def close(self) -> None:
        """End those that were not told to start a run; the others have their own life."""
        for talk in self.talks.values():
            talk.close()


def _is_there(talk: Talk, remote: Remote) -> bool:
    """Whether it still stands by: it may have waited for too long, or have been killed.

    Its error where the connection has ended as well: by Ctrl-C, it may be, and then nothing is to
    be started over a new one.
    """
    try:
        talk.send({"do": "here"})
        talk.receive(_ANSWER_SECONDS)
    except ProvisionError:
        talk.close()
        if not remote.connected:
            raise
        return False
    return True


def _apply_step(talk: Talk, step: Step) -> Mapping[str, object]:
    """The answer to one step's order."""
    if isinstance(step.do, Put):
        data = step.do.content or (step.do.source.read_bytes() if step.do.source else b"")
        order = {"do": "put", "target": step.do.target, "sha256": step.do.sha256}
        talk.send_bytes({**order, "size": step.do.size, "mode": step.do.mode}, data)
    else:
        assert step.do.order is not None, step
        talk.send(step.do.order)
    return talk.receive(_ANSWER_SECONDS)


@contextmanager
def apply_standby(fleet: Fleet, python: str) -> Iterator[Standby]:
    """Have every host stand by; ``python`` is the environment's there, below HOME."""
    args = [python, read_onhost("waiting")]
    found = fleet.fan_out(lambda remote: remote.talk("standby", args))
    errors = {host: error for host, error in found.items() if isinstance(error, ProvisionError)}
    talks = {host: talk for host, talk in found.items() if isinstance(talk, Talk)}
    standby = Standby(talks=talks, errors=errors)
    try:
        yield standby
    finally:
        standby.close()
