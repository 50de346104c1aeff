"""Read what preflight needs: what a run would find on every host, and between them, now.

One round trip asks every host about itself (onhost/ready.py); one conversation tests the network
between all of them (mesh.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.preflight.mesh import Mesh, MeshWanted, gather_mesh
from provision.preflight.speed import suspects
from provision.script import passing_on, read_onhost
from provision.session import Remote
from provision.talk import SILENCE_SECONDS

Say = Callable[[str], None]
Answers = Mapping[str, Mapping[str, Any] | ProvisionError]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run would use. Paths are paths on the hosts; "" where the run needs none.

    ``slots``: ranks per host, in node_rank order; its first key is node 0. ``addresses``: the
    address that each host's part of the run uses, ``interfaces`` its NIC (None: not known);
    ``homes``: HOME there. ``devices``: a host's GPUs by index, where not its first ones.
    ``lock``: the environment that every host must have; ``proof``: what prove.py is asked of it.
    ``runs``: where run folders go.

    ``flags`` are the trainer's, as the run would get them; ``offload`` is settings.offload.
    """

    slots: Mapping[str, int]
    addresses: Mapping[str, str | None]
    interfaces: Mapping[str, str | None] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    master_addr: str
    master_port: int
    accelerator: str
    lock: str
    proof: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    output: str = ""
    runs: str = ""
    zero: int = 2
    offload: str = "none"
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node0(self) -> str:
        """The host that the others meet at."""
        return next(iter(self.slots))

    @property
    def world_size(self) -> int:
        """All ranks."""
        return sum(self.slots.values())

    def on(self, flag: str, *, default: bool) -> bool:
        """Whether a trainer's switch is on: a recipe gives a bool, ``--set`` gives text."""
        return str(self.flags.get(flag, default)).lower() in ("true", "1", "yes", "on")

    @property
    def objective(self) -> str:
        """What is trained, and so which rows are meant: the trainer's module of that name."""
        return str(self.flags.get("objective") or "sft")

    @property
    def python(self) -> str:
        """The interpreter of the environment, on the hosts."""
        return f"~/.zerofleet/envs/{self.lock}/bin/python"

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders that must take files."""
        return tuple(dict.fromkeys(path for path in (self.output, self.runs) if path))

    @property
    def mesh(self) -> MeshWanted:
        """The network test: of the hosts whose address is known."""
        known = {host: address for host, address in self.addresses.items() if address}
        return MeshWanted(
            addresses=known, master_addr=self.master_addr, master_port=self.master_port
        )


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What was found: every host's own answer, or the error in its place; and the mesh."""

    hosts: Answers
    mesh: Mesh = field(default_factory=Mesh)


def gather_ready(fleet: Fleet, wanted: Wanted, rows_program: str, say: Say) -> Ready:
    """Ask every host; ``rows_program`` is the trainer's own row reader, run there on the data."""
    request: dict[str, Any] = {
        "folders": wanted.folders,
        "model": wanted.model,
        "data": wanted.data,
        "rows": rows_program if wanted.data else "",
        "objective": wanted.objective,
        "prove": read_onhost("prove") if wanted.proof else "",
        "python": wanted.python,
        "environment": dict(wanted.proof),
    }
    say(f"preflight: asking {len(wanted.slots)} hosts")
    answers = _ask(fleet, request, tuple(wanted.slots), say)
    if slow := suspects(answers):
        say(f"preflight: timing the CPU of {', '.join(slow)} again, while the others rest")
        again = _ask(fleet, {}, slow, say)
        answers = {host: _quicker(answer, again.get(host)) for host, answer in answers.items()}
    whole = set(wanted.mesh.hosts) == set(wanted.slots)
    # Without every address the first host could be another one; what is missing is a finding.
    mesh = gather_mesh(fleet, wanted.mesh, say) if whole else Mesh()
    return Ready(hosts=answers, mesh=mesh)


def _ask(fleet: Fleet, request: dict[str, Any], hosts: tuple[str, ...], say: Say) -> Answers:
    """onhost/ready.py on these hosts, side by side."""

    def ask(remote: Remote) -> dict[str, object]:
        talk = remote.talk("ready")
        try:
            talk.send(request)
            return talk.receive(SILENCE_SECONDS, passing_on(remote.label, say))
        finally:
            talk.close()

    return fleet.fan_out(ask, hosts)


def _quicker(
    answer: Mapping[str, Any] | ProvisionError, again: Mapping[str, Any] | ProvisionError | None
) -> Mapping[str, Any] | ProvisionError:
    """The first answer, with the lesser of the two times."""
    if not isinstance(answer, Mapping) or not isinstance(again, Mapping):
        return answer
    seconds = min(float(answer["cpu_seconds"]), float(again["cpu_seconds"]))
    return {**answer, "cpu_seconds": seconds}
