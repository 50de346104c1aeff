"""Many hosts at once: every call gives a value *or an error for each host*.

Never only the first failure: fabric's own ThreadingGroup has no cap and breaks with gateways
(https://github.com/fabric/fabric/issues/2065), so hosts are called from a thread pool.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from provision.errors import ConfigError, ProvisionError
from provision.findings import Judge, Report, merged_errors
from provision.inventory import Host, Inventory
from provision.remote import SshFiles, SshOptions, make_connection, read_ssh_files
from provision.session import Remote, Say
from provision.steps import Phase, Plan

T = TypeVar("T")
ApplyPhase = Callable[[Remote, Phase, Say], None]

#: Seconds between two lines that say who is awaited.
SAY_EVERY = 4.0
#: Open files of this process: its own, and those of one connection with a command on it.
FILES, FILES_PER_HOST = 128, 6


def _apply_itself(remote: Remote, phase: Phase, say: Say) -> None:
    """The host's steps, carried out over its own connection."""
    remote.apply(phase, say)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The hosts of one command, with connections that are opened once and shared."""

    inventory: Inventory
    options: SshOptions = field(default_factory=SshOptions)
    connections: dict[str, Remote] = field(default_factory=dict, repr=False)

    def fan_out(
        self, call: Callable[[Remote], T], hosts: Sequence[str] = (), *, say: Say | None = None
    ) -> dict[str, T | ProvisionError]:
        """``call`` on each host side by side (all, or those named): its value or its error.

        With ``say``, a line every few seconds tells who is still awaited. Ctrl-C cuts the
        connections, so that no thread is left waiting.
        """
        chosen = [h for h in self.inventory if not hosts or h.label in hosts]
        if any(host.label not in self.connections for host in chosen):
            _ = self._ssh_files  # what is wrong with them is no host's fault: one error, for all

        def one(host: Host) -> T | ProvisionError:
            try:
                return call(self._remote(host))
            except ProvisionError as error:
                return error

        pool = ThreadPoolExecutor(max_workers=max(1, min(self.options.workers, len(chosen))))
        try:
            futures = {host.label: pool.submit(one, host) for host in chosen}
            _await(futures, say)
            return {label: future.result() for label, future in futures.items()}
        except KeyboardInterrupt:
            # First: who is cut off makes room for a host that was not begun with.
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def ask(
        self,
        script: str,
        args: dict[str, Sequence[str]] | Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, dict[str, object] | ProvisionError]:
        """Run ``onhost/<script>.py`` on every host; its answers, keyed by host.

        A host that has not answered in ``timeout`` seconds counts as unreachable.
        """

        def call(remote: Remote) -> dict[str, object]:
            own = args.get(remote.label, ()) if isinstance(args, dict) else args
            return remote.ask(script, own, timeout=timeout)

        return self.fan_out(call, tuple(args) if isinstance(args, dict) else ())

    def apply(self, plan: Plan, say: Say, by: ApplyPhase = _apply_itself) -> None:
        """Carry out a plan, phase by phase; within a phase, hosts side by side, each ``by`` that.

        Raises the first host's error (in host order) after all hosts of that phase came to an
        end; later phases are then not begun.
        """
        for phase in plan.phases:
            errors = merged_errors(self.apply_phase(phase, say, by))
            for error in errors[1:]:
                say(str(error))
            if errors:
                raise errors[0]

    def apply_phase(
        self, phase: Phase, say: Say, by: ApplyPhase = _apply_itself
    ) -> dict[str, ProvisionError]:
        """Carry out one phase, hosts side by side: the errors of those where it failed."""
        say(f"{phase.name}: {', '.join(phase.hosts)}")
        outcomes = self.fan_out(lambda remote: by(remote, phase, say), phase.hosts)
        return {host: e for host, e in outcomes.items() if isinstance(e, ProvisionError)}

    @cached_property
    def _ssh_files(self) -> SshFiles:
        """OpenSSH's own files, read once for all hosts."""
        return read_ssh_files(self.options)

    def _known(self, host: Host) -> Remote:
        if host.label not in self.connections:
            self.connections[host.label] = Remote(
                label=host.label, cxn=make_connection(host, self.options, self._ssh_files)
            )
        return self.connections[host.label]

    def _remote(self, host: Host) -> Remote:
        remote = self._known(host)
        remote.open()
        return remote

    def address(self, label: str) -> str:
        """The address or name that the host is reached at (HostName of ssh_config, or its name).

        It is not connected to: a host that is down has an address too.
        """
        host = next(host for host in self.inventory if host.label == label)
        return self._known(host).address

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


def _await(futures: dict[str, Future[T]], say: Say | None) -> None:
    """Return once all are done; tell, every now and then, who is not."""
    left = set(futures.values())
    while left:
        _, left = wait(left, timeout=SAY_EVERY if say else None, return_when=ALL_COMPLETED)
        if left and say:
            names = [label for label, future in futures.items() if future in left]
            say(awaiting(names, len(futures)))


def awaiting(names: Sequence[str], total: int) -> str:
    """Who has not answered, the first few by name: "62/64 answered, waiting for node7, node9"."""
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{total - len(names)}/{total} answered, waiting for {shown}"


def apply_file_limit(hosts: int) -> None:
    """Let this process hold the connections to so many hosts open at once.

    Raises ConfigError where its hard limit forbids that.
    """
    wanted = FILES + FILES_PER_HOST * hosts
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"open files for {hosts} hosts",
            found=f"a hard limit of {hard}",
            expected=f"{wanted} or more",
            remedy=f"raise it (ulimit -Hn {wanted}, limits.conf), or split the hosts file",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def connected(
    inventory: Inventory, options: SshOptions, reached: Mapping[str, Remote] | None = None
) -> Iterator[Fleet]:
    """A fleet whose connections are closed at the end.

    ``reached``: what reaches hosts, by label, where that is not SSH.
    """
    apply_file_limit(len(inventory))
    fleet = Fleet(inventory=inventory, options=options, connections=dict(reached or {}))
    try:
        yield fleet
    finally:
        fleet.close()


def error_report(answers: Mapping[str, Any]) -> Report:
    """Findings for the hosts of a fan-out that gave an error in place of a value."""
    return Report(
        findings=tuple(
            Judge(host=label).failed(error)
            for label, error in answers.items()
            if isinstance(error, ProvisionError)
        )
    )
