"""A module of the trainer, run outside of a run: on one host, or on this machine.

Data is looked at before a run, and a result used after it, by the code that trains and in the
environment that trains. The contract is the run's own: argv, environment and files; what the module
finds comes as JSON lines (provision/onhost/module.py, which is the same on a host and here).
"""

from __future__ import annotations

import base64
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import HostError
from provision.launch.code import Code
from provision.launch.collect import Fetch, apply_fetch
from provision.script import passing_on, script_argv
from provision.session import Remote, Say
from provision.steps import Phase, Plan, Put, Run, Step
from provision.talk import SILENCE_SECONDS, ProcessChannel, Talk

#: What stands for the working folder in a module's arguments, until there is one.
WORK = "WORK"
#: This machine, where a host's name would be.
HERE = "here"
#: Seconds that unpacking the code may take.
_BEGIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ModuleCall:
    """A module, its arguments, and who runs it. ``python`` is a path on ``host``, or here.

    ``output``: the folder of this machine that its result comes to; None when it has none.
    ``inputs``: files of other hosts that it needs in its working folder's ``inputs/``.
    """

    host: str
    python: str
    module: str
    args: tuple[str, ...]
    output: Path | None = None
    inputs: tuple[Fetch, ...] = ()

    def __str__(self) -> str:
        return f"{self.python} -m {self.module} {shlex.join(self.args)}"

    def plan(self, code: Code) -> Plan:
        """What would be done."""
        why = f"the code ({code}) and results lie in a folder that is gone afterwards"
        step = Step(host=self.host, do=Run(argv=(), title=str(self)), why=why)
        steps = [step]
        if self.inputs:
            total = sum(file.size for file in self.inputs)
            run = Run(argv=(), title=f"{len(self.inputs)} files, {total:,} bytes, by way of here")
            steps.insert(0, Step(host=self.host, do=run, why="what other hosts have of it"))
        if self.output:
            run = Run(argv=(), title=f"bring the result to {self.output}")
            steps.append(Step(host=self.host, do=run, why="each file held to its hash"))
        return Plan(title=self.module, phases=(Phase(name="run", steps=tuple(steps)),))


@dataclass(kw_only=True)
class Working:
    """A module at work. ``folder`` is its own on the host: removed when the conversation ends."""

    call: ModuleCall
    talk: Talk
    say: Say
    folder: str
    files: Sequence[dict[str, Any]] = ()

    def apply_start(self) -> None:
        """Start it."""
        args = [self._placed(arg) for arg in self.call.args]
        self.talk.send({"module": self.call.module, "args": args})

    def _placed(self, arg: str) -> str:
        inside = arg == WORK or arg.startswith(f"{WORK}/")
        return self.folder + arg.removeprefix(WORK) if inside else arg

    def apply_tell(self, **message: object) -> None:
        """A line to its stdin."""
        self.talk.send(message)

    def read_said(self) -> dict[str, Any] | None:
        """The next that it says; None when it ended well. HostError when it did not."""
        on_line = passing_on(self.call.host, self.say)
        found: dict[str, Any] = self.talk.receive(SILENCE_SECONDS, on_line)
        if "said" in found:
            said: dict[str, Any] = found["said"]
            return said
        if found["exit"]:
            raise self._failed(int(found["exit"]), str(found["last"]))
        self.files = found["files"]
        return None

    def _failed(self, code: int, last: str) -> HostError:
        name = self.call.module.removeprefix("trainer.")
        killed = "ended by signal 9: is there memory enough?" if code == -9 else f"exit {code}"
        return HostError(
            f"{self.call.host}: {name.replace('_', '-')}",
            found=last.removeprefix(f"{name}: ") or killed,
            expected="exit 0",
            remedy="what it said before is above",
        )


@contextmanager
def conversation(
    call: ModuleCall, code: Code, remote: Remote | None, say: Say
) -> Iterator[Working]:
    """The module's working folder, with the code in it; ``remote`` None means here."""
    talk = remote.talk("module") if remote else apply_talk_here()
    try:
        archive = base64.b64encode(code.archive).decode()
        talk.send({"archive": archive, "sha256": code.sha256, "python": call.python})
        folder = str(talk.receive(_BEGIN_SECONDS)["folder"])
        yield Working(call=call, talk=talk, say=say, folder=folder)
    finally:
        talk.close()


def apply_inputs(working: Working, remotes: Mapping[str, Remote]) -> None:
    """Bring the inputs to the working folder, by way of this machine."""
    for file in working.call.inputs:
        with tempfile.TemporaryDirectory() as folder:
            apply_fetch(remotes[file.host], file, Path(folder))
            put = Put(
                target=f"{working.folder}/inputs/{file.target}",
                sha256=file.sha256,
                size=file.size,
                source=Path(folder, file.target),
            )
            remotes[working.call.host].put([put], working.say)


def apply_result(working: Working, remote: Remote | None) -> None:
    """Bring what it left in its result folder to ``output`` here: complete, or not at all."""
    output = working.call.output
    assert output
    root = f"{working.folder}/result/"
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    total = sum(int(file["size"]) for file in working.files)
    working.say(f"bringing {len(working.files)} files, {total:,} bytes, to {output}")
    for file in working.files:
        path, name = str(file["path"]), str(file["path"]).removeprefix(root)
        if name == path or ".." in name.split("/"):
            raise HostError(
                f"{working.call.host}: {working.call.module}",
                found=ascii(path[:200]),
                expected=f"files below {root}",
                remedy="look at that host: its answer is not ours",
            )
        if remote is None:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, partial / name)
            continue
        fetch = Fetch(
            host=working.call.host,
            source=path,
            target=name,
            size=int(file["size"]),
            sha256=str(file["sha256"]),
        )
        apply_fetch(remote, fetch, partial)
    if output.exists():
        output.rmdir()
    partial.rename(output)


def apply_talk_here() -> Talk:
    """The same script as on hosts, on this machine; in a session of its own, as there."""
    return Talk(label=HERE, channel=ProcessChannel(script_argv("module", [], sys.executable)))
