"""Many hosts at once: every call gives a value *or an error for each host*.

Never only the first failure: fabric's own ThreadingGroup has no cap and breaks with gateways
(https://github.com/fabric/fabric/issues/2065), so hosts are called from a thread pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provision.errors import ProvisionError, UnreachableError
from provision.findings import SSH, Finding, Level, Report
from provision.inventory import Host, Inventory
from provision.remote import Remote, Say, SshOptions, make_connection
from provision.steps import Plan

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The hosts of one command, with connections that are opened once and shared."""

    inventory: Inventory
    options: SshOptions = field(default_factory=SshOptions)
    connections: dict[str, Remote] = field(default_factory=dict, repr=False)

    def fan_out(
        self, call: Callable[[Remote], T], hosts: Sequence[str] = ()
    ) -> dict[str, T | ProvisionError]:
        """``call`` on each host side by side (all, or those named): its value or its error.

        Ctrl-C cuts the connections, so that no thread is left waiting.
        """
        chosen = [h for h in self.inventory if not hosts or h.label in hosts]

        def one(host: Host) -> T | ProvisionError:
            try:
                return call(self._remote(host))
            except ProvisionError as error:
                return error

        pool = ThreadPoolExecutor(max_workers=max(1, min(self.options.workers, len(chosen))))
        try:
            futures = {host.label: pool.submit(one, host) for host in chosen}
            return {label: future.result() for label, future in futures.items()}
        except KeyboardInterrupt:
            self.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def ask(
        self, script: str, args: dict[str, Sequence[str]] | Sequence[str] = ()
    ) -> dict[str, dict[str, object] | ProvisionError]:
        """Run ``onhost/<script>.py`` on every host; its answers, keyed by host."""

        def call(remote: Remote) -> dict[str, object]:
            own = args.get(remote.label, ()) if isinstance(args, dict) else args
            return remote.ask(script, own)

        return self.fan_out(call, tuple(args) if isinstance(args, dict) else ())

    def apply(self, plan: Plan, say: Say) -> None:
        """Carry out a plan, phase by phase; within a phase, hosts side by side.

        Raises the first host's error (in host order) after all hosts of that phase came to an
        end; later phases are then not begun.
        """
        for phase in plan.phases:
            say(f"{phase.name}: {', '.join(phase.hosts)}")
            outcomes = self.fan_out(lambda remote, p=phase: remote.apply(p, say), phase.hosts)  # type: ignore[misc]
            errors = [e for e in outcomes.values() if isinstance(e, ProvisionError)]
            for error in errors[1:]:
                say(str(error))
            if errors:
                raise errors[0]

    def _remote(self, host: Host) -> Remote:
        if host.label not in self.connections:
            self.connections[host.label] = Remote(
                label=host.label, cxn=make_connection(host, self.options)
            )
        remote = self.connections[host.label]
        remote.open()
        return remote

    def address(self, label: str) -> str:
        """The address or name that the host is reached at (HostName of ssh_config, or its name)."""
        host = next(host for host in self.inventory if host.label == label)
        return str(self._remote(host).cxn.host)

    def disconnect(self, label: str) -> None:
        """Drop one host's connection; the next call to it connects anew."""
        remote = self.connections.pop(label, None)
        if remote is not None:
            # Closing waits for a peer that may be gone: not in the caller's time.
            threading.Thread(target=remote.close, daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        for remote in self.connections.values():
            remote.close()


@contextmanager
def connected(inventory: Inventory, options: SshOptions) -> Iterator[Fleet]:
    """A fleet whose connections are closed at the end."""
    fleet = Fleet(inventory=inventory, options=options)
    try:
        yield fleet
    finally:
        fleet.close()


def error_report(answers: dict[str, Any]) -> Report:
    """Findings for the hosts of a fan-out that gave an error in place of a value."""
    return Report(
        findings=tuple(
            Finding(
                host=label,
                subject=SSH if isinstance(error, UnreachableError) else "answer",
                level=Level.ERROR,
                found=error.found,
                expected=error.expected,
                remedy=error.remedy,
            )
            for label, error in answers.items()
            if isinstance(error, ProvisionError)
        )
    )
