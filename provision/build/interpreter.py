"""The interpreter that a wheel is for, as it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

from packaging.version import Version

#: Run by the interpreter itself; prints what parse_python reads.
PYTHON_FACTS = """
import json, os, sys, sysconfig
facts = {
    "executable": sys.executable,
    "base": getattr(sys, "_base_executable", "") or sys.executable,
    "version": "%d.%d.%d" % sys.version_info[:3],
    "implementation": sys.implementation.name,
    "header": os.path.join(sysconfig.get_paths()["include"], "Python.h"),
}
facts["has_header"] = os.path.isfile(facts["header"])
try:
    import ensurepip, venv
    facts["has_venv"] = True
except ImportError:
    facts["has_venv"] = False
print(json.dumps(facts))
"""


@dataclass(frozen=True, kw_only=True)
class Python:
    """The interpreter that the wheel is for.

    Attributes:
        executable: its path, outside of any virtual environment.
        version: such as "3.11.7".
        header: where its Python.h is, or should be.
    """

    executable: str
    version: Version
    implementation: str
    header: str
    has_header: bool
    has_venv: bool

    @property
    def tag(self) -> str:
        """The interpreter tag, such as "cp311"."""
        return f"cp{self.version.major}{self.version.minor}"


def parse_python(text: str) -> Python | None:
    """The JSON line an interpreter printed about itself → Python; None when it printed none."""
    try:
        facts = json.loads(text)
        return Python(
            executable=facts["base"],
            version=Version(facts["version"]),
            implementation=facts["implementation"],
            header=facts["header"],
            has_header=facts["has_header"],
            has_venv=facts["has_venv"],
        )
    except (ValueError, KeyError, TypeError):
        return None
