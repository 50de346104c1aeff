"""Building a wheel: upstream's way against ours, side by side on this machine.

    python bench/build.py                          the default CPU ops
    python bench/build.py --ops all --out all.json    every CPU op; over half an hour on 2 cores
    python bench/build.py --parts cold,one,cached  without upstream's build

Needs a build environment: run `./zf build-deepspeed --accelerator cpu` once before. Works in a
folder of its own (--folder), with a build cache of its own; ccache is kept out of both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from invoke.context import Context

from provision.build.cache import cache_dir
from provision.build.plan import BuildPlan, plan_build
from provision.build.source import apply_unpack
from provision.build.spec import parse_build_spec
from provision.build.state import read_state
from provision.build.toolchain import read_toolchain
from provision.wheel.ops import ops_of

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("upstream", "cold", "one", "cached")
#: Touched for the part "one": a source file of the op that is changed.
CHANGED = {
    "cpu_adam": "csrc/adam/cpu_adam.cpp",
    "cpu_adagrad": "csrc/adagrad/cpu_adagrad.cpp",
    "cpu_lion": "csrc/lion/cpu_lion.cpp",
    "pin_memory": "csrc/pin_memory/py_ds_pin_memory.cpp",
    "shm_comm": "csrc/cpu/comm/shm_interface.cpp",
}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One build: wall seconds, its children's and its own CPU seconds, the wheel's bytes."""

    wall: float
    cpu: float
    size: int


def plan_of(ops: tuple[str, ...]) -> BuildPlan:
    spec = parse_build_spec(accelerator="cpu", ops=ops)
    cache = cache_dir(os.environ)
    toolchain = read_toolchain(Context(), spec, cache)
    plan = plan_build(spec, toolchain, read_state(spec, toolchain, cache))
    if plan.state.environment is None or plan.state.archive is None:
        sys.exit("no build environment here: run ./zf build-deepspeed --accelerator cpu first")
    return plan


def timed(argv: list[str], environ: dict[str, str], cwd: Path, log: Path, dist: Path) -> Timed:
    before, started = os.times(), time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            argv, env=environ, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    after, wall = os.times(), time.monotonic() - started
    wheels = sorted(dist.glob("deepspeed-*.whl"))
    if done.returncode or len(wheels) != 1:
        sys.exit(f"exit status {done.returncode}, {len(wheels)} wheels: see {log}")
    cpu = sum(after[2:4]) - sum(before[2:4])
    return Timed(wall=wall, cpu=cpu, size=wheels[0].stat().st_size)


def upstream(plan: BuildPlan, source: Path, folder: Path) -> Timed:
    """As its documentation says: no ninja, no pinned CPU level, debug data left in."""
    dist = folder / "upstream-dist"
    shutil.rmtree(dist, ignore_errors=True)
    tree = folder / "upstream"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(source, tree)
    environment = plan.environment_path
    environ = {
        "HOME": str(folder),
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        "DS_ACCELERATOR": "cpu",
        "CCACHE_DISABLE": "1",
        "LDFLAGS": "-Wl,--no-as-needed -laio" if "async_io" in plan.spec.op_names else "",
        **{op.flag: "1" for op in plan.spec.ops},
    }
    python = str(environment / "bin" / "python")
    argv = [python, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist)]
    return timed(argv, environ, tree, folder / "upstream.log", dist)


def ours(plan: BuildPlan, source: Path, folder: Path, name: str) -> Timed:
    """The whole command, its start and its proof included."""
    dist = folder / "wheels"
    if name != "cached":
        shutil.rmtree(dist, ignore_errors=True)
    environ = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "CCACHE_DISABLE": "1",
        "PYTHONPATH": str(ROOT),
    }
    argv = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), "build-deepspeed"]
    argv += ["--accelerator", "cpu", "--ops", ",".join(plan.spec.ops_asked)]
    argv += ["--source", str(source), "--wheels", str(dist)]
    return timed(argv, environ, ROOT, folder / f"{name}.log", dist)


def prepare(plan: BuildPlan, folder: Path) -> Path:
    """The source in a folder of its own, and a build cache with nothing but the environment."""
    layout = plan.state.layout
    cache = folder / "cache" / "zerofleet" / "build"
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "environments").exists():
        (cache / "environments").symlink_to(layout.environments)
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    assert plan.state.archive
    apply_unpack(plan.state.archive, source)
    return source


def measure(plan: BuildPlan, folder: Path, parts: list[str], op: str) -> dict[str, Timed]:
    source, found = prepare(plan, folder), {}
    for part in parts:
        print(f"{part}: {', '.join(plan.spec.op_names)} …", file=sys.stderr, flush=True)
        if part == "upstream":
            found[part] = upstream(plan, source, folder)
            continue
        if part == "cold":
            for name in ("work", "wheels"):
                shutil.rmtree(folder / "cache" / "zerofleet" / "build" / name, ignore_errors=True)
        if part == "one":
            changed = source / CHANGED[op]
            changed.write_text(f"{changed.read_text()}\n// {time.time_ns()}\n")
        found[part] = ours(plan, source, folder, part)
        print(f"  {found[part].wall:.1f} s", file=sys.stderr, flush=True)
    return found


def ratios(found: dict[str, Timed]) -> dict[str, float]:
    pairs = {
        "cold / upstream": ("cold", "upstream", "wall"),
        "one op changed / cold": ("one", "cold", "wall"),
        "size / upstream's size": ("cold", "upstream", "size"),
    }
    return {
        name: round(getattr(found[a], field) / getattr(found[b], field), 3)
        for name, (a, b, field) in pairs.items()
        if a in found and b in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ops", default="cpu_adam,shm_comm", help="comma list, or all")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "zf-bench")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    names = ops_of("cpu") if args.ops == "all" else tuple(args.ops.split(","))
    plan = plan_of(names)
    op = next((name for name in CHANGED if name in plan.spec.op_names), "")
    args.folder.mkdir(parents=True, exist_ok=True)
    found = measure(plan, args.folder.resolve(), args.parts.split(","), op)
    figures = {
        "ops": list(plan.spec.op_names),
        "jobs": plan.jobs,
        "changed": op,
        **{name: vars(one) for name, one in found.items()},
        "ratios": ratios(found),
    }
    text = json.dumps(figures, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
