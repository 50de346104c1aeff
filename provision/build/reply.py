"""What a host that built answered: manifests, findings, or the build's own error. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from provision import errors
from provision.build.toolchain import HERE
from provision.errors import BuildError, ConfigError, HostError, ProvisionError
from provision.findings import Finding, Level, Report
from provision.wheel.extra import ExtraWheel, parse_extra
from provision.wheel.manifest import WheelManifest, parse_manifest


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was built on a host, or (``manifest`` None) the findings that say why nothing was."""

    report: Report
    manifest: WheelManifest | None
    extras: tuple[ExtraWheel, ...] = ()


def parse_reply(host: str, reply: Mapping[str, Any]) -> Built:
    """The answer of onhost/build.py; findings about the machine that built name the host.

    Raises:
        ProvisionError: the build ended with an error, or without any answer.
    """
    answer = reply.get("answer")
    if not isinstance(answer, Mapping):
        raise HostError(
            f"build on {host}",
            found=reply.get("last") or f"exit {reply.get('code')} and no word",
            expected="a wheel",
            remedy=f"try it there: ssh {host}, then ./zf in ~/.zerofleet/controllers/…",
        )
    if "error" in answer:
        raise _error(host, int(answer["exit"]), answer["error"])
    report = Report(findings=tuple(_finding(host, one) for one in answer.get("findings", ())))
    if "manifest" not in answer:
        return Built(report=report, manifest=None)
    name = f"answer of {host}"
    manifest = parse_manifest(json.dumps(answer["manifest"]), name=name)
    return Built(
        report=report,
        manifest=replace(manifest, cached=bool(answer["cached"])),
        extras=tuple(parse_extra(one, name=name) for one in answer["extras"]),
    )


def _error(host: str, code: int, error: Mapping[str, str]) -> ProvisionError:
    kinds = {errors.USAGE: ConfigError, errors.BUILD_FAILED: BuildError}
    parts = {key: str(error[key]) for key in ("found", "expected", "remedy")}
    return kinds.get(code, HostError)(f"[{host}] {error['what']}", **parts)


def _finding(host: str, values: Mapping[str, str]) -> Finding:
    own = {**values, "level": Level(values["level"])}
    if values["host"] == HERE:
        own["host"] = host
    return Finding(**own)  # type: ignore[arg-type]
