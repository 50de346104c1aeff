"""The build environment: locked tools, and the torch the wheel is compiled against.

torch comes by pip, from wherever the user's pip configuration says, because which *build* of a
torch release a site uses is the site's choice. What pip took is recorded to the byte, so that
hosts can be given the same files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.build.cache import Layout, key_of
from provision.build.interpreter import Python
from provision.build.spec import BuildSpec
from provision.compat import TORCH_CUDA
from provision.wheel.manifest import Distribution

#: The build environment's tools, with hashes.
LOCK = Path(__file__).parents[2] / "locks" / "build.lock"

#: Written last: an environment without it was interrupted, and is made anew.
MARKER = "zerofleet.json"

#: Run by the environment's own Python, once it is complete.
FACTS = """
import importlib.metadata as m, json, torch
print("zerofleet-facts " + json.dumps({
    "torch": torch.__version__,
    "torch_cuda": torch.version.cuda,
    "torch_dist": m.version("torch"),
    "names": sorted(d.metadata["Name"] for d in m.distributions()),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A complete build environment.

    Attributes:
        torch: ``torch.__version__``.
        torch_cuda: ``torch.version.cuda``, None for a torch without.
        torch_dist: version of the torch distribution.
        requires: torch and everything it pulled in, sorted by name.
    """

    path: Path
    torch: str
    torch_cuda: str | None
    torch_dist: str
    requires: tuple[Distribution, ...]


def environment_path(spec: BuildSpec, python: Python, layout: Layout, lock_sha256: str) -> Path:
    """Where the build environment of a spec lies, complete or not."""
    facts = {
        "lock": lock_sha256,
        "python": [python.executable, str(python.version)],
        "torch": str(spec.torch),
    }
    name = f"{python.tag}-torch{spec.torch}"
    if spec.accelerator != "cpu":
        facts["accelerator"] = spec.accelerator
        name += f"-{spec.accelerator}"
    return layout.environments / f"{name}-{key_of(facts)[:12]}"


def read_environment(path: Path) -> Environment | None:
    """The environment at ``path``, or None when there is none or it was left incomplete."""
    try:
        values = json.loads((path / MARKER).read_text(encoding="utf-8"))
        requires = tuple(Distribution(**one) for one in values.pop("requires"))
        return Environment(path=path, requires=requires, **values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def expected_torch_cuda(torch: Version) -> str:
    """``2.13.0+cu128`` → "12.8"; ``2.13.0`` → what the table says; "" when it says nothing."""
    local = re.fullmatch(r"cu(\d+)(\d)", torch.local or "")
    if local:
        return f"{local[1]}.{local[2]}"
    return "" if torch.local else TORCH_CUDA.get(f"{torch.major}.{torch.minor}", "")


def render_marker(environment: Environment) -> str:
    """The text of MARKER for a complete environment."""
    values = asdict(environment)
    del values["path"]
    return json.dumps(values, indent=2) + "\n"


def parse_facts(output: str) -> dict[str, Any] | None:
    """What FACTS printed, among whatever else was printed; None when it did not."""
    for line in output.splitlines():
        if line.startswith("zerofleet-facts "):
            facts: dict[str, Any] = json.loads(line.removeprefix("zerofleet-facts "))
            return facts
    return None


def constraints_of(report: Mapping[str, Any]) -> str:
    """What a ``pip install --report`` installed, as constraints: what is locked stays so."""
    return "".join(
        f"{item['metadata']['name']}=={item['metadata']['version']}\n" for item in report["install"]
    )


def required_by(root: str, reports: Iterable[Mapping[str, Any]]) -> tuple[Distribution, ...]:
    """``root`` and all it requires, out of what these ``pip install --report`` files installed.

    A later install takes over what an earlier one brought without reporting it again; so the
    closure is walked through the metadata that the reports hold.
    https://pip.pypa.io/en/stable/reference/installation-report/
    """
    items: dict[str, Mapping[str, Any]] = {}
    marker_environment: Mapping[str, str] = {}
    for report in reports:
        marker_environment = report["environment"]
        for item in report["install"]:
            items[canonicalize_name(item["metadata"]["name"])] = item
    seen: set[tuple[str, str]] = set()
    pending = [Requirement(root)]
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            pending += _requirements(items[name], extra, marker_environment)
    return tuple(_distribution(items[name]) for name in sorted({name for name, _ in seen}))


def _requirements(
    item: Mapping[str, Any], extra: str, environment: Mapping[str, str]
) -> list[Requirement]:
    texts = item["metadata"].get("requires_dist") or []
    markers = {**environment, "extra": extra}
    requirements = [Requirement(text) for text in texts]
    return [one for one in requirements if one.marker is None or one.marker.evaluate(markers)]


def _distribution(item: Mapping[str, Any]) -> Distribution:
    metadata = item["metadata"]
    archive = item["download_info"]["archive_info"]
    # "hashes" came with pip 23.0; the pip that a venv starts with may be older.
    sha256 = archive.get("hashes", {}).get("sha256") or archive["hash"].removeprefix("sha256=")
    return Distribution(
        name=canonicalize_name(metadata["name"]), version=metadata["version"], sha256=sha256
    )
