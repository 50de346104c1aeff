"""The demo: the whole way on this machine, by the very commands a user types.

Two SSH hosts on loopback, a DeepSpeed wheel built from source, the same environment deployed to
both, and a fine-tune over both with ZeRO-2 and the optimizer in host memory. Nothing is special
about it: each stage is ``invoke COMMAND`` in the demo's folder, whose invoke.yaml names the hosts.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from provision import errors
from provision.demo.fleet import (
    CHECKOUT,
    Fleet,
    apply_start_fleet,
    apply_stop_fleet,
    read_run_port,
)
from provision.demo.stage import Failed, Say, Stage, Story, apply_stage
from provision.setting_table import DEFAULTS

#: Two are a network.
HOSTS = 2
#: Rows to train on; the same ones that tests and README use.
DATA = CHECKOUT / "examples" / "conversations.jsonl"
#: Trainer flags that make the tiny model's loss fall clearly within a minute on two CPU cores: a
#: random model of this size learns with a rate that no pretrained one would survive.
FLAGS: Mapping[str, object] = {
    "max_steps": 30,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "model_max_length": 128,
}
#: What steps when it was built into the wheel; another optimizer means a JIT or a fallback.
OPTIMIZER = "DeepSpeedCPUAdam"


def apply_demo(*, folder: str | Path | None, keep: bool, json: bool, say: Say) -> dict[str, Any]:
    """Run the demo in ``folder`` (default: zerofleet-demo in the checkout); its JSON object.

    ``keep`` leaves the hosts up until Ctrl-C; ``json`` leaves out the summary for people. The
    folder's hosts, keys, wheel and environments stay for the next run, which is then quick.

    Raises:
        ConfigError: the folder or the loopback addresses can't be used.
        KeyboardInterrupt: after everything was stopped.
    """
    home = Path(folder or CHECKOUT / "zerofleet-demo").expanduser().absolute()
    story = Story()
    with interruptible():
        say(f"demo: two SSH hosts on this machine, in {home}")
        started = time.monotonic()
        port = read_run_port(DEFAULTS["master_port"], hosts=HOSTS)
        settings = demo_settings(home) | {"master_port": port}
        fleet = apply_start_fleet(home, n=HOSTS, settings=settings)
        story.seconds["hosts up"] = time.monotonic() - started
        try:
            result = apply_stages(fleet, story, say)
            if not json:
                say(render_summary(result, home))
            if keep:
                apply_keep(fleet, say)
        finally:
            say("demo: stopping the hosts")
            apply_stop_fleet(fleet)
    return result


def demo_settings(folder: Path) -> dict[str, object]:
    """The invoke.yaml settings that make the plain commands do the demo's run."""
    return {
        "model": str(folder / "model"),
        "data": str(DATA),
        "zero": 2,
        "offload": "optimizer",
        "set": dict(FLAGS),
    }


def plan_stages(fleet: Fleet) -> tuple[Stage, ...]:
    """The commands, in order: the ones a user types, and the making of a model to train."""
    invoke = (sys.executable, "-P", "-m", "invoke")
    python = str(fleet.hosts[0].home / ".zerofleet" / "current" / "bin" / "python")
    model = fleet.folder / "model"

    def command(*words: str) -> Stage:
        argv = (*invoke, *words, "--json")
        return Stage(name=words[0], shown=f"invoke {' '.join(words)}", argv=argv, cwd=fleet.folder)

    tiny = (python, "-m", "trainer.tiny", str(model), "--data", str(DATA))
    shown = f"python {shlex.join(tiny[1:])}"
    return (
        command("build-deepspeed"),
        command("hosts"),
        command("parity"),
        command("deploy", "--hosts", "hosts.txt"),
        Stage(name="tiny model", shown=shown, argv=tiny, cwd=CHECKOUT, answers=False),
        command("preflight"),
        command("train", "--zero", "2", "--offload", "optimizer"),
    )


def apply_stages(fleet: Fleet, story: Story, say: Say) -> dict[str, Any]:
    """Run every stage; the demo's JSON object, of success or of the stage that failed."""
    try:
        for stage in plan_stages(fleet):
            apply_stage(stage, story, say)
        fault = fault_of(story.answers["train"])
        if fault:
            raise Failed("train", errors.FINDINGS, fault)
    except Failed as failed:
        result = make_result(story, [host.name for host in fleet.hosts], failed.exit_code)
        return {**result, "failed": failed.stage, "why": failed.why}
    return make_result(story, [host.name for host in fleet.hosts], errors.OK)


def fault_of(train: Mapping[str, Any]) -> str:
    """Why a run that ended well is still not what the demo is to show; empty if it is."""
    first, last = train.get("loss") or (None, None)
    if first is None or last is None or not last < first:
        return f"the loss did not fall: first {first}, last {last}"
    if train.get("jit_compiled") != []:
        return f"ops were compiled on hosts, though the wheel has them: {train.get('jit_compiled')}"
    if train.get("optimizer") != OPTIMIZER:
        return f"{train.get('optimizer')} stepped in place of {OPTIMIZER}"
    return ""


def make_result(story: Story, hosts: Sequence[str], code: int) -> dict[str, Any]:
    """The demo's JSON object: a stable contract, keys are only ever added."""
    train = story.answers.get("train", {})
    return {
        "ok": code == errors.OK,
        "exit": code,
        "wheel": story.answers.get("build-deepspeed", {}).get("wheel"),
        "hosts": list(hosts),
        "stages": {name: round(seconds, 2) for name, seconds in story.seconds.items()},
        "loss": train.get("loss"),
        "adapter": train.get("adapter"),
        "optimizer": train.get("optimizer"),
        "jit_compiled": train.get("jit_compiled", []),
    }


def render_summary(result: Mapping[str, Any], folder: Path) -> str:
    """What happened and what to type next, for a person."""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["stages"].items())
    if not result["ok"]:
        return (
            f"\ndemo failed: {result['why']}\n  stages   {stages}\n"
            f"  logs     {folder / 'logs'}; results of runs: {folder / 'runs'}"
        )
    first, last = result["loss"]
    return f"""
demo: done in {sum(result["stages"].values()):.0f} s
  wheel    {result["wheel"]}
  hosts    {", ".join(result["hosts"])}
  stages   {stages}
  loss     {first:.3f} → {last:.3f}, stepped by {result["optimizer"]}, nothing compiled on hosts
  adapter  {result["adapter"]}
  next     ./zf demo --keep leaves the hosts up, to try each command by hand;
           on your own hosts: hosts.txt, then invoke build-deepspeed, deploy, train (README.md)"""


def render_keep(fleet: Fleet) -> str:
    """What to type in another terminal while the hosts are up."""
    activate = Path(sys.prefix) / "bin" / "activate"
    return f"""
The hosts are up until Ctrl-C. In another terminal:

  cd {shlex.quote(str(fleet.folder))}
  . {shlex.quote(str(activate))}
  invoke build-deepspeed
  invoke deploy --hosts hosts.txt
  invoke preflight
  invoke train --zero 2 --offload optimizer

  ssh -F ssh_config {fleet.hosts[0].name}
"""


def apply_keep(fleet: Fleet, say: Say) -> None:
    """Hold the hosts up until Ctrl-C, or until one of them ends by itself."""
    say(render_keep(fleet))
    try:
        while all(host.server.poll() is None for host in fleet.hosts):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    ended = [host.name for host in fleet.hosts if host.server.poll() is not None]
    say(f"demo: {', '.join(ended)} ended by itself; see {fleet.folder / 'logs'}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does: with nothing left behind."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
