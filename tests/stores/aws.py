"""AWS KMS as moto's server does it, with keys that really sign.

Done here, as AWS documents it, is what moto 5.2.5 lacks: it hashes digests once more whatever ``MessageType`` says,
salts PSS with all the room that there is, signs with keys that are about to be deleted, and imports no keys.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from moto.core.exceptions import JsonRESTError
from moto.kms.models import Key
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey, RSAPrivateKey
from moto.server import ThreadedMotoServer

from tests.wrapping import new_private_key, spki

REGION = "eu-central-1"
ALGORITHMS = [
    "PKIX_ECDSA_P256_SHA_256",
    "PKIX_ECDSA_P384_SHA_384",
    "PKIX_ECDSA_P521_SHA_512",
    *(f"PKIX_RSA_{kind}_{bits}_SHA256" for kind in ("PKCS1V15", "PSS") for bits in (2048, 3072, 4096)),
]
"""That moto makes keys for."""

_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES = {"secp256r1": "ECC_NIST_P256", "secp384r1": "ECC_NIST_P384", "secp521r1": "ECC_NIST_P521"}
_MAX_TOKEN = 300


@contextmanager
def moto_kms(directory: Path) -> Iterator[str]:
    """The URI of an empty KMS on this machine, which worker processes reach as they would AWS."""
    credentials = directory / "credentials"
    credentials.write_text("[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = not-a-secret\n")
    credentials.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KmsResponse, "sign", _sign)
        patch.setattr(KmsResponse, "create_key", _creating(KmsResponse.create_key))
        for action in (_get_parameters_for_import, _import_key_material, _delete_imported_key_material):
            patch.setattr(KmsResponse, action.__name__[1:], action, raising=False)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield (
                f"awskms:region={REGION}?endpoint=http://{host}:{port}&credentials-source=file:{credentials}"
                f"&algorithms={','.join(ALGORITHMS)}"
            )
        finally:
            server.stop()


def _key(request: KmsResponse) -> Key:
    request._validate_key_id(request._get_param("KeyId"))
    return request.kms_backend.describe_key(request._get_param("KeyId"))


def _require_state(key: Key, *states: str) -> None:
    if key.key_state == "Disabled" not in states:
        raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
    if key.key_state not in states:
        raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is {key.key_state}.")


def _sign(self: KmsResponse) -> str:
    key, name, message = _key(self), self._get_param("SigningAlgorithm"), self._get_param("Message")
    _require_state(key, "Enabled")
    if key.key_usage != "SIGN_VERIFY" or name not in key.signing_algorithms:
        raise JsonRESTError("InvalidKeyUsageException", "")
    digest = _HASHES[name[-3:]]
    if self._get_param("MessageType") != "DIGEST" or len(message) != digest.digest_size:
        raise JsonRESTError("ValidationException", "Digest is invalid length for algorithm.")
    assert isinstance(key.private_key, ECDSAPrivateKey | RSAPrivateKey)
    private = key.private_key.private_key
    if isinstance(private, ec.EllipticCurvePrivateKey):
        signature = private.sign(message, ec.ECDSA(utils.Prehashed(digest)))
    else:
        scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if "PSS" in name else padding.PKCS1v15()
        signature = private.sign(message, scheme, utils.Prehashed(digest))
    answer = {"KeyId": key.arn, "Signature": base64.b64encode(signature).decode(), "SigningAlgorithm": name}
    return json.dumps(answer)


def _creating(create: Callable[[KmsResponse], str]) -> Callable[[KmsResponse], str]:
    def create_key(self: KmsResponse) -> str:
        made = json.loads(create(self))
        if made["KeyMetadata"]["Origin"] == "EXTERNAL":
            key = self.kms_backend.describe_key(made["KeyMetadata"]["KeyId"])
            key.key_state, key.enabled = "PendingImport", False
            made = key.to_dict()
        return json.dumps(made)

    return create_key


def _get_parameters_for_import(self: KmsResponse) -> str:
    key = _key(self)
    _require_state(key, "PendingImport", "Enabled")
    wanted = self._get_param("WrappingAlgorithm"), self._get_param("WrappingKeySpec")
    if key.origin != "EXTERNAL" or wanted != ("RSA_AES_KEY_WRAP_SHA_256", "RSA_4096"):
        raise JsonRESTError("UnsupportedOperationException", "")
    token = json.dumps({"key": key.id, "nonce": secrets.token_hex(16)}).encode()
    return json.dumps(
        {
            "KeyId": key.arn,
            "ImportToken": base64.b64encode(token).decode(),
            "PublicKey": base64.b64encode(spki(_wrapping_key())).decode(),
            "ParametersValidTo": (datetime.now(UTC) + timedelta(days=1)).timestamp(),
        }
    )


def _import_key_material(self: KmsResponse) -> str:
    key = _key(self)
    _require_state(key, "PendingImport", "Enabled")
    token, wrapped = (base64.b64decode(self._get_param(name)) for name in ("ImportToken", "EncryptedKeyMaterial"))
    if len(token) > _MAX_TOKEN or json.loads(token)["key"] != key.id:
        raise JsonRESTError("InvalidImportTokenException", "")
    if self._get_param("ExpirationModel") != "KEY_MATERIAL_DOES_NOT_EXPIRE":
        raise JsonRESTError("ValidationException", "")
    private = _unwrapped(wrapped)
    spec = f"RSA_{private.key_size}" if isinstance(private, rsa.RSAPrivateKey) else _CURVES.get(_curve(private))
    before = key.private_key
    assert isinstance(before, ECDSAPrivateKey | RSAPrivateKey)
    # The material of an asymmetric key cannot be changed after it was first imported.
    changed = key.key_state == "Enabled" and spki(before.private_key) != spki(private)
    if spec != key.key_spec or changed:
        raise JsonRESTError("IncorrectKeyMaterialException", "")
    before.private_key = private
    key.key_state, key.enabled = "Enabled", True
    return json.dumps({"KeyId": key.arn})


def _delete_imported_key_material(self: KmsResponse) -> str:
    key = _key(self)
    _require_state(key, "Enabled", "Disabled", "PendingDeletion")
    if key.origin != "EXTERNAL":
        raise JsonRESTError("UnsupportedOperationException", "")
    key.key_state, key.enabled = "PendingImport", False
    return json.dumps({"KeyId": key.arn})


@cache
def _wrapping_key() -> rsa.RSAPrivateKey:
    key = new_private_key(4096)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _unwrapped(wrapped: bytes) -> Any:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    try:
        aes_key = _wrapping_key().decrypt(wrapped[:512], oaep)
        pkcs8 = aes_key_unwrap_with_padding(aes_key, wrapped[512:])
    except (ValueError, InvalidUnwrap):
        raise JsonRESTError("InvalidCiphertextException", "") from None
    try:
        return serialization.load_der_private_key(pkcs8, None)
    except ValueError:
        raise JsonRESTError("IncorrectKeyMaterialException", "") from None


def _curve(private: object) -> str:
    return private.curve.name if isinstance(private, ec.EllipticCurvePrivateKey) else ""
