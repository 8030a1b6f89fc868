"""A development CA and the certificates of a cluster's processes. A real deployment has a CA of its own, which only has
to name the same roles (`cluster.roles`) and the same three fixed names; whoever has `ca.key` can be anybody here.

DIR/
  ca.crt, ca.key          the CA
  router.crt, .key        the routers': towards clients, nodes and etcd
  node.crt, .key          the nodes': towards routers, each other and etcd
  etcd.crt, .key          the etcd members', towards each other too
  operator.crt, .key      of the operator's commands (`seonchak init`, `status`, `drain`, `key`, `verify`, `backup` and
                          `restore`): at etcd and at the nodes

Callers of the API need none of it but ca.crt.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.roles import Role, uri_of
from cluster.tls import NODE_NAME
from ops.etcd import CLIENT_NAME, PEER_NAME

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

_CA_DAYS = 3_650
_SKEW = timedelta(minutes=5)
"""So much a clock may be behind ours and still believe a certificate that was just made."""


def make_certs(directory: Path, *, hosts: Sequence[str] = (), days: int = 365) -> bool:
    """Makes the CA, unless it is there, and every process's certificate anew: processes that run take them as they are.

    Args:
        hosts: names and addresses of this machine's routers and etcd members, besides the local ones.
        days: how long the certificates hold; the CA ten years.

    Returns:
        Whether the CA was made, too.

    Raises:
        OSError: the directory cannot be written, or holds half a CA.
        ValueError: it holds a CA that is none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = not (directory / "ca.key").exists()
    if made:
        key = ec.generate_private_key(ec.SECP256R1())
        _write(directory, "ca", _ca(key), key)
    ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    ca_key = load_pem_private_key((directory / "ca.key").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{directory / 'ca.key'} is not a key of ours")
    here = _names((*LOCAL_HOSTS, *hosts))
    etcd_client = x509.DNSName(CLIENT_NAME)
    subjects: dict[str, list[x509.GeneralName]] = {
        "router": [_role(Role.ROUTER), etcd_client, *here],
        "node": [_role(Role.NODE), etcd_client, x509.DNSName(NODE_NAME)],
        # etcd's own HTTP gateway is a client of etcd.
        "etcd": [etcd_client, x509.DNSName(PEER_NAME), *here],
        "operator": [_role(Role.OPERATOR), etcd_client],
    }
    for name, subject in subjects.items():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(directory, name, issue(ca, ca_key, key, name, subject, days=days), key)
    return made


def issue(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    subject: Iterable[x509.GeneralName],
    *,
    days: int,
) -> x509.Certificate:
    """A certificate for a server and a client."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(name, key, days)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName(subject), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _ca(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = "Seonchak development CA"
    return (
        _builder(name, key, _CA_DAYS)
        .issuer_name(_name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(name: str, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _role(role: Role) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(uri_of(role, role.value))


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _write(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Each file whole or not at all. Between the two, who reads them has no pair, and keeps what he had."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _replace(directory / f"{name}.key", pem, mode=0o600)
    _replace(directory / f"{name}.crt", certificate.public_bytes(Encoding.PEM), mode=0o644)


def _replace(path: Path, data: bytes, *, mode: int) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    fresh.replace(path)
