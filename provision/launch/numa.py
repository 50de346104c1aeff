"""Ranks bound to the CPUs near their GPU, by torchrun's own option, where that is of use. Pure.

https://docs.pytorch.org/docs/stable/elastic/numa.html: torchrun looks each GPU's NUMA node up on
the PCI bus, and starts its rank by numactl, which has to be there.
"""

from __future__ import annotations

from dataclasses import dataclass

from provision.errors import ConfigError
from provision.hosts.facts import HostFacts, parse_version

#: torchrun's modes (torch/numa/binding.py), and ours: as the facts say, or not at all.
MODES = ("node", "socket", "exclusive", "core-complex")
CHOICES = ("auto", "none", *MODES)
#: The first torch whose torchrun has the option.
SINCE = "2.9"
AS_ASKED = "as asked"


@dataclass(frozen=True, kw_only=True)
class Binding:
    """torchrun's mode on a host (None: not bound), and why so."""

    mode: str | None
    why: str

    @property
    def asked(self) -> str:
        """The --numa-binding that it came of."""
        return (self.mode or "none") if self.why == AS_ASKED else "auto"

    def __str__(self) -> str:
        return f"{self.mode or 'none'} ({self.why})"


def _obstacle(facts: HostFacts, accelerator: str, launcher: str) -> str:
    """What keeps torchrun from binding there; empty if nothing does."""
    if accelerator != "cuda":
        return "binding is to a GPU's CPUs, and there is none"
    if launcher != "torchrun":
        return f"--launcher {launcher} has no such option"
    torch = str(facts.environment.get("torch") or "")
    version, since = parse_version(torch), parse_version(SINCE)
    if version is None or since is None or version < since:
        return f"its torchrun has it from torch {SINCE} on, and there is {torch or 'none known'}"
    if facts["numactl"].value is None:
        return "no numactl there: install the package of that name"
    return ""


def choose_binding(wanted: str, facts: HostFacts, accelerator: str, launcher: str) -> Binding:
    """How ranks of a host are bound. ``wanted`` is --numa-binding.

    ``auto`` binds to a NUMA node where the host has several. Raises ConfigError for a mode that
    was asked for and can't be had.
    """
    if wanted not in CHOICES:
        raise ConfigError(
            "--numa-binding", found=wanted, expected=", ".join(CHOICES), remedy="name one of them"
        )
    if wanted == "none":
        return Binding(mode=None, why=AS_ASKED)
    obstacle = _obstacle(facts, accelerator, launcher)
    if wanted != "auto":
        if obstacle:
            raise ConfigError(
                f"{facts.host}: --numa-binding {wanted}",
                found=obstacle,
                expected="GPUs, torchrun and numactl",
                remedy="put that right, or leave the flag out",
            )
        return Binding(mode=wanted, why=AS_ASKED)
    if facts["numa"].unknown:
        return Binding(mode=None, why=f"NUMA nodes unknown: {facts['numa'].unknown}")
    # A node without a CPU is memory alone, a GPU's own for one (GH200): nothing is bound to it.
    sizes = [size for row in facts["numa"].value or () if (size := count_cpus(row["cpus"] or ""))]
    if len(sizes) < 2 or obstacle:
        return Binding(mode=None, why=obstacle if len(sizes) > 1 else "one NUMA node")
    if (ours := facts["cpu.cores"].value) != sum(sizes):
        # All of a GPU's node may be denied to us: torchrun would find no CPU to bind to, and end.
        return Binding(mode=None, why=f"{ours} of {sum(sizes)} CPUs are ours to use")
    return Binding(mode="node", why=f"{len(sizes)} NUMA nodes")


def count_cpus(listed: str) -> int:
    """How many CPUs a list as the kernel writes it has: 10 in "0-7,16-17"."""
    spans = [part.split("-") for part in listed.split(",") if part]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
