"""Values that several unit tests start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.hosts.facts import HostFacts, parse_facts
from provision.wheel.extra import ExtraWheel
from provision.wheel.manifest import Distribution, SourceOf, WheelManifest

FACTS = Path(__file__).parents[1] / "facts"


@pytest.fixture
def make_manifest():
    """A CPU wheel's manifest; keywords replace values."""

    def make(**changes) -> WheelManifest:
        values = {
            "wheel": "deepspeed-0.19.8+torch2.13.cpu.x86v3-cp311-cp311-linux_x86_64.whl",
            "sha256": "ab" * 32,
            "size": 3_000_000,
            "deepspeed": "0.19.8+torch2.13.cpu.x86v3",
            "accelerator": "cpu",
            "ops_asked": ("cpu_adam",),
            "ops": ("cpu_adam",),
            "not_loaded": {},
            "torch": "2.13.0+cpu",
            "torch_dist": "2.13.0+cpu",
            "torch_cuda": None,
            "python_tag": "cp311",
            "platform": "linux_x86_64",
            "toolkit": None,
            "arch_list": (),
            "ptx": (),
            "archs_checked": False,
            "cpu": "x86-64-v3",
            "isa_checked": True,
            "glibc": "2.34",
            "glibcxx": "3.4.30",
            "compiler": "g++ 12.2.0",
            "source": SourceOf(name="deepspeed-0.19.8.tar.gz", sha256="cd" * 32),
            "built_at": "2026-11-21T08:00:00+00:00",
            "requires": (
                Distribution(name="torch", version="2.13.0+cpu", sha256="ef" * 32),
                Distribution(name="sympy", version="1.14.0", sha256="01" * 32),
            ),
        }
        return WheelManifest(**{**values, **changes})

    return make


@pytest.fixture
def make_facts():
    """A host's recorded facts; keywords replace them (cpu_level: the fact cpu.level)."""

    def make(host: str = "node1", **changes) -> HostFacts:
        answer = json.loads((FACTS / "probe-debian12-cpu.json").read_text())
        answer["home.place"]["value"] += f" of {host}"  # each a machine of its own
        for name, fact in changes.items():
            known = isinstance(fact, dict) and set(fact) & {"unknown", "absent"}
            exact = name if name in answer else name.replace("_", ".", 1)
            answer[exact] = fact if known else {"value": fact}
        return parse_facts(host, answer)

    return make


@pytest.fixture
def extra() -> ExtraWheel:
    """An extra wheel that takes the place of the locked transformers."""
    return ExtraWheel(
        wheel="transformers-5.24.0.dev0-py3-none-any.whl",
        sha256="34" * 32,
        size=12_000_000,
        name="transformers",
        version="5.24.0.dev0",
        requires=("sympy>=1.13", "sentencepiece; extra == 'sp'", "colorama; os_name == 'nt'"),
        source=SourceOf(name="transformers", sha256="56" * 32),
        key="78" * 32,
    )
