"""Judge folders, model and data: room for the checkpoints, and the same bytes everywhere. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.findings import Finding, Judge, Level
from provision.numbers import size
from provision.preflight.ready import Wanted

#: Less than this is a run that dies at its first save, whatever it saves.
_MINIMUM_FREE = 1 << 30
#: Files of a run: code, logs, and about twenty a checkpoint.
_MINIMUM_INODES = 1000
_WIDTH = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
#: Bytes a parameter of what DeepSpeed saves: fp32 weights and Adam's two moments, split over the
#: ranks. https://deepspeed.readthedocs.io/en/latest/memory.html
_OPTIMIZER = 12


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What a run writes to one host: ``each`` bytes a checkpoint, ``kept`` at most at once."""

    each: int
    kept: int

    @property
    def total(self) -> int:
        """Bytes needed."""
        return self.each * self.kept


def trained_parameters(wanted: Wanted, model: Mapping[str, Any]) -> float:
    """How many parameters a run trains, from the size of the weights and the trainer's flags.

    LoRA trains 2 x rank / hidden_size of them, if every linear layer has an adapter.
    """
    parameters = int(model.get("bytes") or 0) / _WIDTH.get(str(model.get("dtype")), 2)
    if not wanted.on("use_peft", default=True):
        return parameters
    rank = float(wanted.flags.get("lora_rank", 8))
    hidden = float(model.get("hidden_size") or 1024)
    return parameters * min(1.0, 2 * rank / hidden)


def optimizer_bytes(wanted: Wanted, host: str, model: Mapping[str, Any]) -> float:
    """A host's share of the optimizer, which ZeRO splits over the ranks at every stage."""
    share = wanted.slots[host] / wanted.world_size
    return trained_parameters(wanted, model) * _OPTIMIZER * share


def estimate(wanted: Wanted, host: str, model: Mapping[str, Any]) -> Checkpoints:
    """What a host's checkpoints take.

    Every rank saves its share of the optimizer; the trained weights (twice: DeepSpeed's own file,
    and transformers') go to node 0, and with ZeRO-3 every rank saves its share of them, too.
    """
    flags, weights = wanted.flags, 2 * trained_parameters(wanted, model)
    each = optimizer_bytes(wanted, host, model)
    if host == wanted.node0:
        each += 2 * weights
    elif wanted.zero == 3:
        each += weights * wanted.slots[host] / wanted.world_size
    # A new checkpoint is written before the oldest goes, and the result lies beside them.
    limit = flags.get("save_total_limit", 2)
    saves = str(flags.get("save_strategy", "steps")).lower() not in ("no", "false")
    kept = 1 + (int(limit) + 1 if limit else 3) if saves else 1
    return Checkpoints(each=int(each), kept=kept)


def judge_folders(judge: Judge, wanted: Wanted, answer: Mapping[str, Any]) -> list[Finding]:
    """Each folder that the run writes to."""
    needs = estimate(wanted, judge.host, answer.get("model") or {})
    found = {folder["path"]: folder for folder in answer.get("folders", ())}
    findings = []
    for path in wanted.folders:
        need = needs if path == wanted.output else Checkpoints(each=0, kept=0)
        subject = "output" if path == wanted.output else "run folder"
        findings.append(_folder(judge, subject, path, found.get(path, {}), need))
    return findings


def _folder(
    judge: Judge, subject: str, path: str, answer: Mapping[str, Any], need: Checkpoints
) -> Finding:
    other = "choose another folder with --output" if subject == "output" else "make room there"
    nearest, free, inodes = answer.get("nearest", ""), answer.get("free"), answer.get("inodes")
    where, writable = shlex.quote(nearest), f"{path} to be writable"
    if "error" in answer and not answer.get("full"):
        return judge(subject, Level.ERROR, f"{nearest}: {answer['error']}", writable, other)
    if inodes is not None and inodes < _MINIMUM_INODES:
        found = f"{nearest}: {inodes} inodes left"
        remedy = f"too many files on that file system: df -i {where}; remove some, or {other}"
        return judge(subject, Level.ERROR, found, f"{_MINIMUM_INODES} or more", remedy)
    wants = max(need.total, _MINIMUM_FREE)
    what = f", {need.kept} checkpoints of {size(need.each)}" if need.total > _MINIMUM_FREE else ""
    expected = f"{path} writable, {size(wants)} free or more{what}"
    remedy = f"free space there (df -h {where}), or {other}"
    if free is not None and free < wants:
        return judge(subject, Level.ERROR, f"{size(free)} free on {nearest}", expected, remedy)
    if "error" in answer:  # a quota, say: there is room, but not for us
        return judge(subject, Level.ERROR, f"{nearest}: {answer['error']}", expected, remedy)
    if free is None:
        return judge(subject, Level.UNKNOWN, "no answer", writable, "try again")
    return judge(subject, Level.OK, f"{size(free)} free", expected)


def judge_model(judge: Judge, model: str, answer: Mapping[str, Any]) -> list[Finding]:
    """Whether the model is there; that it is the same one is judge_bytes'."""
    expected = f"a model folder at {model}"
    if "bytes" in answer:
        found = f"{size(int(answer['bytes']))} of weights"
        return [judge("model", Level.OK, found, expected)]
    if answer.get("hub"):
        found = f"no folder, and {model} is not in this host's hub cache"
        remedy = "download it there first (hf download), or give --model a folder on the hosts"
        return [judge("model", Level.ERROR, found, expected, remedy)]
    remedy = "copy the model to the same path on every host, or correct --model"
    return [judge("model", Level.ERROR, answer.get("error", "no answer"), expected, remedy)]


def judge_rows(
    judge: Judge, data: str, answer: Mapping[str, Any], home: str, *, skip_bad: bool = False
) -> list[Finding]:
    """The rows of the data, as the trainer's own reader sees them.

    ``home``: below it a file is called alike on every host, so that its rows are named once.
    ``skip_bad``: the run leaves out bad rows (not files), so one that has good ones may start.
    """
    if "error" in answer or "problem_count" not in answer:
        why = answer.get("error", "no answer")
        return [judge("data", Level.UNKNOWN, why, f"rows in {data}", "run it again")]
    if not answer["problem_count"]:
        level = Level.OK if answer.get("rows") else Level.ERROR
        found = f"{answer.get('rows', 0):,} rows in {answer.get('files', 0)} files"
        return [judge("data", level, found, f"rows in {data}", "correct --data")]
    findings = []
    skips = Level.WARN if skip_bad and answer.get("rows") else Level.ERROR
    for problem in answer["problems"]:
        line = problem.get("line")
        file, own = problem["file"], home.rstrip("/") + "/"
        file = f"~/{file.removeprefix(own)}" if file.startswith(own) else file
        where = f"{file}:{line}" if line else file
        level, found = skips if line else Level.ERROR, f"{where}: {problem['found']}"
        remedy = "correct or remove that row" if line else "correct --data, or what lies there"
        findings.append(judge("data", level, found, problem["expected"], remedy))
    rest = int(answer["problem_count"]) - len(findings)
    if rest > 0:
        found = f"{rest:,} more bad rows"
        findings.append(judge("data", skips, found, "none", "correct the file"))
    return findings


def judge_bytes(
    subject: str, digests: Mapping[str, Mapping[str, Any]], path: str
) -> dict[str, list[Finding]]:
    """Whether the hosts that have it have the same bytes: the odd ones out of the majority.

    ``digests``: host → onhost/ready.py's digest. Another order of rows is another run, and other
    weights are no run at all: ranks would train different models without a word.
    """
    findings: dict[str, list[Finding]] = {host: [] for host in digests}
    for host, digest in digests.items():
        if wrong := digest.get("rotten"):
            findings[host].append(_rotten(host, subject, wrong))
    # What is not what it was pushed as is no measure for the others.
    digests = {host: digest for host, digest in digests.items() if not digest.get("rotten")}
    counts = Counter(str(each.get("sha256")) for each in digests.values()).most_common()
    for host, digest in digests.items():
        sha = str(digest.get("sha256"))
        found = (
            f"sha256 {sha[:12]}… ({digest.get('count')} files, {size(digest.get('bytes') or 0)})"
        )
        if len(counts) == 1:
            same = Judge(host=host)(f"{subject} bytes", Level.OK, found, "the same on all hosts")
            findings[host].append(same)
            continue
        tie = counts[0][1] == counts[1][1]
        if not tie and sha == counts[0][0]:
            continue
        like = next(each for each in digests.values() if each.get("sha256") != digest["sha256"])
        differs = _difference(digest, like)
        expected = (
            "one on all hosts" if tie else f"{counts[0][0][:12]}…, as on {counts[0][1]} hosts"
        )
        remedy = f"copy {shlex.quote(path)} anew to every host that differs"
        if differs:
            remedy = f"it is {differs}: {remedy}"
        bad = Judge(host=host)(f"{subject} bytes", Level.ERROR, found, expected, remedy)
        findings[host].append(bad)
    return findings


def _rotten(host: str, subject: str, wrong: Sequence[str]) -> Finding:
    """Pushed files that hash to other than they were pushed under: the disk, or somebody."""
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    found = f"{wrong[0]}{more}: not the bytes that were pushed"
    remedy = "push it once more from where it is whole: invoke push PATH --check"
    return Judge(host=host).error(f"{subject} bytes", found, "what its digest says", remedy)


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first file that two digests disagree about."""
    mine, theirs = one.get("files") or {}, other.get("files") or {}
    if not mine or not theirs:
        return ""
    for name in sorted({*mine, *theirs}):
        if name not in mine:
            return f"{name}, which is missing"
        if name not in theirs:
            return f"{name}, which others lack"
        if mine[name] != theirs[name]:
            return str(name)
    return ""
