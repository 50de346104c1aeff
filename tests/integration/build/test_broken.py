"""Builds that are cut short, or start from something broken: one line, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provision.build.apply import apply_build
from provision.build.cache import Layout
from provision.build.plan import BuildPlan
from provision.build.spec import BuildSpec, parse_build_spec
from provision.errors import BuildError, ConfigError
from provision.wheel.manifest import read_wheel

pytestmark = pytest.mark.timeout(1800)

OP = "pin_memory"
#: In place of that op's sources: one file that takes its while, as every file with torch's headers
#: does, and one that takes none. Both would tell where they were compiled.
SOURCES = {
    "page_alloc.cpp": "const char *where() { return __FILE__; }\n",
    "deepspeed_pin_tensor.cpp": "#include <cassert>\nvoid check(int x) { assert(x); }\n",
    "py_ds_pin_memory.cpp": """
#include <torch/extension.h>
const char *where();
void check(int);
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("where", &where);
    m.def("check", &check);
    m.def("zeros", [](int n) { TORCH_CHECK(n > 0, __FILE__); return torch::zeros(n); });
}
""",
}
#: Builds it in a process of its own, to be killed.
BUILDER = """
import sys
from pathlib import Path
from invoke.context import Context
from provision.build.apply import apply_build
from provision.build.plan import plan_build
from provision.build.spec import parse_build_spec
from provision.build.state import read_state
from provision.build.toolchain import read_toolchain
cache, source, out = sys.argv[1:]
spec = parse_build_spec(accelerator="cpu", ops="pin_memory", source=source, out=out)
toolchain = read_toolchain(Context(), spec, Path(cache))
apply_build(plan_build(spec, toolchain, read_state(spec, toolchain, Path(cache))), print)
"""


@pytest.fixture
def spec(source: Path, tmp_path: Path) -> BuildSpec:
    """A DeepSpeed whose op is compiled in half a minute."""
    for name, text in SOURCES.items():
        path = source / "csrc" / OP / name
        assert path.exists()
        path.write_text(text)
    return parse_build_spec(
        accelerator="cpu", ops=OP, source=str(source), out=str(tmp_path / "out")
    )


@pytest.fixture
def elsewhere(plan: BuildPlan, tmp_path: Path) -> Path:
    """Another build cache, which has the same environments and the source, and no wheel."""
    root = tmp_path / "a-cache-of-another-name"
    root.mkdir()
    for name in ("environments", "sources"):
        (root / name).symlink_to(plan.state.layout.root / name)
    return root


def running(folder: Path) -> list[str]:
    """Commands of processes that name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it ended
            continue
        if str(folder).encode() in command and int(path.parent.name) != os.getpid():
            found.append(command.decode(errors="replace"))
    return found


def left(root: Path) -> list[str]:
    """What lies in a cache's folder of wheels, half made or whole."""
    wheels = Layout(root=root).wheels
    return sorted(path.name for path in wheels.iterdir()) if wheels.exists() else []


def test_killed_build_leaves_nothing_and_two_others_agree_to_the_byte(
    spec: BuildSpec, elsewhere: Path, builds: Path, planned
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(elsewhere), str(spec.source), str(spec.out)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as killed:
        assert killed.stdout
        for line in killed.stdout:
            if line.startswith(f"compiling {OP}") and "at a time" not in line:
                break
        deadline = time.monotonic() + 300
        while not [one for one in running(elsewhere) if "cc1plus" in one]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not spec.out.exists()
    assert left(elsewhere) == []
    again = apply_build(planned(spec, elsewhere), print)
    assert running(elsewhere / "work") == []
    assert len(left(elsewhere)) == 1
    # The other cache has another path, and another name for every file that is compiled.
    first = apply_build(planned(replace(spec, out=spec.out.with_name("first")), builds), print)
    assert first.sha256 == again.sha256
    # And there, one file changed is one file compiled.
    assert spec.source
    changed = spec.source / "csrc" / OP / "page_alloc.cpp"
    changed.write_text(changed.read_text() + "int more() { return 1; }\n")
    plan = planned(spec, builds)
    assert "in the cache differs in source" in str(plan.steps)
    second = apply_build(plan, print)
    assert second.sha256 != first.sha256
    lines = plan.log.read_text().splitlines()
    (compiled,) = [line for line in lines if line.startswith("[") and " -c " in line]
    assert changed.name in compiled


def test_damaged_source_archive_is_not_unpacked(
    elsewhere: Path, plan: BuildPlan, tmp_path: Path, planned, monkeypatch
) -> None:
    spec = parse_build_spec(accelerator="cpu", ops=OP, out=str(tmp_path / "out"))
    (elsewhere / "sources").unlink()
    bad = tmp_path / "index" / plan.source.name
    kept = elsewhere / "sources" / plan.source.sha256 / plan.source.name
    for path in (bad, kept):
        path.parent.mkdir(parents=True)
        path.write_bytes(
            (plan.state.layout.sources / plan.source.sha256 / bad.name).read_bytes()[:-9]
        )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(bad.parent))
    with pytest.raises(BuildError, match="HASH") as caught:
        apply_build(planned(spec, elsewhere), print)
    assert "\n" not in str(caught.value)
    assert left(elsewhere) == []
    assert not spec.out.exists()


def test_folder_that_is_no_deepspeed(tmp_path: Path, zf_run) -> None:
    done = zf_run(
        ["build-deepspeed", "--accelerator", "cpu", "--source", str(tmp_path), "--json"], tmp_path
    )
    assert done.returncode == 2
    assert "no setup.py in it" in json.loads(done.stdout)["error"]["found"]


def test_wheels_that_can_t_be_written_to_end_it_before_anything_is_compiled(
    elsewhere: Path, tmp_path: Path, planned
) -> None:
    spec = parse_build_spec(accelerator="cpu", ops=OP)
    (tmp_path / "file").touch()
    said: list[str] = []
    for out, words in ((tmp_path / "file" / "wheels", "Not a dir"), (Path("/proc/x"), "No such")):
        with pytest.raises(ConfigError, match=words) as caught:
            apply_build(planned(replace(spec, out=out), elsewhere), said.append)
        assert caught.value.exit_code == 2
    assert said == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("root may not mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_no_half_wheel(
    wheel, plan: BuildPlan, builds: Path, small: Path, elsewhere: Path, tmp_path: Path, planned
) -> None:
    # Where wheels go: the kept wheel does not fit.
    full = replace(plan.spec, out=small)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        apply_build(planned(full, builds), print)
    assert "\n" not in str(caught.value)
    assert list(small.iterdir()) == []
    # Where it is built: the source does not fit.
    spec = parse_build_spec(accelerator="cpu", ops=OP, out=str(tmp_path / "out"))
    layout = Layout(root=small)
    for name in ("environments", "sources"):
        (small / name).symlink_to(plan.state.layout.root / name)
    state = replace(planned(spec, elsewhere).state, layout=layout)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        apply_build(replace(planned(spec, elsewhere), state=state), print)
    assert caught.value.exit_code == 4
    assert not spec.out.exists()
    assert left(small) == []
    assert not (small / "work").exists()
    assert read_wheel(plan.spec.out) == wheel
    shutil.rmtree(small / "logs")
