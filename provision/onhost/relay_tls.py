"""Connections between the hosts of a push: TLS, by one certificate and one token.

Both ends show the certificate that the controller made for this push, and know its token. The key
is in no file that another process sees.

Part of relay.py. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import tempfile
from contextlib import contextmanager
from typing import Any, Iterator

from provision.onhost.converse import reason
from provision.onhost.relay_file import Failed
from provision.onhost.stream import receive

#: A peer that waits for a chunk itself says so; one that says nothing for so long is gone.
SILENT_SECONDS, DIAL_SECONDS = 15.0, 4.0


class Lost(Exception):
    """A peer can't be reached, or is gone."""


@contextmanager
def private_file(text: str) -> Iterator[str]:
    """The path of a file that only this process sees: ssl takes keys from files alone."""
    stream: Any
    if hasattr(os, "memfd_create"):
        stream = os.fdopen(os.memfd_create("zerofleet"), "w+")
        path = "/proc/self/fd/%d" % stream.fileno()
    else:  # glibc before 2.27: private too, and gone once it is closed
        stream = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - the block below closes both
        path = stream.name
    with stream:
        stream.write(text)
        stream.flush()
        yield path


class Seal:
    """The push's certificate and token: who shows both is of this push."""

    def __init__(self, cert: str, key: str, token: bytes) -> None:
        import ssl  # some Pythons were built without it

        self.ssl, self.token = ssl, token
        self.pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert)).digest()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False  # no name counts, this one certificate does
        with private_file(cert + key) as path:
            for context in (self.server, self.client):
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=cert)
                context.load_cert_chain(path)

    def _pinned(self, peer: Any) -> bool:
        shown = peer.getpeercert(binary_form=True) or b""
        return hmac.compare_digest(hashlib.sha256(shown).digest(), self.pin)

    def accept(self, plain: socket.socket) -> Any:
        """The connection of a peer of this push; Failed says why it is none."""
        try:
            peer = self.server.wrap_socket(plain, server_side=True)
            if not self._pinned(peer):
                raise Failed("", "it shows another certificate", "", "")
            token = receive(peer, len(self.token))
        except self.ssl.SSLError as error:
            why = error.reason or str(error)
            raise Failed("", "no certificate of this push (%s)" % why, "", "")
        known = hmac.compare_digest(bytes(token), self.token)
        peer.sendall(b"Y" if known else b"N")
        if not known:
            raise Failed("", "it does not know the token", "", "")
        return peer

    def dial(self, host: str, address: str, port: int) -> Any:
        """A connection to a peer. Lost: not reached; Failed: something else is there."""
        failed = "relay of " + host
        remedy = "is that address %s's own? has its disk or memory a fault?" % host
        try:
            plain = socket.create_connection((address, port), DIAL_SECONDS)
            plain.settimeout(SILENT_SECONDS)
            peer = self.client.wrap_socket(plain)
            peer.sendall(self.token)
            answer = receive(peer, 1)
        except self.ssl.SSLCertVerificationError:
            raise Failed(failed, "another certificate", "the one made for this push", remedy)
        except self.ssl.SSLError as error:
            if "ALERT" in str(error.reason):
                raise Failed(failed, "it refuses our certificate", "one certificate", remedy)
            raise Lost("something else answers at %s port %s" % (address, port))
        except OSError as error:
            raise Lost("%s port %s: %s" % (address, port, why_lost(error)))
        if not self._pinned(peer):
            raise Failed(failed, "another certificate", "the one made for this push", remedy)
        if answer != b"Y":
            raise Failed(failed, "it refuses our token", "one token", remedy)
        return peer


def why_lost(error: OSError) -> str:
    """Why a peer was not reached, in a few words."""
    return "no answer" if isinstance(error, socket.timeout) else reason(error)
