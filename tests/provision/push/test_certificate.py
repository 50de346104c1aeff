from __future__ import annotations

import ssl

from provision.push.certificate import make_certificate


def test_each_push_has_its_own_and_no_clock_counts(tmp_path):
    (cert, key), (other, _) = make_certificate(), make_certificate()
    assert cert != other
    (tmp_path / "both").write_text(cert + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tmp_path / "both")
    context.load_verify_locations(cadata=cert)
    (known,) = context.get_ca_certs()
    assert known["notBefore"].endswith("1980 GMT")
    assert known["notAfter"].endswith("2199 GMT")
