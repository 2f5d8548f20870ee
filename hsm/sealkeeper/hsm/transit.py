"""Keys in the transit engine of HashiCorp Vault or OpenBao.

``transit://vault.example.com:8200/transit?auth=approle&role-id=ROLE&secret-id-source=file:/run/secrets/secret-id``

Each key pair is a transit key of its own and used in its version 1 alone: versions are the gateway's business. Names
begin with ``sealkeeper-``; what is named otherwise is never touched. API: https://openbao.org/api-docs/secret/transit/.
How to set a server up for it, with the policy that it needs: ``docs/providers/transit.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.backend import require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    KeyHandleError,
    PayloadError,
    ProviderError,
    ProviderPermissionError,
    ProviderUnavailableError,
    PublicKeyMismatchError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import (
    Diagnosis,
    KeyEvidence,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.hsm.transit_capabilities import capabilities_wanted, diagnoses_of
from sealkeeper.hsm.transit_connection import Answer, Connection, NoAnswerError, Verb, health_error, refusal
from sealkeeper.hsm.transit_login import Tokens
from sealkeeper.hsm.transit_uri import parse_transit_uri

PREFIX = "sealkeeper-"
_NAME = r"sealkeeper-[A-Za-z0-9_.-]{1,180}"
_HANDLE = re.compile(rf"name=({_NAME});version=([1-9][0-9]{{0,8}});x-algorithm=([A-Za-z0-9_]{{1,64}})")
_METHOD = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
_MAX_WRAPPED = 16 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
"""Most payload bytes of one request, unless one payload alone has more: servers take 32 MiB, in base64 and JSON."""
_PAUSES = (0.1, 0.4, 1.0)
_PATIENCE = 4.0
"""Seconds after which nothing is tried again."""
_KEEP_SECONDS = 30.0

_TYPES = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384", "secp521r1": "ecdsa-p521", "ed25519": "ed25519"}
_HASHES = {"sha256": "sha2-256", "sha384": "sha2-384", "sha512": "sha2-512"}
_OFFERED = frozenset(name for name, algorithm in ALGORITHMS.items() if algorithm.family != "ml-dsa")
_CLAIMS = (
    "type",
    "imported_key",
    "imported_key_allow_rotation",
    "exportable",
    "allow_plaintext_backup",
    "deletion_allowed",
    "soft_deleted",
    "derived",
    "latest_version",
    "min_available_version",
    "min_encryption_version",
    "auto_rotate_period",
)
# What OpenBao 2.7 says where it is the wrapped key that is at fault; its status is 500, as for faults of its own.
_UNWRAPPABLE = ("ciphertext", "importing key", "unwrap", "asn1", "parsing", "decrypt", "invalid", "base64", "kwp")


class TransitBackend:
    """One mount of a transit engine; several threads may use it.

    Args:
        uri: see ``transit_uri.py``.
        clock: seconds, never going back; by it the token is renewed.

    Raises:
        ProviderUriError: the URI is malformed.
        ProviderConfigurationError: a file cannot be used, or the server has no such mount, namespace or auth method.
        ProviderPermissionError: the server refuses the login, or the policy is too narrow.
        ProviderSealedError: the server is sealed.
        ProviderUnavailableError: the server does not answer.
    """

    concurrency = 16
    piece = 128

    def __init__(self, uri: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._uri = parse_transit_uri(uri)
        self._mount = self._uri.mount
        self._closed = Event()
        self._connection = Connection(self._uri, self.concurrency + 1)
        self._tokens = Tokens(self._connection, self._uri, clock)
        version = self._require_health()
        # Any name does: what counts is that the mount is there and the policy lets us look.
        self._read(f"{PREFIX}is-the-mount-there")
        self.info = ProviderInfo(
            "transit",
            f"transit engine {self._mount} at {self._uri.host}:{self._uri.port}, server version {version}",
            # Not HSM, whatever unseals the server: it signs in its own memory. Not SOFTWARE either, as that memory is
            # another machine's, and so its signatures are verified like those of any store that is not ours.
            ProtectionLevel.EXTERNAL,
            _OFFERED,
            wrap_methods=frozenset({_METHOD}),
        )
        # An idle gateway's token must not run out: one from a file is gone for good then.
        Thread(target=_keep, args=(self._tokens, self._closed), name="transit-token", daemon=True).start()

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a transit key that cannot be exported or backed up in clear."""
        name = f"{PREFIX}{label}-{secrets.token_hex(8)}"
        body = {"type": _type(algorithm), "exportable": False, "allow_plaintext_backup": False}
        try:
            answer = self._ask("post", f"keys/{name}", body, again=False)
            if answer.status in (200, 204):
                # Most versions answer with the key. A standby that lags behind may not know it yet.
                return self._key(name, algorithm, answer.data or self._existing(name))
        except ProviderError:
            # Whether it was made or not: nobody will know its name.
            with suppress(ProviderError):
                self._remove(name)
            raise
        if "unknown key type" in answer.errors:
            raise AlgorithmNotSupportedError(
                f"the transit server makes no keys for {algorithm.name}", next_step="bring the server up to date"
            )
        raise refusal(answer, self._uri, "make a key")

    def public_key(self, handle: str) -> ProviderKey:
        """Read the public key of the handle's version."""
        name, version, algorithm = _parse_handle(handle)
        return ProviderKey(handle, algorithm, _public(self._existing(name), version, algorithm))

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign the payloads, many in one request."""
        name, version, own = _parse_handle(handle)
        require_algorithm(own, algorithm)
        body = {"key_version": version, **_SIGNING[algorithm.family]}
        if algorithm.digest is not None:
            body |= {"prehashed": True, "hash_algorithm": _HASHES[algorithm.digest]}
        return [
            signature
            for batch in _batches(payloads, self.piece)
            for signature in self._sign(name, version, body, batch)
        ]

    def destroy(self, handle: str) -> None:
        """Allow the deletion of the transit key, then delete it with all its versions."""
        name, _, _ = _parse_handle(handle)
        self._remove(name)

    def check(self) -> None:
        """Ask the server how it is, and whether it knows the gateway's token."""
        self._require_health()
        answer = self._send("get", "auth/token/lookup-self")
        if answer.status != 200:
            raise refusal(answer, self._uri, "look up its own token")

    def diagnose(self) -> list[Diagnosis]:
        """Ask the server which capabilities the gateway's token has on the paths that the gateway uses."""
        wanted = capabilities_wanted(self._mount, f"{PREFIX}any")
        answer = self._send("post", "sys/capabilities-self", {"paths": sorted({one.path for one in wanted})})
        if answer.status not in (200, 403):
            raise refusal(answer, self._uri, "look up its own capabilities")
        return diagnoses_of(wanted, answer.data if answer.status == 200 else None, self._uri)

    def evidence(self, handle: str) -> KeyEvidence:
        """Read back what the engine says of the key. It is the server's word: there is no attestation."""
        name, version, algorithm = _parse_handle(handle)
        data = self._existing(name)
        _public(data, version, algorithm)
        claims = {claim: _text(data[claim]) for claim in _CLAIMS if claim in data}
        created = data["keys"][str(version)].get("creation_time")
        if isinstance(created, str):
            claims["creation_time"] = _text(created)
        imported = data.get("imported_key")
        origin = {True: Origin.IMPORTED, False: Origin.GENERATED}.get(imported) if isinstance(imported, bool) else None
        # A backup in clear gives the private key out just as an export does.
        ways_out = [data.get("exportable"), data.get("allow_plaintext_backup")]
        exportable = True if True in ways_out else False if ways_out == [False, False] else None
        return KeyEvidence(ProtectionLevel.EXTERNAL, origin or Origin.UNKNOWN, exportable, claims)

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Give the mount's wrapping key, which all imports share and which does not expire."""
        spki = self._wrapping_key()
        state = {
            "name": f"{PREFIX}{label}-{secrets.token_hex(8)}",
            "algorithm": algorithm.name,
            "wrapping_key": hashlib.sha256(spki).hexdigest(),
        }
        return WrappingKey(json.dumps(state).encode(), spki, (_METHOD,))

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Have the engine unwrap the key.

        Its name tells import, algorithm, wrapped key and public key. So whoever does not know how an import ended can
        repeat it: what has that name then is its outcome, and is not made twice.
        """
        base, wrapping_key = _parse_state(state, label, algorithm)
        if method is not _METHOD or not 0 < len(wrapped) <= _MAX_WRAPPED:
            raise WrappedKeyError(
                f"the transit engine takes keys wrapped by {_METHOD}, of at most {_MAX_WRAPPED} bytes",
                next_step=f"wrap the private key by {_METHOD}",
            )
        # Checked to be a key for the algorithm; and in one way of writing it, so that it can be compared.
        wanted = _spki(load_public_key(algorithm, public_key))
        parts = (algorithm.name.encode(), hashlib.sha256(wanted).digest(), wrapped)
        name = f"{base}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}"
        if self._read(name) is None:
            self._import(name, algorithm, wrapped, wrapping_key)
        try:
            key = self._key(name, algorithm, self._existing(name))
            if key.public_key == wanted:
                return key
            error: WrappedKeyError = PublicKeyMismatchError(
                "the wrapped private key does not belong to the public key that was named; it was removed",
                next_step="compare the fingerprints of both on the machine where the key was wrapped",
            )
        except (AlgorithmNotSupportedError, KeyHandleError):
            error = WrappedKeyError(f"what was wrapped is not a private key for {algorithm.name}; it was removed")
        # Nobody has its handle: what has this name is refused every time.
        self._remove(name)
        raise error

    def end_import(self, state: bytes) -> None:
        """Do nothing: the wrapping key is the mount's own, and a key that was brought is to stay."""

    def close(self) -> None:
        """Give the token back and close the connections."""
        if not self._closed.is_set():
            self._closed.set()
            self._tokens.forget()
        self._connection.close()

    def _require_health(self) -> str:
        """The server's version.

        Raises:
            ProviderError: it does not serve.
        """
        answer = self._connection.health()
        error = health_error(answer, self._uri)
        if error is not None:
            raise error
        version = answer.body.get("version")
        return version if isinstance(version, str) and re.fullmatch(r"[A-Za-z0-9.+-]{1,40}", version) else "unknown"

    def _send(self, verb: Verb, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request once; again where it turns out that only the token was at fault, as nothing was done then."""
        token = self._tokens.current()
        answer = self._connection.send(verb, path, body, token)
        if answer.status == 403 and self._tokens.replaced(token):
            answer = self._connection.send(verb, path, body, self._tokens.current())
        return answer

    def _ask(self, verb: Verb, path: str, body: dict[str, Any] | None = None, *, again: bool = True) -> Answer:
        """Send a request to the mount; ``again``: it may be done twice, so it is where it went wrong in passing."""
        give_up = time.monotonic() + _PATIENCE
        for pause in _PAUSES:
            try:
                answer = self._send(verb, f"{self._mount}/{path}", body)
                if not (again and answer.passing) or time.monotonic() > give_up:
                    return answer
            except NoAnswerError:
                if not again or time.monotonic() > give_up:
                    raise
            # Spread, so that those who failed together do not come back together.
            self._closed.wait(pause * secrets.SystemRandom().uniform(0.5, 1.0))
        return self._send(verb, f"{self._mount}/{path}", body)

    def _read(self, name: str) -> dict[str, Any] | None:
        """What the engine says of a transit key; ``None`` where there is none of the name."""
        answer = self._ask("get", f"keys/{name}")
        if answer.status == 200:
            return answer.data
        if answer.absent:
            return None
        raise refusal(answer, self._uri, "read a key")

    def _existing(self, name: str) -> dict[str, Any]:
        data = self._read(name)
        if data is None:
            raise _no_key()
        return data

    def _key(self, name: str, algorithm: Algorithm, data: dict[str, Any]) -> ProviderKey:
        """The transit key of a name, in its version 1."""
        handle = f"name={name};version=1;x-algorithm={algorithm.name}"
        return ProviderKey(handle, algorithm, _public(data, 1, algorithm))

    def _sign(self, name: str, version: int, body: dict[str, Any], batch: Sequence[bytes]) -> list[bytes]:
        inputs = [{"input": b64encode(payload).decode()} for payload in batch]
        answer = self._ask("post", f"sign/{name}", {**body, "batch_input": inputs})
        if answer.status == 413 or "too large" in answer.errors:
            raise PayloadError(
                "the transit server takes no payload of this length",
                next_step="raise max_request_size (Vault: and max_json_string_value_length) of its listener",
            )
        if answer.status in (400, 404):
            self._existing(name)
        if answer.status != 200:
            raise refusal(answer, self._uri, "sign")
        results = answer.data.get("batch_results")
        if not isinstance(results, list) or len(results) != len(batch):
            raise _nonsense("gives another number of signatures than it was asked for")
        return [_signature(result, version) for result in results]

    def _remove(self, name: str) -> None:
        answer = self._ask("post", f"keys/{name}/config", {"deletion_allowed": True})
        if answer.status in (200, 204):
            answer = self._ask("delete", f"keys/{name}")
        if answer.status not in (200, 204) and (answer.status not in (400, 404) or self._read(name) is not None):
            raise refusal(answer, self._uri, "delete a key")

    def _wrapping_key(self) -> bytes:
        answer = self._ask("get", "wrapping_key")
        if answer.status != 200:
            raise refusal(answer, self._uri, "read the wrapping key")
        spki = _der(answer.data.get("public_key"))
        key = serialization.load_der_public_key(spki)
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 3072:
            raise _nonsense("gives a wrapping key that is not an RSA key of 3072 bits or more")
        return spki

    def _import(self, name: str, algorithm: Algorithm, wrapped: bytes, wrapping_key: str) -> None:
        body = {
            "ciphertext": b64encode(wrapped).decode(),
            "hash_function": "SHA256",
            "type": _type(algorithm),
            "exportable": False,
            "allow_plaintext_backup": False,
            "allow_rotation": False,
        }
        answer = self._ask("post", f"keys/{name}/import", body, again=False)
        if answer.status in (200, 204) or self._imported_meanwhile(answer, name):
            return
        if answer.status in (400, 500) and any(word in answer.errors for word in _UNWRAPPABLE):
            if hashlib.sha256(self._wrapping_key()).hexdigest() != wrapping_key:
                raise ImportExpiredError(
                    "the transit engine has another wrapping key now", next_step="begin the import anew"
                )
            raise WrappedKeyError(
                f"the transit engine cannot unwrap the key, or it is not a private key for {algorithm.name}",
                next_step="wrap the private key (PKCS#8) again, for this import and by the method that it names",
            )
        raise refusal(answer, self._uri, "import a key")

    def _imported_meanwhile(self, answer: Answer, name: str) -> bool:
        """Whether the same import was under way already, and came first."""
        return answer.status in (400, 500) and self._read(name) is not None


_SIGNING: dict[str, dict[str, Any]] = {
    "ecdsa": {"marshaling_algorithm": "asn1"},
    "ed25519": {},
    "rsa-pkcs1v15": {"signature_algorithm": "pkcs1v15"},
    "rsa-pss": {"signature_algorithm": "pss", "salt_length": "hash"},
}


def _keep(tokens: Tokens, closed: Event) -> None:
    while not closed.wait(_KEEP_SECONDS):
        # Whoever needs the token next is told what is wrong.
        with suppress(ProviderError):
            tokens.current()


def _type(algorithm: Algorithm) -> str:
    if algorithm.name not in _OFFERED:
        raise AlgorithmNotSupportedError(f"the transit engine cannot do {algorithm.name}")
    return _TYPES.get(str(algorithm.parameter), f"rsa-{algorithm.parameter}")


def _no_key() -> KeyHandleError:
    return KeyHandleError(
        "the transit engine has no such key", next_step="see whether somebody deleted it: the server's audit log knows"
    )


def _nonsense(what: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        f"the transit server {what}",
        next_step="see whether a transit engine is at the mount, and nothing on the way there changes its answers",
    )


def _parse_handle(handle: str) -> tuple[str, int, Algorithm]:
    """Name, version and algorithm; the latter keeps an RSA key to the one padding that it was made for."""
    match = _HANDLE.fullmatch(handle)
    if match is None or match[3] not in _OFFERED:
        raise _no_key()
    return match[1], int(match[2]), ALGORITHMS[match[3]]


def _parse_state(state: bytes, label: str, algorithm: Algorithm) -> tuple[str, str]:
    """An import's name, and the fingerprint of the wrapping key that it was begun with."""
    try:
        content = json.loads(state) if len(state) <= 1024 else None
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and content.keys() == {"name", "algorithm", "wrapping_key"}:
        name, fingerprint = content["name"], content["wrapping_key"]
        of_label = isinstance(name, str) and re.fullmatch(rf"{PREFIX}{re.escape(label)}-[0-9a-f]{{16}}", name)
        if of_label and isinstance(fingerprint, str) and content["algorithm"] == algorithm.name:
            return name, fingerprint
    raise ImportExpiredError("this is no import into this transit engine", next_step="begin the import anew")


def _public(data: dict[str, Any], version: int, algorithm: Algorithm) -> bytes:
    """The public key of a version, DER, from what the engine says of a key.

    Raises:
        KeyHandleError: there is no such version, or the key is of another type.
        AlgorithmNotSupportedError: the public key is not one for the algorithm.
    """
    versions = data.get("keys")
    entry = versions.get(str(version)) if isinstance(versions, dict) else None
    if data.get("type") != _type(algorithm) or not isinstance(entry, dict):
        raise _no_key()
    spki = _der(entry.get("public_key"), raw=algorithm.family == "ed25519")
    load_public_key(algorithm, spki)
    return spki


def _der(text: object, *, raw: bool = False) -> bytes:
    """SubjectPublicKeyInfo from PEM, or from the 32 bytes of an Ed25519 key in base64 where it is ``raw``."""
    unreadable = _nonsense("gives a public key that cannot be read")
    if not isinstance(text, str):
        raise unreadable
    try:
        key: Any = (
            ed25519.Ed25519PublicKey.from_public_bytes(b64decode(text, validate=True))
            if raw
            else serialization.load_pem_public_key(text.encode())
        )
    except ValueError:
        raise unreadable from None
    return _spki(key)


def _spki(key: Any) -> bytes:
    spki: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki


def _batches(payloads: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for place, payload in enumerate(payloads):
        if place > start and (place - start == most or size + len(payload) > _BATCH_BYTES):
            yield payloads[start:place]
            start, size = place, 0
        size += len(payload)
    if start < len(payloads):
        yield payloads[start:]


def _signature(result: object, version: int) -> bytes:
    """One signature, ``vault:v1:`` and base64. A batch is answered with 200 even where all in it failed."""
    if not isinstance(result, dict):
        raise _nonsense("gives a signature that cannot be read")
    error = result.get("error")
    if error:
        raise _item_error(error if isinstance(error, str) else "")
    prefix, text = f"vault:v{version}:", result.get("signature")
    if isinstance(text, str) and text.startswith(prefix):
        with suppress(ValueError):
            return b64decode(text.removeprefix(prefix), validate=True)
    raise _nonsense("gives a signature that cannot be read")


def _item_error(text: str) -> ProviderError:
    if "higher than the latest" in text:
        return _no_key()
    if "soft-deleted" in text:
        return ProviderPermissionError(
            "the key was soft-deleted in the transit engine, which does not sign with it until it is restored",
            next_step="find out who did it and why; to restore it: bao write -f MOUNT/keys/NAME/soft-delete-restore",
        )
    if "version" in text:
        return ProviderPermissionError(
            "the transit engine does not let this version of the key sign",
            next_step="see min_encryption_version and min_available_version: bao read MOUNT/keys/NAME",
        )
    return ProviderUnavailableError(
        "the transit server refused to sign", next_step="look for the request in the server's audit log"
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "".join(character if " " <= character <= "~" else "?" for character in str(value))[:128]
