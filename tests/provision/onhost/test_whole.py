"""whole.py as it runs on a host: what is not as it was installed is named, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provision.script import read_onhost

FILES = {
    "one/__init__.py": b"ONE = 1\n",
    "one/data file.bin": bytes(5000),
    "../../../bin/one": b"#",
}

METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n\nName: not this\n"


def install(site: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """A package as installers leave it; where its files are listed."""
    rows = []
    info = f"{name}-{version}.dist-info"
    metadata = METADATA.format(name, version)
    for path, content in {**files, f"{info}/METADATA": metadata.encode()}.items():
        target = Path(os.path.normpath(site / path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        rows.append(f"{path},sha256={sha256},{len(content)}\n")
    rows += [f"{name}/__pycache__/x.cpython-311.pyc,,\n", f"{info}/RECORD,,\n"]
    (site / info / "RECORD").write_text("".join(rows))
    return site / info / "RECORD"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """A complete environment of two packages, in use."""
    env = tmp_path / ".zerofleet" / "envs" / "aa"
    site = env / "lib" / "python3.11" / "site-packages"
    install(site, "One_a", "1.0", FILES)
    install(site, "two", "2.0", {"two.py": b"", "two.libs/x.so": b"ELF"})
    (site / "one" / "__pycache__").mkdir()
    (site / "one" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"of no list")
    (site / "zerofleet.pth").write_text("import site\n")
    (env / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    record = {
        "python": "{}.{}.{}".format(*sys.version_info),
        "versions": {"one-a": "1.0", "two": "2.0"},
    }
    (env / "complete.json").write_text(json.dumps(record))
    (env.parents[1] / "current").symlink_to("envs/aa")
    return env


def check(env: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", read_onhost("whole")],
        env={**os.environ, "HOME": str(env.parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout.partition("<<")[2].rpartition(">>")[0])
    assert answer["current"] == "aa"
    (found,) = answer["environments"]
    return found


def differs(env: Path) -> dict[str, str]:
    found = check(env)
    named = {one["path"]: one["what"] for one in found["differs"]}
    assert found["differing"] == len(named)
    return {path.rpartition("site-packages/")[2]: what for path, what in named.items()}


def test_an_environment_as_it_was_installed(env: Path) -> None:
    metadata = sum(len(METADATA.format(*one)) for one in (("One_a", "1.0"), ("two", "2.0")))
    assert check(env) == {
        "name": "aa",
        "complete": True,
        "files": 11,
        "bytes": sum(map(len, FILES.values())) + len("ELF") + metadata,
        "differing": 0,
        "differs": [],
        "over": None,
    }


def test_files_that_changed_went_or_came_are_named(env: Path) -> None:
    site = env / "lib" / "python3.11" / "site-packages"
    (site / "one" / "data file.bin").write_bytes(bytes(4999) + b"\1")
    (site / "two.libs" / "x.so").unlink()
    (env / "bin" / "one").write_bytes(b"")
    (site / "sitecustomize.py").write_text("")
    assert differs(env) == {
        "one/data file.bin": "sha256 differs",
        "two.libs/x.so": "is missing",
        "bin/one": "sha256 differs",
        "sitecustomize.py": "is of no package",
    }


def test_a_list_that_is_cut_off_or_has_no_hash_or_is_gone(env: Path) -> None:
    site = env / "lib" / "python3.11" / "site-packages"
    one, two = (site / info / "RECORD" for info in ("One_a-1.0.dist-info", "two-2.0.dist-info"))
    text = one.read_text()
    one.write_text(text[: text.index("One_a-1.0")])
    assert differs(env) == {
        "One_a-1.0.dist-info/RECORD": "is cut off: it does not list itself",
        "One_a-1.0.dist-info/METADATA": "is of no package",
    }
    one.write_text(text.replace(",sha256", ",md6=", 1) + "one/more.py,,\n")
    said = differs(env)
    assert said.pop("one/__init__.py").startswith("has a hash that this Python does not know")
    assert said == {"one/more.py": "has no hash in RECORD"}
    one.write_text(text)
    two.unlink()
    assert "No such file" in differs(env)["two-2.0.dist-info/RECORD"]


def test_a_package_that_was_replaced_and_a_python_that_went(env: Path) -> None:
    site = env / "lib" / "python3.11" / "site-packages"
    for path in (site / "two-2.0.dist-info").iterdir():
        path.unlink()
    (site / "two-2.0.dist-info").rmdir()
    install(site, "two", "2.1", {"two.py": b"", "two.libs/x.so": b"ELF"})
    (env / "bin" / "python").unlink()
    (env / "bin" / "python").symlink_to("/no/such/python")
    version = "{}.{}.{}".format(*sys.version_info)
    assert differs(env) == {
        "two": "2.0 was proved, 2.1 is there",
        "bin/python": f"was Python {version}: No such file or directory",
    }


def test_half_an_environment_is_not_hashed(env: Path) -> None:
    (env / "complete.json").unlink()
    found = check(env)
    assert (found["complete"], found["files"], found["differing"]) == (False, 0, 0)


def test_over_a_users_own_python_its_own_wheel_is_checked(env: Path, tmp_path: Path) -> None:
    record = json.loads((env / "complete.json").read_text())
    sites = [str(tmp_path), str(tmp_path / "gone")]
    record |= {"versions": None, "base": "/opt/conda/bin/python", "sites": sites}
    (env / "complete.json").write_text(json.dumps(record))
    found = check(env)
    assert found["over"] == "/opt/conda/bin/python"
    assert [one["path"] for one in found["differs"]] == [sites[1]]
