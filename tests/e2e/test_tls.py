"""The door with a certificate, and what is bound without one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from conftest import Serve
from harness.folder import Folder
from harness.server import ANY_PORT, Server, binary
from harness.talk import QUESTIONS, answer
from harness.wait import eventually
from realm_client import Backoff, Client, ConnectionLost, InsecureServer


class Files:
    """A certificate and its key on disk, and the authority that vouches for them."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"
        self.trust = self.renew()

    def renew(self) -> ssl.SSLContext:
        """A new certificate of a new authority, and a context that trusts it alone."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        return self.trust


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(serve: Serve, files: Files) -> Server:
    flags = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))

    def fill(folder: Folder) -> None:
        folder.tenant("acme")

    return serve(fill, *flags)


async def test_a_call_over_tls_is_answered_and_a_stranger_authority_is_not_believed(
    server: Server, files: Files
) -> None:
    assert server.url.startswith("wss://")
    assert server.http.startswith("https://")
    async with server.client("acme", ssl_context=files.trust) as client:
        assert await answer(client, QUESTIONS[0], max_tokens=2)
    with pytest.raises(InsecureServer):
        await server.client("acme").connect()
    plain = server.url.replace("wss://", "ws://")
    with pytest.raises(ConnectionLost):
        await Client(plain, server.folder.key("acme"), reconnect=Backoff(attempts_max=1)).connect()


async def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(
    server: Server, files: Files
) -> None:
    async def is_trusted(trust: ssl.SSLContext) -> bool:
        try:
            async with server.client("acme", ssl_context=trust):
                return True
        except InsecureServer:
            return False

    old = files.trust
    async with server.client("acme", ssl_context=old) as before:
        new = files.renew()
        await eventually(lambda: is_trusted(new), "the new certificate is shown")
        assert not await is_trusted(old)
        assert await answer(before, QUESTIONS[0], max_tokens=2), "open sockets stay"
        files.certificate.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
        await server.says("old TLS certificate stays in use")
        assert await is_trusted(new)


def test_without_tls_only_loopback_is_bound_unless_plaintext_is_asked_for(
    tmp_path: Path,
) -> None:
    flags = ["--listen", "0.0.0.0:0"]
    folder = Folder(tmp_path / "manifests")
    command = [binary(), "serve", str(folder.path), "--home", str(tmp_path), "--metrics", ANY_PORT]
    refused = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode != 0
    assert "loopback" in refused.stderr
    assert "listening" not in refused.stdout
    server = Server(folder, tmp_path, *flags, "--insecure-plaintext")
    try:
        assert server.start().url.startswith("ws://0.0.0.0:")
    finally:
        server.close()


def test_a_certificate_that_is_none_stops_the_start(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "manifests")
    files = Files(tmp_path)
    shutil.copy(files.key, files.certificate)
    command = [binary(), "serve", str(folder.path), "--home", str(tmp_path), "--listen", ANY_PORT]
    command += ["--metrics", ANY_PORT]
    command += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert str(files.certificate) in refused.stderr
