"""The nodes of a Slurm job or partition, as the lines of a hosts file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provision.errors import ConfigError
from provision.slurm.submit import read_slurm

_GPUS = re.compile(r"gpu(?::[\w.-]+)?:(\d+)")


@dataclass(frozen=True, kw_only=True)
class SlurmNode:
    """A node as Slurm has it. ``memory`` is in MiB; ``gpus`` those that Slurm gives out."""

    name: str
    address: str
    state: str
    cpus: int
    memory: int
    gpus: int
    gres: str = ""

    def line(self) -> str:
        """The node in a hosts file; what SSH has to know of it, then what is good to know."""
        slots = f" slots={self.gpus}" if self.gpus else ""
        more = [self.state.lower(), f"{self.cpus} CPUs", f"{self.memory / 1024:.0f} GiB", self.gres]
        return f"{self.name}{slots}  # {', '.join(part for part in more if part)}"

    def as_json(self) -> dict[str, object]:
        """For ``--json``; keys are only ever added."""
        return {
            "name": self.name,
            "address": self.address,
            "state": self.state,
            "cpus": self.cpus,
            "memory_mib": self.memory,
            "gpus": self.gpus,
            "gres": self.gres,
        }


def parse_nodes(text: str) -> tuple[SlurmNode, ...]:
    """Nodes from ``scontrol --oneliner show node``. Pure."""
    found = []
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
        if "NodeName" not in fields:
            continue
        gres = fields.get("Gres", "(null)").replace("(null)", "")
        found.append(
            SlurmNode(
                name=fields["NodeName"],
                address=fields.get("NodeAddr") or fields["NodeName"],
                state=fields.get("State", "unknown"),
                cpus=int(fields.get("CPUTot", "0")),
                memory=int(fields.get("RealMemory", "0")),
                gpus=sum(int(count) for count in _GPUS.findall(gres)),
                gres=gres,
            )
        )
    return tuple(found)


def read_slurm_nodes(wanted: str) -> tuple[SlurmNode, ...]:
    """The nodes of a job's number, or of a partition; ConfigError with Slurm's words if none."""
    kind, field = ("job", "NodeList") if wanted.isdecimal() else ("partition", "Nodes")
    done = read_slurm(["scontrol", "--oneliner", "show", kind, wanted])
    match = re.search(rf"(?:^|\s){field}=(\S+)", done.stdout)
    if done.returncode or match is None or match[1] == "(null)":
        words = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(
            f"--slurm {wanted}",
            found=f"{kind} without nodes" if not done.returncode else words[-1],
            expected=f"a {kind} that has nodes",
            remedy="see `squeue --me` for jobs and `sinfo -s` for partitions",
        )
    shown = read_slurm(["scontrol", "--oneliner", "show", "node", match[1]])
    nodes = parse_nodes(shown.stdout)
    if not nodes:
        raise ConfigError(
            f"--slurm {wanted}",
            found=shown.stderr.strip() or "no answer",
            expected=f"what Slurm knows of {match[1]}",
            remedy="try `scontrol show node` yourself",
        )
    return nodes
