"""What is said of certificates is true of those in use: of the new ones after a reload, of the old ones after a refused
one."""

from pathlib import Path

from cryptography import x509

from cluster.certificates import Certificates
from cluster.tls import TlsIdentity
from ops.certs import make_certs
from tests.metrics.reading import said
from tests.support.certs import certs_in, identity

NOT_AFTER = "certificate_not_after_timestamp_seconds"
REFUSED = "certificate_refused"
REFUSALS = "certificate_reloads_refused_total"


def ends(path: Path) -> float:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def test_what_is_in_use(tmp_path: Path) -> None:
    """Its own end and the CA's; after new files those of the new ones, though nobody has connected."""
    make_certs(tmp_path, days=20)
    certificates = Certificates(identity(tmp_path, "node"))
    first = said(certificates)
    assert first == {
        (NOT_AFTER, "own"): ends(tmp_path / "node.crt"),
        (NOT_AFTER, "ca"): ends(tmp_path / "ca.crt"),
        (REFUSED, "own"): 0,
        (REFUSALS, "own"): 0,
    }
    make_certs(tmp_path, days=40)
    second = said(certificates)
    assert second[NOT_AFTER, "own"] == ends(tmp_path / "node.crt") > first[NOT_AFTER, "own"] + 19 * 86_400
    assert second[REFUSED, "own"] == second[REFUSALS, "own"] == 0


def test_the_earliest_counts(tmp_path: Path) -> None:
    """Of several CAs, and of a certificate and what stands between it and the CA."""
    mine, others = certs_in(tmp_path / "mine"), tmp_path / "others"
    make_certs(others, days=7)
    early = (others / "router.crt").read_bytes()  # nobody asks here whether it is a CA
    for name in ("ca", "node"):
        path = mine / f"{name}.crt"
        path.write_bytes(path.read_bytes() + early)
    found = said(Certificates(identity(mine, "node")))
    assert found[NOT_AFTER, "own"] == found[NOT_AFTER, "ca"] == ends(others / "router.crt")


def test_what_is_refused(tmp_path: Path) -> None:
    """Half of new files: it is said for as long as they are there, counted once, and the old ones are in use; then the
    other half comes, or the first is taken back."""
    make_certs(tmp_path, days=20)
    certificates = Certificates(identity(tmp_path, "node"))
    first = said(certificates)
    key, cert = tmp_path / "node.key", tmp_path / "node.crt"
    old, old_key = cert.read_bytes(), key.rename(tmp_path / "old.key")
    make_certs(tmp_path, days=40)
    new_key = key.rename(tmp_path / "new.key")
    key.hardlink_to(old_key)
    for _ in range(3):
        assert said(certificates) == first | {(REFUSED, "own"): 1, (REFUSALS, "own"): 1}
    new_key.replace(key)
    assert said(certificates)[NOT_AFTER, "own"] == ends(cert)
    assert (said(certificates)[REFUSED, "own"], said(certificates)[REFUSALS, "own"]) == (0, 1)
    new = cert.rename(tmp_path / "new.crt")
    cert.write_bytes(old)
    assert (said(certificates)[REFUSED, "own"], said(certificates)[REFUSALS, "own"]) == (1, 2)
    new.replace(cert)
    assert (said(certificates)[REFUSED, "own"], said(certificates)[REFUSALS, "own"]) == (0, 2)
    cert.write_text("nothing")
    assert (said(certificates)[REFUSED, "own"], said(certificates)[REFUSALS, "own"]) == (1, 3)


def test_a_certificate_for_the_public(tmp_path: Path) -> None:
    """A router's, beside its own."""
    make_certs(tmp_path, days=20)
    public = TlsIdentity(tmp_path / "ca.crt", tmp_path / "operator.crt", tmp_path / "operator.key")
    certificates = Certificates(identity(tmp_path, "router"), public)
    (tmp_path / "operator.key").unlink()
    found = said(certificates)
    assert found[NOT_AFTER, "public"] == ends(tmp_path / "operator.crt")
    assert (found[REFUSED, "own"], found[REFUSED, "public"]) == (0, 1)


def test_without_tls() -> None:
    assert said(Certificates(None)) == {}
