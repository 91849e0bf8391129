"""The authority of the link, kept in a Secret: its rotation."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness.folder import Json
from harness.plane import Operator, Plane
from harness.wait import until

#: How long a certificate of authority lives; at two thirds it gets a successor.
LIFE = timedelta(days=730)

#: By which a certificate is valid before it was made.
SKEW = timedelta(minutes=5)

#: Older than two thirds of its life.
DUE = timedelta(days=500)

PATH = "/api/v1/namespaces/{namespace}/{kind}/realm-link"


@dataclass(frozen=True)
class Root:
    """One certificate of authority."""

    name: str
    certificate: str
    key: str


def root(name: str, age: timedelta) -> Root:
    """One that was made so long ago."""
    made = datetime.now(UTC) - age
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - SKEW)
        .not_valid_after(made + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Root(name, pem.decode(), private.decode())


def keep(plane: Plane, roots: Sequence[Root]) -> None:
    """Makes these the authority that the next operator finds."""
    http = plane.cluster.admin.http
    for kind in ("secrets", "configmaps"):
        http.delete(PATH.format(namespace=plane.namespace, kind=kind))
    texts = {
        "ca.crt": "".join(each.certificate for each in roots),
        "ca.key": "".join(each.key for each in roots),
    }
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    metadata = {"name": "realm-link", "namespace": plane.namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    made = plane.cluster.admin.post(f"/api/v1/namespaces/{plane.namespace}/secrets", secret)
    assert made.is_success, made.text


def names(bundle: str) -> list[str]:
    """Whose certificates a bundle holds, oldest first."""
    found = x509.load_pem_x509_certificates(bundle.encode())
    return [common_name(each.subject) for each in found]


def common_name(name: x509.Name) -> str:
    """What a certificate calls somebody."""
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def data(plane: Plane, kind: str) -> Json:
    """What the Secret or the ConfigMap holds."""
    answer = plane.cluster.admin.http.get(PATH.format(namespace=plane.namespace, kind=kind))
    return answer.json()["data"] if answer.is_success else {}


def published(plane: Plane) -> list[str]:
    """Whom the agents are told to believe."""
    bundle = data(plane, "configmaps").get("ca.crt")
    return names(bundle) if bundle else []


def kept(plane: Plane) -> list[str]:
    """Whose keys the operator has kept."""
    return names(base64.b64decode(data(plane, "secrets")["ca.crt"]).decode())


def door_signed_by(operator: Operator, believed: Root) -> str:
    """Who signed the certificate of the agents' door, for somebody who believes one root alone."""
    context = ssl.create_default_context(cadata=believed.certificate)
    context.set_alpn_protocols(["h2"])

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", operator.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    until(listens, "the agents' door is open")
    with (
        socket.create_connection(("127.0.0.1", operator.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as stream,
    ):
        shown = stream.getpeercert(binary_form=True)
    assert shown is not None
    return common_name(x509.load_der_x509_certificate(shown).issuer)


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """An operator that finds an authority whose time has come."""
    keep(plane, [root("old", DUE)])
    return plane.operator("operator-0")


def restarted(plane: Plane, operator: Operator, roots: Sequence[Root]) -> None:
    """Lets the operator find another authority."""
    operator.daemon.kill()
    keep(plane, roots)
    operator.start()


def test_an_authority_whose_time_has_come_gets_a_successor_that_does_not_sign_yet(
    plane: Plane, operator: Operator
) -> None:
    old = root("first", DUE)
    restarted(plane, operator, [old])
    until(lambda: len(published(plane)) > 1, "the successor is handed out")
    assert published(plane)[0] == "first"
    assert kept(plane) == published(plane), "it is kept before anybody believes it"
    assert door_signed_by(operator, old) == "first", "who has not heard of the new one trusts on"


def test_a_successor_signs_once_everybody_has_it_and_the_old_one_is_believed_on(
    plane: Plane, operator: Operator
) -> None:
    old, new = root("before", DUE), root("after", timedelta(hours=2))
    restarted(plane, operator, [old, new])
    until(lambda: published(plane) == ["before", "after"], "both are believed")
    assert door_signed_by(operator, new) == "after"


def test_an_authority_goes_with_the_last_certificate_that_it_signed(
    plane: Plane, operator: Operator
) -> None:
    # It signed until an hour after it had a successor, and what it signs lives for a day.
    old, new = root("gone", DUE), root("alone", timedelta(hours=26))
    restarted(plane, operator, [old, new])
    until(lambda: published(plane) == ["alone"], "nobody needs the old one")
    assert kept(plane) == ["alone"]
    assert door_signed_by(operator, new) == "alone"
