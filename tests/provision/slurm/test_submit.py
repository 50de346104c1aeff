"""Slurm's answers as it gives them (22.05), and a folder for a job that is really made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.code import read_archive
from provision.slurm.submit import (
    apply_command,
    apply_folder,
    apply_submit,
    parse_forecast,
    read_forecast,
    read_slurm,
    refusal,
    require_line_ends,
)
from provision.steps import Run


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("sbatch: error: invalid partition specified: gpus\n"
         "sbatch: error: Batch job submission failed: Invalid partition name specified",
         "--partition"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not "
         "available", "--gpus"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition "
         "combination specified", "--account"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "--qos"),
        ("sbatch: error: Invalid generic resource (gres) specification", "a100:8"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid "
         "(missing or exceeds some limit)", "--time"),
        ("sbatch: error: Batch script contains DOS line breaks (\\r\\n)", "sed -i"),
        ("sbatch: error: something new", "man sbatch"),
    ],
)  # fmt: skip
def test_a_refusal_is_slurms_own_words_and_what_mends_it(said: str, remedy: str) -> None:
    error = refusal(said, 1)
    assert remedy in error.remedy
    assert error.found in said.replace("sbatch: error: ", "").replace("\n", "; ")
    assert "\n" not in str(error)


def test_a_refusal_without_a_word() -> None:
    assert "exit 255" in str(refusal("", 255))


def test_what_scancel_refuses_is_scancels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scancel = tmp_path / "scancel"
    scancel.write_text(
        "#!/bin/sh\necho 'scancel: error: Kill job error on job id 9: Access denied' >&2; exit 1\n"
    )
    scancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"^scancel: found Kill job error on job id 9: Access"):
        apply_command(Run(argv=("scancel", "9")))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"#!/bin/bash\r\n#SBATCH --nodes=2\r\nsrun x\r\n", 1),
        (b"#!/bin/bash\n#SBATCH --nodes=2\nsrun x\r\n", 3),
        (b"#!/bin/bash\n#SBATCH --partition=debug\r --nodes=2\n", 2),
        (b"#!/bin/bash\n#SBATCH --nodes=2\nprintf 'a\rb'\n", 0),
    ],
)
def test_a_job_file_edited_elsewhere_is_refused_before_slurm_sees_it(
    text: bytes, line: int, tmp_path: Path
) -> None:
    (tmp_path / "job.sbatch").write_bytes(text)
    if not line:
        require_line_ends(tmp_path / "job.sbatch")
        return
    with pytest.raises(ConfigError, match=f"a carriage return in line {line}: .* sed -i"):
        apply_submit(tmp_path, "r1")  # there is no sbatch that could refuse it


def test_what_slurm_foresees() -> None:
    said = "sbatch: Job 5 to start at {}-11-21T18:26:27 using 4 processors on nodes node[1-2] in "
    said += "partition debug"
    soon = parse_forecast(said.format(2026))
    assert "2026-11-21T18:26:27 with 4 CPUs on node[1-2] in partition debug" in soon
    assert "time limit" in parse_forecast(said.format(4068))
    assert parse_forecast("something else") == "something else"


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, as the last line of its file has it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "sbatch"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_slurm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no such command on this machine"):
        read_slurm(["sbatch", "--version"])


def test_the_folder_of_a_job_and_its_submission(sbatch: Path, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(1)\n")
    code = read_archive({"src/a.py": tmp_path / "a.py"})
    run_dir = tmp_path / "shared" / "r1"
    apply_folder(run_dir, "#!/bin/bash\n", code, {"HF_TOKEN": "it's"}, {"run": "r1"})
    assert (run_dir / "code/src/a.py").read_text() == "print(1)\n"
    assert (run_dir / "secrets.sh").stat().st_mode & 0o777 == 0o600
    assert "ZEROFLEET" not in (run_dir / "job.sbatch").read_text()
    for name in ("node_checks", "job_end"):
        compile((run_dir / f"{name}.py").read_text(), name, "exec")
    sbatch.write_text('#!/bin/sh\ntest "$1" = --parsable && test -f "$2" && echo "12;here"\n')
    assert apply_submit(run_dir, "r1").job == "12"
    assert json.loads((run_dir / "slurm.json").read_text())["job"] == "12"


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    code = read_archive({})
    with pytest.raises(ConfigError, match="--shared"):
        apply_folder(tmp_path, "", code, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_refused_job_is_an_error_and_no_record(sbatch: Path, tmp_path: Path) -> None:
    (tmp_path / "job.sbatch").write_text("#!/bin/bash\n")
    sbatch.write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2; exit 1\n"
    )
    with pytest.raises(ConfigError, match="invalid partition specified: x"):
        apply_submit(tmp_path, "r1")
    with pytest.raises(ConfigError, match="invalid partition"):
        read_forecast("#!/bin/bash\n")
    assert not (tmp_path / "slurm.json").exists()
