"""Wraps a private key for a key store, on a machine that is connected to nothing::

    python3 wrap.py PRIVATE_KEY.pem -o wrapped.json

``wrap.py`` is this very file with an import document in it, as ``sealkeeper keys import begin --offline-tool wrap.py``
writes it: all that has to be carried over. It needs Python 3.9 and ``cryptography`` 38 (python3-cryptography in Debian
12) and nothing else, opens no connection, and writes one file: the private key wrapped, so that nobody can read it but
the store whose wrapping key the import document holds. Compare fingerprints before you carry it back.

Python cannot wipe memory: until the machine is switched off, the private key may be left in it.

Sources: RFC 8017 section 7.1 (RSAES-OAEP), RFC 5649 (AES key wrap with padding), RFC 5958 (PKCS#8), FIPS 186-5 section
A.1.1 (RSA public exponents).
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import inspect
import json
import os
import re
import secrets
import stat
import sys
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:
    mldsa = None  # type: ignore[assignment]  # before cryptography 47

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

IMPORT_FORMAT = "sealkeeper-key-import/1"
WRAPPED_FORMAT = "sealkeeper-wrapped-key/1"
WRAP_METHODS = ("RSA_OAEP_SHA256", "RSA_OAEP_SHA256_AES_256_KWP", "RSA_OAEP_SHA1_AES_256_KWP")
# The import document, in the file that is carried over.
_EMBEDDED = ""

_MAX_DOCUMENT = 256 * 1024
_MAX_KEY_FILE = 64 * 1024
_MAX_PASSPHRASE = 4096
_MAX_PEM = 4096
_MAX_ATTESTATION = 32 * 1024
_MAX_CERTIFICATES = 16
_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_IMPORT_NAME = re.compile(rf"tenants/({_ID})/keyImports/{_ID}")
_KEY_NAME = re.compile(rf"tenants/({_ID})/keys/{_ID}")
_PRINTABLE = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?Z")
_FIELDS = {"format", "name", "key", "algorithm", "wrappingKey", "wrapMethods", "expireTime", "attestation"}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KINDS = {
    "PKIX_ECDSA_P256_SHA_256": "an elliptic curve key on P-256",
    "PKIX_ECDSA_P384_SHA_384": "an elliptic curve key on P-384",
    "PKIX_ECDSA_P521_SHA_512": "an elliptic curve key on P-521",
    "PKIX_ED25519": "an Ed25519 key",
    **{f"PKIX_RSA_PKCS1V15_{bits}_SHA256": f"an RSA key of {bits} bits" for bits in (2048, 3072, 4096)},
    **{f"PKIX_RSA_PSS_{bits}_SHA256": f"an RSA key of {bits} bits" for bits in (2048, 3072, 4096)},
    **{f"ML_DSA_{size}": f"an ML-DSA-{size} key" for size in (44, 65, 87)},
}


class KeyWrappingError(Exception):
    """A key is not wrapped; the text says why, and holds no secret."""


class PassphraseNeededError(KeyWrappingError):
    """The private key is encrypted, and no passphrase was given."""


@dataclass(frozen=True)
class Attestation:
    """A store's signed statement about its wrapping key, for whoever can check it against the vendor's root.

    Attributes:
        format: as the vendor names it.
        content: the statement.
        certificates: that it is signed with, DER.
    """

    format: str
    content: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class ImportDocument:
    """What a custodian needs to wrap a private key for one import.

    Attributes:
        name: ``tenants/{tenant}/keyImports/{import}``.
        key: ``tenants/{tenant}/keys/{key}`` that gets the private key.
        algorithm: that it is to sign by, as in Sigstore's ``PublicKeyDetails``.
        wrapping_key: the store's, RSA; SubjectPublicKeyInfo, DER.
        wrap_methods: that the store accepts, the best first.
        expire_time: until when the import can be finished, UTC.
        attestation: that the wrapping key lives in hardware; ``None`` where there is none.
    """

    name: str
    key: str
    algorithm: str
    wrapping_key: bytes
    wrap_methods: tuple[str, ...]
    expire_time: datetime
    attestation: Attestation | None


def parse_import_document(content: bytes) -> ImportDocument:
    """Read an import document.

    Raises:
        KeyWrappingError: naming the field that is wrong.
    """
    document = _json_object(content)
    if document.get("format") != IMPORT_FORMAT:
        raise KeyWrappingError(f"the import document is not one of format {IMPORT_FORMAT}")
    if set(document) != _FIELDS:
        raise KeyWrappingError(f"the import document must have these fields: {', '.join(sorted(_FIELDS))}")
    name, key = _text(document, "name", _IMPORT_NAME), _text(document, "key", _KEY_NAME)
    if name.split("/")[1] != key.split("/")[1]:
        raise _bad("name", "and key are of different tenants")
    algorithm = _text(document, "algorithm", _PRINTABLE)
    if algorithm not in _KINDS:
        raise _bad("algorithm", "is not one that is known here")
    methods = document["wrapMethods"]
    if not isinstance(methods, list) or not methods or len(methods) > len(WRAP_METHODS):
        raise _bad("wrapMethods", f"must be a list of 1 to {len(WRAP_METHODS)} methods")
    if any(method not in WRAP_METHODS for method in methods) or len(set(methods)) != len(methods):
        raise _bad("wrapMethods", f"may have each of these once: {', '.join(WRAP_METHODS)}")
    return ImportDocument(
        name=name,
        key=key,
        algorithm=algorithm,
        wrapping_key=_wrapping_key(document["wrappingKey"]),
        wrap_methods=tuple(methods),
        expire_time=_time(document["expireTime"]),
        attestation=_attestation(document["attestation"]),
    )


def load_private_key(content: bytes, passphrase: bytes | None = None) -> PrivateKeyTypes:
    """Read a private key: PKCS#8 as PEM or DER, encrypted or not; or PEM in the older forms (SEC 1, PKCS#1).

    Raises:
        PassphraseNeededError: it is encrypted, and there is no passphrase.
        KeyWrappingError: it is damaged or of a kind unknown here, the passphrase is wrong, or it needs none.
    """
    if len(content) > _MAX_KEY_FILE:
        raise KeyWrappingError(f"the private key file is longer than {_MAX_KEY_FILE} bytes")
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in content:
        raise KeyWrappingError("the private key is in OpenSSH's format; convert a copy: ssh-keygen -p -m PKCS8 -f COPY")
    load = serialization.load_pem_private_key if b"-----BEGIN " in content else serialization.load_der_private_key
    try:
        return load(content, passphrase)
    except TypeError:
        if passphrase is None:
            raise PassphraseNeededError("the private key is encrypted: its passphrase is needed") from None
        raise KeyWrappingError("a passphrase was given, but the private key is not encrypted") from None
    except UnsupportedAlgorithm:
        raise KeyWrappingError(
            "the private key is of a kind, or encrypted in a way, that this machine's cryptography does not know"
        ) from None
    except ValueError:
        what = "the passphrase is wrong, or the private key" if passphrase is not None else "the private key"
        raise KeyWrappingError(
            f"{what} is damaged, not in PEM or in DER (PKCS#8), or of a kind that this machine's cryptography "
            f"({cryptography.__version__}) does not know"
        ) from None


def check_private_key(key: PrivateKeyTypes, algorithm: str) -> None:
    """Refuse a private key that is not one for an algorithm, or a weak one as far as can be told here.

    Raises:
        KeyWrappingError: saying what it is and what it should be.
    """
    wanted, found = _KINDS.get(algorithm), _kind(key)
    if wanted is None:
        raise KeyWrappingError("the algorithm is not one that is known here")
    if found != wanted:
        raise KeyWrappingError(f"{algorithm} needs {wanted}; the private key is {found}")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        # The public key that stands beside the private one need not be its own.
        own = ec.derive_private_key(key.private_numbers().private_value, key.curve)
        if own.public_key().public_numbers() != key.public_key().public_numbers():
            raise KeyWrappingError("the public key that stands beside the private one is not its own")
    if isinstance(key, rsa.RSAPrivateKey):
        _check_exponent(key.public_key(), "the private key")


def wrap(
    document: ImportDocument, private_key: PrivateKeyTypes, now: datetime | None = None, method: str | None = None
) -> bytes:
    """Wrap a private key for an import.

    Args:
        document: the import's.
        private_key: in clear.
        now: the time, with its zone; that of this machine's clock where there is none.
        method: one of the import's; where there is none, the first of them that can be used.

    Returns:
        The wrapped document, JSON.

    Raises:
        KeyWrappingError: the import's time is up, it has no such method, or the key is not one for its algorithm.
    """
    utc = timezone.utc  # noqa: UP017  (Python 3.9)
    now = (now or datetime.now(utc)).astimezone(utc)
    if now >= document.expire_time:
        raise KeyWrappingError(
            f"the import's time was up at {document.expire_time:%Y-%m-%d %H:%M:%S} UTC, and it is "
            f"{now:%Y-%m-%d %H:%M:%S} by this machine's clock: begin another import, or set the clock right"
        )
    check_private_key(private_key, document.algorithm)
    if method is not None and method not in document.wrap_methods:
        raise KeyWrappingError(f"the import accepts {' and '.join(document.wrap_methods)} only")
    pkcs8 = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for candidate in document.wrap_methods if method is None else [method]:
        wrapped = _wrapped(document.wrapping_key, candidate, pkcs8)
        if wrapped is not None:
            return _wrapped_document(document, private_key, candidate, wrapped)
    raise KeyWrappingError("the private key is too long for the import's wrapping key and methods")


def fingerprint(public_key: bytes) -> str:
    """The fingerprint of a public key (SubjectPublicKeyInfo, DER): ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(public_key).hexdigest()}"


def spoken(text: str) -> str:
    """A fingerprint in groups of four digits, to be read out."""
    digits = text.rpartition(":")[2]
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def passphrase_prompt(document: ImportDocument) -> str:
    """What to ask for a passphrase with: whose wrapping key it is, can be told before the private key is opened."""
    shown = spoken(fingerprint(document.wrapping_key))
    return f"Wrapping key of the store, SHA-256:\n  {shown}\nPassphrase of the private key: "


def standalone(import_document: bytes) -> str:
    """The text of a Python file that wraps a private key for one import: this file, with the document in it.

    Raises:
        KeyWrappingError: the document is wrong.
    """
    parse_import_document(import_document)
    # ASCII throughout, as json.dumps escapes the rest: nothing in it can end the string or the line early.
    embedded = repr(json.dumps(json.loads(import_document)))
    before, place, after = inspect.getsource(sys.modules[__name__]).partition('\n_EMBEDDED = ""\n')
    if not place:
        raise KeyWrappingError("this is an offline tool already; sealkeeper keys import begin makes another")
    return f"{before}\n_EMBEDDED = {embedded}\n{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Wrap a private key for the embedded import document; the exit code, 0 or 2."""
    parser = argparse.ArgumentParser(
        description="Wraps a private key for a key store, on a machine that is connected to nothing."
    )
    parser.add_argument("private_key", metavar="PRIVATE_KEY", type=Path, help="PEM, or DER (PKCS#8)")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="to carry back; must not be there yet"
    )
    parser.add_argument(
        "--passphrase-file", metavar="FILE", type=Path, help="of an encrypted private key; without it you are asked"
    )
    parser.add_argument("--method", choices=WRAP_METHODS, help="to wrap by; without it, the first that can be used")
    options = parser.parse_args(arguments)
    try:
        document = _embedded_document()
        key = _private_key(options.private_key, options.passphrase_file, passphrase_prompt(document))
        wrapped = wrap(document, key, method=options.method)
        _write_new(options.output, wrapped)
    except KeyWrappingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(_report(document, json.loads(wrapped), options.output))
    return 0


def _report(document: ImportDocument, wrapped: dict[str, str], output: Path) -> str:
    shown = "comes with an attestation" if document.attestation else "comes without an attestation"
    return f"""\
Wrapped by {wrapped["wrapMethod"]} for {document.key} ({document.algorithm}), {document.name}.

Wrapping key of the store ({shown}), SHA-256:
  {spoken(fingerprint(document.wrapping_key))}
Public key of the private key that was wrapped, SHA-256:
  {spoken(wrapped["fingerprint"])}

Next:
 1. Have somebody read the first fingerprint out to you from where the import was begun, by telephone or in person. If
    it differs, destroy {output}: somebody else could unwrap it.
 2. Write the second one down for whoever finishes the import, and hand them the public key by another way.
 3. Carry {output} back, and finish there before {document.expire_time:%Y-%m-%d %H:%M:%S} UTC:
    sealkeeper keys import finish {output.name} --public-key PUBLIC_KEY.pem
 4. Switch this machine off: the private key may be left in its memory until then.
"""


def _embedded_document() -> ImportDocument:
    if not _EMBEDDED:
        raise KeyWrappingError("there is no import in this file: sealkeeper keys import begin --offline-tool makes one")
    return parse_import_document(_EMBEDDED.encode())


def _json_object(content: bytes) -> dict[str, Any]:
    if len(content) > _MAX_DOCUMENT:
        raise KeyWrappingError(f"the import document is longer than {_MAX_DOCUMENT} bytes")
    try:
        document = json.loads(content.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KeyWrappingError("the import document is not a JSON object, or has a field twice")
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _bad(field: str, why: str) -> KeyWrappingError:
    return KeyWrappingError(f"the import document's {field} {why}")


def _text(document: dict[str, Any], field: str, pattern: re.Pattern[str]) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _bad(field, "is missing or malformed")
    return value


def _wrapping_key(pem: object) -> bytes:
    if not isinstance(pem, str) or len(pem) > _MAX_PEM or pem.count("-----BEGIN ") != 1:
        raise _bad("wrappingKey", "must be one public key, PEM")
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        raise _bad("wrappingKey", "is not a public key, PEM") from None
    if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 8192:
        raise _bad("wrappingKey", "must be an RSA key of 2048 to 8192 bits")
    _check_exponent(key, "the import document's wrappingKey")
    return _spki(key)


def _check_exponent(key: rsa.RSAPublicKey, what: str) -> None:
    exponent = key.public_numbers().e
    if exponent % 2 == 0 or not 2**16 < exponent < 2**256:
        raise KeyWrappingError(f"{what} is weak: its public exponent is not an odd number between 2^16 and 2^256")


def _time(text: object) -> datetime:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        if match is not None:
            return datetime.strptime(f"{match[1]}+0000", "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        pass
    raise _bad("expireTime", "must be a time in UTC such as 2026-11-26T00:00:00Z")


def _attestation(value: object) -> Attestation | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"format", "content", "certificates"}:
        raise _bad("attestation", "must be null, or have format, content and certificates")
    certificates = value["certificates"]
    if not isinstance(certificates, list) or len(certificates) > _MAX_CERTIFICATES:
        raise _bad("attestation.certificates", f"must be a list of at most {_MAX_CERTIFICATES}")
    return Attestation(
        _text(value, "format", _PRINTABLE),
        _base64(value["content"], "attestation.content"),
        tuple(_base64(one, "attestation.certificates") for one in certificates),
    )


def _base64(text: object, field: str) -> bytes:
    if isinstance(text, str) and 0 < len(text) <= _MAX_ATTESTATION * 4 // 3 + 4:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            pass
    raise _bad(field, f"must be base64 of 1 to {_MAX_ATTESTATION} bytes")


def _kind(key: PrivateKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"an elliptic curve key on {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "an Ed25519 key"
    if isinstance(key, rsa.RSAPrivateKey):
        return f"an RSA key of {key.key_size} bits"
    if mldsa is not None:
        for size in (44, 65, 87):
            if isinstance(key, getattr(mldsa, f"MLDSA{size}PrivateKey")):
                return f"an ML-DSA-{size} key"
    return "of another kind"


def _wrapped(wrapping_key: bytes, method: str, pkcs8: bytes) -> bytes | None:
    """The wrapped key; ``None`` where it is too long for the method."""
    public = serialization.load_der_public_key(wrapping_key)
    assert isinstance(public, rsa.RSAPublicKey)  # noqa: S101  (looked at when the document was read)
    # SHA-1 is what some stores have there. OAEP does not need a hash that resists collisions.
    digest = hashes.SHA1() if method == "RSA_OAEP_SHA1_AES_256_KWP" else hashes.SHA256()  # noqa: S303
    oaep = padding.OAEP(padding.MGF1(digest), digest, None)
    if method == "RSA_OAEP_SHA256":
        room = (public.key_size + 7) // 8 - 2 * digest.digest_size - 2
        return public.encrypt(pkcs8, oaep) if len(pkcs8) <= room else None
    aes_key = secrets.token_bytes(32)
    return public.encrypt(aes_key, oaep) + keywrap.aes_key_wrap_with_padding(aes_key, pkcs8)


def _wrapped_document(document: ImportDocument, private_key: PrivateKeyTypes, method: str, wrapped: bytes) -> bytes:
    public = private_key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    fields = {
        "format": WRAPPED_FORMAT,
        "name": document.name,
        "key": document.key,
        "wrapMethod": method,
        "wrappedKey": base64.b64encode(wrapped).decode(),
        "publicKey": pem.decode(),
        "fingerprint": fingerprint(_spki(public)),
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def _spki(key: Any) -> bytes:
    spki: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki


def _private_key(path: Path, passphrase_file: Path | None, prompt: str) -> PrivateKeyTypes:
    content = _read(path, _MAX_KEY_FILE, "the private key file")
    if passphrase_file is not None:
        return load_private_key(content, _passphrase(passphrase_file))
    try:
        return load_private_key(content)
    except PassphraseNeededError:
        pass
    return load_private_key(content, _asked(prompt))


def _asked(prompt: str) -> bytes:
    try:
        with warnings.catch_warnings():
            # Where there is no terminal, it would be shown while it is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt).encode()
    except getpass.GetPassWarning:
        raise KeyWrappingError("there is no terminal to ask for the passphrase: use --passphrase-file") from None
    except (EOFError, KeyboardInterrupt):
        raise KeyWrappingError("no passphrase was given") from None


def _passphrase(path: Path) -> bytes:
    content = _read(path, _MAX_PASSPHRASE, "the passphrase file")
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise KeyWrappingError(f"the passphrase file is open to everybody on this machine: chmod 600 {path}")
    lines = content.splitlines()
    if len(lines) != 1 or not lines[0]:
        raise KeyWrappingError("the passphrase file must hold one line")
    return lines[0]


def _read(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise KeyWrappingError(f"{what} cannot be read: {error.strerror}") from None
    if not content or len(content) > limit:
        raise KeyWrappingError(f"{what} is empty or longer than {limit} bytes")
    return content


def _write_new(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KeyWrappingError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise KeyWrappingError(f"{path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    raise SystemExit(main())
