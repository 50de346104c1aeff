"""Preflight: may this run start now? Pure: judges what facts.py and ready.py read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.errors import ProvisionError
from provision.findings import Finding, Level, Report
from provision.hosts.facts import HostFacts
from provision.hosts.ready import Ready, Wanted

#: A checkpoint of a LoRA adapter is megabytes; one of full weights and moments is ~8x the model.
#: Less than this is a run that dies at its first save.
_MINIMUM_FREE = 1 << 30
#: MiB in use on an idle GPU: a display server or the driver itself take a few hundred.
_IDLE_GPU_MIB = 1024


def evaluate(wanted: Wanted, facts: Mapping[str, HostFacts], ready: Ready) -> Report:
    """All findings of all hosts, host by host."""
    findings: list[Finding] = []
    for host in wanted.slots:
        judge = _Judge(host)
        findings += _environment(judge, wanted, facts[host])
        findings += _slots(judge, wanted, facts[host])
        findings += _paths(judge, wanted, ready.paths.get(host, {}))
        findings += _rows(judge, wanted, ready.rows.get(host, {}))
        findings += _port(judge, wanted, ready)
    return Report(findings=tuple(findings))


class _Judge:
    """Makes findings about one host."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __call__(
        self, subject: str, level: Level, found: object, expected: str, remedy: str = ""
    ) -> Finding:
        return Finding(
            host=self.host,
            subject=subject,
            level=level,
            found=str(found),
            expected=expected,
            remedy="" if level is Level.OK else remedy,
        )

    def unanswered(self, subject: str, error: ProvisionError) -> list[Finding]:
        """What could not be read: unknown, and so not ok."""
        return [self(subject, Level.UNKNOWN, error.found, error.expected, error.remedy)]


def _environment(judge: _Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    if not wanted.lock:
        return []
    if facts["environment"].unknown:
        level, found = Level.UNKNOWN, str(facts["environment"])
    else:
        found = str(facts.environment.get("lock", "none"))
        level = Level.OK if found == wanted.lock else Level.ERROR
    expected = f"{wanted.lock} (this wheel and this lock)"
    return [judge("environment", level, found, expected, "run: invoke deploy")]


def _slots(judge: _Judge, wanted: Wanted, facts: HostFacts) -> list[Finding]:
    slots = wanted.slots[judge.host]
    if wanted.accelerator == "cpu":
        return [judge("slots", Level.OK, f"{slots} on the CPU", "ranks on the CPU")]
    if facts["gpus"].unknown:
        return [
            judge("gpus", Level.UNKNOWN, facts["gpus"], f"{slots} GPUs", "see nvidia-smi there")
        ]
    gpus = facts.gpus
    enough = Level.OK if slots <= len(gpus) else Level.ERROR
    findings = [judge("gpus", enough, len(gpus), f"{slots} or more", "lower slots= for this host")]
    for gpu in gpus[:slots]:
        if int(gpu["memory_used"]) > _IDLE_GPU_MIB:
            used = f"{gpu['memory_used']} MiB in use on GPU {gpu['index']}"
            remedy = "something else runs there: nvidia-smi names it"
            findings.append(judge("gpu in use", Level.WARN, used, "an idle GPU", remedy))
    return findings


def _paths(
    judge: _Judge, wanted: Wanted, answer: Mapping[str, Any] | ProvisionError
) -> list[Finding]:
    if isinstance(answer, ProvisionError):
        return judge.unanswered("paths", answer)
    findings = []
    if wanted.output:
        findings.append(_output(judge, answer.get("output") or {}))
    if wanted.model:
        findings.append(_model(judge, wanted.model, answer.get("model") or {}))
    return findings


def _output(judge: _Judge, answer: Mapping[str, Any]) -> Finding:
    path = answer.get("path", "")
    if "error" in answer:
        found = f"{answer['nearest']}: {answer['error']}"
        remedy = "choose another folder with --output"
        return judge("output", Level.ERROR, found, f"{path} to be writable", remedy)
    if "free" not in answer:
        return judge("output", Level.UNKNOWN, "no answer", f"{path} to be writable", "try again")
    free, found = int(answer["free"]), f"{int(answer['free']) / 1e9:.1f} GB free"
    level = Level.OK if free >= _MINIMUM_FREE else Level.ERROR
    remedy = "free space there, or choose another folder with --output"
    return judge("output", level, found, f"{path} writable, 1 GiB free or more", remedy)


def _model(judge: _Judge, model: str, answer: Mapping[str, Any]) -> Finding:
    expected = f"a model folder at {model}"
    if "bytes" in answer:
        return judge(
            "model", Level.OK, f"{int(answer['bytes']) / 1e6:,.1f} MB of weights", expected
        )
    if answer.get("hub"):
        if answer.get("cached"):
            return judge("model", Level.OK, "in the hub cache", f"{model} at hand")
        found = f"no folder, and {model} is not in this host's hub cache"
        remedy = "download it there first (hf download), or give --model a folder on the hosts"
        return judge("model", Level.ERROR, found, expected, remedy)
    remedy = "copy the model to the same path on every host, or correct --model"
    return judge("model", Level.ERROR, answer.get("error", "no answer"), expected, remedy)


def _rows(
    judge: _Judge, wanted: Wanted, answer: Mapping[str, Any] | ProvisionError
) -> list[Finding]:
    if not wanted.data:
        return []
    if isinstance(answer, ProvisionError):
        return judge.unanswered("data", answer)
    if not answer.get("problem_count"):
        level = Level.OK if answer.get("rows") else Level.ERROR
        found = f"{answer.get('rows', 0):,} rows in {answer.get('files', 0)} files"
        return [judge("data", level, found, f"rows in {wanted.data}", "correct --data")]
    findings = []
    for problem in answer["problems"]:
        where = f"{problem['file']}:{problem['line']}" if problem.get("line") else problem["file"]
        found = f"{where}: {problem['found']}"
        remedy = "correct or remove that row"
        findings.append(judge("data", Level.ERROR, found, problem["expected"], remedy))
    rest = int(answer["problem_count"]) - len(findings)
    if rest > 0:
        found = f"{rest:,} more bad rows"
        findings.append(judge("data", Level.ERROR, found, "none", "correct the file"))
    return findings


def _port(judge: _Judge, wanted: Wanted, ready: Ready) -> list[Finding]:
    subject, port = "master port", wanted.master_port
    if "error" in ready.listen:
        if judge.host != wanted.node0:
            return []
        found, remedy = ready.listen["error"], "stop it, or choose another with --master-port"
        return [judge(subject, Level.ERROR, f"{port} {found}", f"{port} free", remedy)]
    answer = ready.dials.get(judge.host, {})
    expected = f"{wanted.master_addr}:{port} reached"
    if isinstance(answer, ProvisionError):
        return judge.unanswered(subject, answer)
    if "error" in answer:
        remedy = f"open TCP port {port} on {wanted.node0} for this host, or give --master-addr"
        return [judge(subject, Level.ERROR, answer["error"], expected, remedy)]
    if "seconds" not in answer:
        return [judge(subject, Level.UNKNOWN, "no answer", expected, "try again")]
    found = f"reached in {float(answer['seconds']) * 1000:.1f} ms"
    return [judge(subject, Level.OK, found, expected)]
