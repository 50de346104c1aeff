"""The packages of the hosts' environment, and one more, resolved for the hosts and deployed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


def test_one_package_more_is_one_package_more(fleet: Fleet, zf_run: ZfRun) -> None:
    built = zf_run(["build-deepspeed"], fleet.folder)
    assert built.returncode == 0, built.stderr
    asked = ["lock-env", "--env-lock", "my.lock", "--json", "--packages"]
    done = zf_run([*asked, "sentencepiece"], fleet.folder)
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout)["changes"]
    assert [change["name"] for change in changes] == ["sentencepiece"]
    text = (fleet.folder / "my.lock").read_text()
    assert f"sentencepiece=={changes[0]['new']} \\\n    --hash=sha256:" in text
    assert "\ntorch==" not in text

    planned = zf_run(["deploy", "--env-lock", "my.lock", "--dry-run", "--json"], fleet.folder)
    assert planned.returncode == 0, planned.stderr
    name = json.loads(done.stdout)["environment"]
    assert f"current -> envs/{name}" in json.dumps(json.loads(planned.stdout)["plan"])

    never = zf_run([*asked, "transformers<4.50"], fleet.folder)  # trl needs a newer one
    assert never.returncode == 2, never.stderr
    assert "No solution found" in json.loads(never.stdout)["error"]["found"]
    assert (fleet.folder / "my.lock").read_text() == text
