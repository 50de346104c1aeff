"""Standing by for a run: torchrun imported ahead, the folder's files, the start; and every way out.

``torchrun`` is a fake one, as a module: it says what it was given, and starts fake_torchrun.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.onhost.ahead import ALWAYS, at_start
from provision.onhost.processes import read_children
from provision.script import read_onhost

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
#: Seconds, on a machine where much else is at work.
WITHIN = 60.0
RUN = f"""
import os, runpy, sys, types
spared = sys.modules.get("torch._meta_registrations")
open(os.environ["IMPORTED"], "a").write("%d" % os.getpid())
print("a warning of the import", file=sys.stderr, flush=True)
def main(argv):
    name = open("/proc/self/comm").read().strip()
    print(name, bool(spared), os.getcwd(), argv, os.environ.get("ASKED"), flush=True)
    sys.argv = ["fake", argv[0], *argv[1:]]
    runpy.run_path({str(HERE / "fake_torchrun.py")!r}, run_name="__main__")
if __name__ == "__main__":
    main(sys.argv[1:])
"""


class Standing:
    """A standby.py, its conversation, and the run that it is to start."""

    def __init__(self, node: Any, folder: Path, *, imports: bool = True) -> None:
        self.node, self.imported = node, folder / "imported"
        package = folder / "site" / "torch" / "distributed"
        package.mkdir(parents=True)
        for init in (package.parent, package):
            (init / "__init__.py").write_text(
                "" if imports else "raise ImportError('half a torch')"
            )
        (package / "run.py").write_text(RUN)
        self.python = folder / "python"
        self.python.write_text(
            f'#!/bin/sh\nPYTHONPATH="{folder}/site" IMPORTED="{self.imported}" '
            f'exec "{sys.executable}" "$@"\n'
        )
        self.python.chmod(0o755)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "provision.onhost.standby", self.python, read_onhost("waiting")],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, order: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order).encode() + b"\n" + data)
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode().strip()
        assert line.startswith("ZEROFLEET<<"), (line, self.process.poll())
        return dict(json.loads(line[len("ZEROFLEET<<") : -len(">>ZEROFLEET")]))

    def put(self, target: Path, data: bytes, sha256: str = "") -> dict[str, Any]:
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        order = {"do": "put", "target": str(target), "sha256": sha256, "mode": 0o600}
        return self.tell({**order, "size": len(data)}, data)

    def start(self, *modes: str, **environ: str) -> dict[str, Any]:
        """Have it start a run of fake ranks, as torchrun's own argv would."""
        fake = ["-m", "torch.distributed.run", str(self.node.folder / "ranks")]
        self.node.plan(*modes, argv=[str(self.python), *fake, *modes])
        path = self.node.folder / "plan.json"
        plan = json.loads(path.read_text())
        plan["environ"] |= {**ALWAYS, **environ}
        path.write_text(json.dumps(plan))
        return self.tell({"do": "start", "run_dir": str(self.node.folder)})

    def importing(self) -> int:
        """The pid of who has imported torchrun ahead, once it has."""
        file = self.imported
        return int(self.node.until(lambda: file.exists() and file.read_text(), WITHIN))

    def close(self) -> None:
        """The connection ends."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(WITHIN)

    def done(self) -> None:
        with self.process:
            self.close()


@pytest.fixture
def standing(node: Any, tmp_path: Path) -> Iterator[Standing]:
    found = Standing(node, tmp_path)
    yield found
    found.done()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_what_was_imported_ahead_becomes_torchrun(node: Any, standing: Standing) -> None:
    ahead = standing.importing()
    state = standing.start("ok", "ok")
    assert "error" not in state
    assert standing.process.wait(WITHIN) == 0  # the SSH session ends, the run goes on
    ended = node.exit()
    assert (ended["state"], ended["exit"]) == ("finished", 0)
    assert node.record()["torchrun"]["pid"] == ahead
    log = (node.folder / "node.log").read_text()
    given = [str(node.folder / "ranks"), "ok", "ok"]
    assert f"torchrun True {node.folder}/code {given} yes" in log
    assert log.count("a warning of the import") == 1
    assert standing.imported.read_text() == str(ahead)


def test_ranks_have_the_plans_environment_and_a_stop_ends_them(
    node: Any, standing: Standing
) -> None:
    standing.start("hang", SECRET="of the plan")
    node.until(lambda: node.rank(0, "ready").exists(), WITHIN)
    (rank,) = read_children(node.record()["torchrun"]["pid"])
    environ = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
    assert b"SECRET=of the plan" in environ
    assert not [pair for pair in environ if pair.startswith((b"IMPORTED=", b"PYTHONPATH="))]
    node.command("stop")
    assert node.exit()["state"] == "stopped"


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "LOGLEVEL", "TORCH_LOGS", "PYTHONOPTIMIZE"])
def test_what_counts_when_a_program_starts_has_it_started_anew(
    node: Any, standing: Standing, name: str
) -> None:
    ahead = standing.importing()
    standing.start("ok", **{name: ""})
    assert node.exit()["state"] == "finished"
    assert node.record()["torchrun"]["pid"] != ahead
    node.until(lambda: not alive(ahead))


def test_what_every_run_sets_is_no_reason_to_start_anew() -> None:
    ours = {
        "OMP_NUM_THREADS": "4", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10", "NCCL_DEBUG": "INFO",
        "TORCH_EXTENSIONS_DIR": "/x", "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "r", **ALWAYS,
    }  # fmt: skip
    assert at_start(ours) == ALWAYS


def test_a_torch_that_can_not_be_imported_is_torchruns_to_tell(node: Any, tmp_path: Path) -> None:
    standing = Standing(node, tmp_path, imports=False)
    standing.start("ok")
    ended = node.exit()
    assert ended["state"] == "failed"
    assert "half a torch" in (node.folder / "node.log").read_text()
    standing.done()


def test_it_ends_with_the_connection_and_what_it_imported_with_it(
    node: Any, standing: Standing
) -> None:
    ahead = standing.importing()
    assert standing.tell({"do": "here"}) == {}
    standing.close()
    assert standing.process.returncode == 0
    node.until(lambda: not alive(ahead))


def test_what_was_imported_does_not_outlive_its_parent(node: Any, standing: Standing) -> None:
    ahead = standing.importing()
    parent = int(Path(f"/proc/{ahead}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert standing.process.wait(WITHIN) == 0  # the session sees it, too
    node.until(lambda: not alive(ahead), WITHIN)


def test_files_are_put_whole_or_named(standing: Standing, tmp_path: Path) -> None:
    there = tmp_path / "run" / "plan.json"
    assert standing.put(there, b"1\n\n2") == {}
    assert there.read_bytes() == b"1\n\n2"
    assert there.stat().st_mode & 0o777 == 0o600
    rotten = standing.put(tmp_path / "run" / "other", b"12", "0" * 64)
    assert "sha256" in rotten["error"]
    blocked = standing.put(there / "below a file", b"x" * 100_000)
    assert "error" in blocked
    assert standing.tell({"do": "here"}) == {}  # what it could not keep was no order
    assert sorted(path.name for path in there.parent.iterdir()) == ["plan.json"]


def test_code_is_unpacked(standing: Standing, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("train.py")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"1\n"))
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    standing.put(tmp_path / "code.tar.gz", packed.getvalue())
    order = {"do": "unpack", "archive": str(tmp_path / "code.tar.gz"), "sha256": sha256}
    assert standing.tell({**order, "folder": str(tmp_path / "code")}) == {"files": 1}
    assert (tmp_path / "code" / "train.py").read_text() == "1\n"
    wrong = standing.tell({**order, "sha256": "0" * 64, "folder": str(tmp_path / "code2")})
    assert "run it again" in wrong["error"]


def test_a_folder_that_had_a_run_is_refused(node: Any, standing: Standing) -> None:
    ahead = standing.importing()
    node.plan("ok")
    (node.folder / "supervisor.log").touch()
    answer = standing.tell({"do": "start", "run_dir": str(node.folder)})
    assert "died before it wrote its record" in answer["error"]
    assert standing.process.wait(WITHIN) == 0
    node.until(lambda: not alive(ahead))


@pytest.mark.parametrize("end", ["end", "closed"])
def test_secrets_go_with_a_conversation_that_starts_no_run(
    node: Any, standing: Standing, end: str
) -> None:
    secrets, other = node.folder / "secrets.json", node.folder / "other.json"
    for path in (secrets, other):
        assert standing.put(path, b"{}") == {}
    if end == "end":
        assert standing.process.stdin
        standing.process.stdin.write(b'{"do": "end"}\n')
        standing.process.stdin.flush()
    else:
        standing.close()
    node.until(lambda: not secrets.exists(), WITHIN)
    assert other.exists()
