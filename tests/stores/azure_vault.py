"""Azure Key Vault and Managed HSM on loopback: the public REST API of keys, as far as the gateway uses it.

It really makes keys, signs and unwraps, by ``cryptography``; asks for tokens by Key Vault's challenges and issues them
as Entra ID does; keeps deleted keys until they are purged; and grants data actions. Sources: Key Vault keys REST API
2025-07-01, "Authentication, requests and responses", "Bring your own key specification", Azure's permissions for
Microsoft.KeyVault, Managed HSM local RBAC. What it cannot show is where Azure differs from its documents.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

API_VERSION = "2025-07-01"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "sesame-4711"
REGION = "germanywestcentral"
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVE_OF = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_MAX_REQUEST = 64 * 1024
# Operation, data action of a vault, data action of a Managed HSM.
_ACTIONS = {
    "list": ("keys/read", "keys/read/action"),
    "get": ("keys/read", "keys/read/action"),
    "attestation": ("keys/read", "keys/read/action"),
    "create": ("keys/create/action", "keys/create"),
    "import": ("keys/import/action", "keys/import/action"),
    "sign": ("keys/sign/action", "keys/sign/action"),
    "delete": ("keys/delete", "keys/delete"),
    "get deleted": ("keys/read", "keys/deletedKeys/read/action"),
    "purge": ("keys/purge/action", "keys/deletedKeys/delete"),
}
_ROUTES = [
    ("GET", re.compile(r"/keys"), "list"),
    ("POST", re.compile(r"/keys/([0-9A-Za-z-]{1,127})/create"), "create"),
    ("PUT", re.compile(r"/keys/([0-9A-Za-z-]{1,127})"), "import"),
    ("GET", re.compile(r"/keys/([0-9A-Za-z-]{1,127})/([0-9a-zA-Z]*)"), "get"),
    ("GET", re.compile(r"/keys/([0-9A-Za-z-]{1,127})/([0-9a-zA-Z]*)/attestation"), "attestation"),
    ("POST", re.compile(r"/keys/([0-9A-Za-z-]{1,127})/([0-9a-zA-Z]+)/sign"), "sign"),
    ("DELETE", re.compile(r"/keys/([0-9A-Za-z-]{1,127})"), "delete"),
    ("GET", re.compile(r"/deletedkeys/([0-9A-Za-z-]{1,127})"), "get deleted"),
    ("DELETE", re.compile(r"/deletedkeys/([0-9A-Za-z-]{1,127})"), "purge"),
]
_numbers = count()


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, inner: str = "") -> None:
        super().__init__(code)
        self.status = status
        error: dict[str, Any] = {"code": code, "message": f"{code}: a text with token=sesame-4711 in it"}
        self.document = {"error": error | ({"innererror": {"code": inner}} if inner else {})}


@dataclass
class Answer:
    """What a test has the store say in place of its own answer."""

    status: int
    document: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Key:
    """A key with its one version."""

    name: str
    version: str
    kty: str
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    operations: list[str]
    attributes: dict[str, Any]
    tags: dict[str, str]
    unseen: int = 0


class Vault:
    """The store's state, and what a test can change of it.

    Attributes:
        actions: data actions that were used.
        denied: data actions that are not granted.
        asked: operations, in their order.
        answers: said in place of what the next operations would answer, first come first served.
        change: changes a document before it goes out; gets the operation's name.
        lag: how often a deleted key cannot be found yet.
        purge_protection: nothing is purged.
        tokens: that are taken.
        logins: what was sent to log in.
        login_answers: said in place of what the next logins would be answered.
        resource: that the challenge names.
    """

    def __init__(self, directory: Path, *, managed_hsm: bool, standard: bool) -> None:
        self.managed_hsm, self.standard = managed_hsm, standard
        self.keys: dict[str, Key] = {}
        self.deleted: dict[str, Key] = {}
        self.actions: set[str] = set()
        self.denied: set[str] = set()
        self.asked: list[str] = []
        self.answers: deque[Answer] = deque()
        self.change: Callable[[str, dict[str, Any]], Any] = lambda _, document: document
        self.lag = 0
        self.purge_protection = False
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.tokens = {secrets.token_urlsafe(32)}
        self.logins: list[dict[str, str]] = []
        self.login_answers: deque[Answer] = deque()
        self.token_file = directory / "token"
        self.token_file.write_text(f"{next(iter(self.tokens))}\n")
        self.token_file.chmod(0o600)
        self.ca_file = directory / "ca.pem"
        self.port = 0
        self.resource = ""
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def uri(self, auth: str = "", more: str = "") -> str:
        kind = "managed-hsm" if self.managed_hsm else "vault"
        auth = auth or f"auth=token&token-source=file:{self.token_file}"
        return f"azurekv://{self.host}?kind={kind}&ca-file={self.ca_file}&{auth}{more}"

    def do(self, operation: str, names: tuple[str, ...], body: dict[str, Any]) -> dict[str, Any] | None:
        """Do what an authenticated caller asks for."""
        kind = 1 if self.managed_hsm else 0
        prefix = ("Microsoft.KeyVault/vaults/", "Microsoft.KeyVault/managedHsm/")[kind]
        action = prefix + _ACTIONS[operation][kind]
        with self._lock:
            self.asked.append(operation)
            if action in self.denied:
                raise RefusedError(403, "Forbidden", "ForbiddenByRbac")
            self.actions.add(action)
            match operation:
                case "list":
                    return {"value": [{"kid": self._kid(key), "attributes": key.attributes} for key in self._some()]}
                case "create":
                    return self._create(names[0], body)
                case "import":
                    return self._import(names[0], body)
                case "get":
                    return self._bundle(self._key(*names))
                case "attestation":
                    return self._attested(self._key(*names))
                case "delete":
                    return self._delete(self._key(names[0]))
                case "get deleted":
                    return self._deleted(names[0])
                case "purge":
                    self._purge(names[0])
                    return None
            key = self._key(*names)
        return {"kid": self._kid(key), "value": _text(self._sign(key, body))}

    def _some(self) -> list[Key]:
        return list(self.keys.values())[:1]

    def _kid(self, key: Key) -> str:
        return f"https://{self.host}/keys/{key.name}/{key.version}"

    def _key(self, name: str, version: str = "") -> Key:
        key = self.keys.get(name)
        if key is None or version not in ("", key.version):
            raise RefusedError(404, "KeyNotFound")
        return key

    def _bundle(self, key: Key) -> dict[str, Any]:
        public = key.private.public_key()
        jwk: dict[str, Any] = {"kid": self._kid(key), "kty": key.kty, "key_ops": key.operations}
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            jwk |= {"n": _number(numbers.n, public.key_size // 8), "e": _number(numbers.e, 3)}
        else:
            point, size = public.public_numbers(), (public.key_size + 7) // 8
            [crv] = [name for name, curve in _CURVES.items() if curve.name == public.curve.name]
            jwk |= {"crv": crv, "x": _number(point.x, size), "y": _number(point.y, size)}
        return {"key": jwk, "attributes": key.attributes, "tags": key.tags}

    def _create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        kty = str(body.get("kty"))
        private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if kty.startswith("EC"):
            private = ec.generate_private_key(_CURVES[body.get("crv", "P-256")])
        elif kty.startswith("RSA") and body.get("key_ops") == ["import"]:
            private = _wrapping_key(next(_numbers) % 2, int(body["key_size"]))
        elif kty.startswith("RSA"):
            private = rsa.generate_private_key(65537, int(body["key_size"]))
        else:
            raise RefusedError(400, "BadParameter")
        return self._keep(name, kty, private, body.get("key_ops"), body)

    def _keep(
        self,
        name: str,
        kty: str,
        private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
        operations: list[str] | None,
        body: dict[str, Any],
    ) -> dict[str, Any]:
        if kty.endswith("-HSM") == self.standard and not (self.managed_hsm and kty.endswith("-HSM")):
            # A Premium vault would make keys in software as well: nothing here asks for them by mistake.
            raise RefusedError(400, "BadParameter")
        if name in self.deleted:
            raise RefusedError(409, "Conflict", "ObjectIsDeletedButRecoverable")
        now = int(self.now().timestamp())
        attributes = {"enabled": True, "created": now, "updated": now, "recoveryLevel": self._level()}
        attributes |= {"recoverableDays": 90, "exportable": False} | (body.get("attributes") or {})
        if self.managed_hsm:
            attributes["hsmPlatform"] = "2"
        key = Key(name, secrets.token_hex(16), kty, private, operations or ["sign"], attributes, body.get("tags") or {})
        self.keys[name] = key
        return self._bundle(key)

    def _level(self) -> str:
        return "Recoverable" if self.purge_protection else "Recoverable+Purgeable"

    def _import(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        jwk = body["key"]
        if body.get("Hsm") is not True and body.get("hsm") is not True:
            raise RefusedError(400, "BadParameter")
        blob = json.loads(_bytes(jwk["key_hsm"]))
        assert blob["schema_version"] == "1.0.0"
        assert blob["header"]["alg"] == "dir"
        assert blob["header"]["enc"] == "CKM_RSA_AES_KEY_WRAP"
        found = re.fullmatch(rf"https://{re.escape(self.host)}/keys/([^/]+)/([^/]+)", blob["header"]["kid"])
        if not found:
            raise RefusedError(400, "BadParameter")
        wrapping = self._key(found[1], found[2])
        if wrapping.operations != ["import"]:
            raise RefusedError(403, "Forbidden", "KeyOperationForbidden")
        self._require_valid(wrapping)
        private = _unwrap(wrapping.private, _bytes(blob["ciphertext"]))
        fits = (
            jwk["kty"] == "RSA-HSM" and private.key_size in (2048, 3072, 4096)
            if isinstance(private, rsa.RSAPrivateKey)
            else jwk["kty"] == "EC-HSM" and private.curve.name == _CURVES[jwk["crv"]].name
        )
        if not fits:
            raise RefusedError(400, "BadParameter")
        return self._keep(name, jwk["kty"], private, jwk.get("key_ops"), body)

    def _require_valid(self, key: Key) -> None:
        if not key.attributes["enabled"]:
            raise RefusedError(403, "Forbidden", "KeyDisabled")
        if key.attributes.get("exp", 2**40) <= self.now().timestamp():
            raise RefusedError(403, "Forbidden", "KeyExpired")

    def _sign(self, key: Key, body: dict[str, Any]) -> bytes:
        self._require_valid(key)
        if "sign" not in key.operations:
            raise RefusedError(403, "Forbidden", "KeyOperationForbidden")
        algorithm, digest = str(body["alg"]), _bytes(body["value"])
        chosen = _HASHES.get(algorithm[2:])
        if chosen is None or len(digest) != chosen.digest_size:
            raise RefusedError(400, "BadParameter")
        if isinstance(key.private, ec.EllipticCurvePrivateKey):
            if key.private.curve.name != _CURVES[_CURVE_OF.get(algorithm, "P-521")].name:
                raise RefusedError(400, "BadParameter")
            r, s = utils.decode_dss_signature(key.private.sign(digest, ec.ECDSA(utils.Prehashed(chosen))))
            size = (key.private.key_size + 7) // 8
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        scheme: padding.AsymmetricPadding
        match algorithm[:2]:
            case "RS":
                scheme = padding.PKCS1v15()
            case "PS":
                scheme = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
            case _:
                raise RefusedError(400, "BadParameter")
        return key.private.sign(digest, scheme, utils.Prehashed(chosen))

    def _attested(self, key: Key) -> dict[str, Any]:
        if not self.managed_hsm:
            raise RefusedError(400, "BadParameter")
        bundle = self._bundle(key)
        statement = json.dumps({"kid": self._kid(key), "extractable": False}).encode()
        attestor, certificate = _attestor()
        signed = attestor.sign(statement, ec.ECDSA(hashes.SHA256()))
        attestation = {
            "certificatePemFile": _text(certificate),
            "privateKeyAttestation": _text(statement + b"\n" + signed),
            "publicKeyAttestation": _text(b"public"),
            "version": "1.0",
        }
        return bundle | {"attributes": bundle["attributes"] | {"attestation": attestation}}

    def _delete(self, key: Key) -> dict[str, Any]:
        del self.keys[key.name]
        self.deleted[key.name] = key
        key.unseen = self.lag
        key.attributes["recoveryLevel"] = self._level()
        return self._deleted_bundle(key)

    def _deleted_bundle(self, key: Key) -> dict[str, Any]:
        return self._bundle(key) | {
            "recoveryId": f"https://{self.host}/deletedkeys/{key.name}",
            "deletedDate": int(time.time()),
            "scheduledPurgeDate": int(time.time()) + 90 * 86400,
        }

    def _deleted(self, name: str) -> dict[str, Any]:
        key = self.deleted.get(name)
        if key is not None and key.unseen:
            key.unseen -= 1
            key = None
        if key is None:
            raise RefusedError(404, "KeyNotFound")
        return self._deleted_bundle(key)

    def _purge(self, name: str) -> None:
        if name not in self.deleted:
            raise RefusedError(404, "KeyNotFound")
        if self.purge_protection:
            raise RefusedError(403, "Forbidden", "PurgeProtected")
        del self.deleted[name]

    def issue_to_machine(self, query: dict[str, str]) -> dict[str, Any]:
        """A token as the instance metadata service issues it."""
        self.logins.append(query)
        if query.get("resource") != self.resource or query.get("client_id", CLIENT) != CLIENT:
            raise RefusedError(400, "invalid_request")
        token = secrets.token_urlsafe(32)
        self.tokens.add(token)
        return {"access_token": token, "expires_in": "3600", "resource": self.resource, "token_type": "Bearer"}

    def issue(self, form: dict[str, str]) -> dict[str, Any]:
        """A token as Entra ID issues it for client credentials."""
        self.logins.append(form)
        secret_fits = form.get("client_secret") == CLIENT_SECRET
        if form.get("client_id") != CLIENT or not (secret_fits or form.get("client_assertion")):
            raise RefusedError(401, "invalid_client")
        if form.get("scope") != f"{self.resource}/.default":
            raise RefusedError(400, "invalid_scope")
        token = secrets.token_urlsafe(32)
        self.tokens.add(token)
        return {"token_type": "Bearer", "expires_in": 3600, "access_token": token}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer goes out at once, and not its head first.
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    timeout = 30
    vault: Vault

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > _MAX_REQUEST:
            self.close_connection = True
            return
        body = self.rfile.read(length)
        try:
            status, document, headers = self._find(urlsplit(self.path), body)
        except RefusedError as refused:
            status, document, headers = refused.status, refused.document, {}
        except (KeyError, ValueError, TypeError, AssertionError):
            status, document, headers = 400, RefusedError(400, "BadParameter").document, {}
        content = (
            document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
        )
        self.send_response(status)
        common = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (common | {"x-ms-keyvault-region": REGION} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _find(self, url: Any, body: bytes) -> tuple[int, Any, dict[str, str]]:
        vault = self.vault
        login = url.path.startswith((f"/{TENANT}/", "/metadata/identity/"))
        if login and vault.login_answers:
            said = vault.login_answers.popleft()
            return said.status, said.document, said.headers
        if url.path == "/metadata/identity/oauth2/token":
            assert self.headers["Metadata"] == "true"
            return 200, vault.issue_to_machine({name: one[0] for name, one in parse_qs(url.query).items()}), {}
        if url.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            place = f"https://{vault.host}/{TENANT}"
            endpoints = {"authorization_endpoint": f"{place}/authorize", "token_endpoint": f"{place}/oauth2/v2.0/token"}
            return 200, {**endpoints, "issuer": f"{place}/v2.0"}, {}
        if url.path == f"/{TENANT}/oauth2/v2.0/token":
            return 200, vault.issue({name: value[0] for name, value in parse_qs(body.decode()).items()}), {}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in vault.tokens:
            assert token or not body, "no content goes out before the store was asked who it trusts"
            challenge = f'Bearer authorization="https://{vault.host}/{TENANT}", resource="{vault.resource}"'
            return 401, RefusedError(401, "Unauthorized").document, {"WWW-Authenticate": challenge}
        if parse_qs(url.query).get("api-version") != [API_VERSION]:
            raise RefusedError(400, "BadParameter")
        for method, route, operation in _ROUTES:
            if method == self.command and (
                found := route.fullmatch(url.path.rstrip("/") if route is _ROUTES[0][1] else url.path)
            ):
                return self._do(operation, found.groups(), body)
        raise RefusedError(404, "NotFound")

    def _do(self, operation: str, names: tuple[str, ...], body: bytes) -> tuple[int, Any, dict[str, str]]:
        vault = self.vault
        if vault.answers:
            said = vault.answers.popleft()
            vault.asked.append(f"{operation}: {said.status}")
            return said.status, said.document, said.headers
        document = vault.do(operation, names, json.loads(body) if body else {})
        if document is None:
            return 204, None, {}
        return 200, vault.change(operation, document), {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of ours to report."""


@cache
def _wrapping_key(_number: int, size: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, size)


@cache
def _attestor() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, _certificate(private, "Attestation")


def _certificate(private: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return built.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _unwrap(
    wrapping: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, blob: bytes
) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    assert isinstance(wrapping, rsa.RSAPrivateKey)
    size = wrapping.key_size // 8
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    try:
        key = wrapping.decrypt(blob[:size], oaep)
        private = serialization.load_der_private_key(keywrap.aes_key_unwrap_with_padding(key, blob[size:]), None)
    except (ValueError, keywrap.InvalidUnwrap):
        raise RefusedError(400, "BadParameter") from None
    if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise RefusedError(400, "BadParameter")
    return private


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int) -> str:
    return _text(value.to_bytes(size, "big"))


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextmanager
def running_vault(directory: Path, *, managed_hsm: bool = False, standard: bool = False) -> Iterator[Vault]:
    """A store at a free port: a Premium vault unless told otherwise."""
    vault = Vault(directory, managed_hsm=managed_hsm, standard=standard)
    private = ec.generate_private_key(ec.SECP256R1())
    vault.ca_file.write_bytes(_certificate(private, "127.0.0.1"))
    key_file = directory / "tls-key.pem"
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(private.private_bytes(*pem))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(vault.ca_file, key_file)
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"vault": vault})) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        vault.port = server.server_address[1]
        # The SDK takes a challenge only for a parent of the host it talks to, so that this one has to have one.
        vault.resource = f"https://0.0.1:{vault.port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def azure_vault(directory: Path) -> Iterator[str]:
    """The URI of a Premium vault."""
    with running_vault(directory) as vault:
        yield vault.uri()
