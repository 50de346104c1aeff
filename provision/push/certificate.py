"""The certificate of one push: made for it, known to its hosts alone, gone with it.

cryptography comes with paramiko; it is named in locks/controller.in because it is imported here.
"""

from __future__ import annotations

from datetime import UTC, datetime

#: Hosts' clocks may be wrong by years, and what counts is that it is this very certificate.
_FROM, _UNTIL = datetime(1980, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC)


def make_certificate() -> tuple[str, str]:
    """(certificate, private key), new, in PEM: P-256, which every OpenSSL since 1.0.2 has."""
    # ~0.1 s to import: only a push that relays pays for it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "zerofleet push")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
