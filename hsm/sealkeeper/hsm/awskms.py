"""Keys in AWS Key Management Service.

``awskms:region=eu-central-1?role-arn=arn:aws:iam::111122223333:role/sealkeeper&owner=acme``

One KMS key a key pair. A handle has the key's id and not its ARN, so that it also names the replica of a multi-Region
key in another region. What leaves the gateway is a digest, or for Ed25519 and ML-DSA the message or what stands for it.
Docs: docs/providers/awskms.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC
from hashlib import shake_256
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric import mldsa

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.awskms_client import (
    CONCURRENCY,
    KEY_ID,
    Described,
    Done,
    ImportParameters,
    KeyMetadata,
    KeyStateError,
    KmsClient,
    PublicKeyRead,
    Signed,
)
from sealkeeper.hsm.awskms_uri import parse_awskms_uri
from sealkeeper.hsm.backend import require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    ProviderError,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
    SelfCheckError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import (
    KeyEvidence,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)

OWNER_TAG, LABEL_TAG = "sealkeeper-owner", "sealkeeper-label"
WAITING_DAYS = 7
"""For as long AWS keeps a key that is to be destroyed; it allows no less."""
MAX_RAW = 4096
"""Most bytes of a message that ``Sign`` takes."""
_MAX_WRAPPED = 6144
_MAX_STATE = 16 * 1024
_CACHE_LIMIT = 10_000

_HANDLE = re.compile(rf"id=({KEY_ID});x-algorithm=([A-Z0-9_]{{1,64}})")
_METHOD = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP

_SPECS = {
    "secp256r1": "ECC_NIST_P256",
    "secp384r1": "ECC_NIST_P384",
    "secp521r1": "ECC_NIST_P521",
    "ed25519": "ECC_NIST_EDWARDS25519",
}
# By family and digest: ``SigningAlgorithm`` and ``MessageType``.
_SIGNS = {
    ("ecdsa", "sha256"): ("ECDSA_SHA_256", "DIGEST"),
    ("ecdsa", "sha384"): ("ECDSA_SHA_384", "DIGEST"),
    ("ecdsa", "sha512"): ("ECDSA_SHA_512", "DIGEST"),
    ("rsa-pkcs1v15", "sha256"): ("RSASSA_PKCS1_V1_5_SHA_256", "DIGEST"),
    ("rsa-pss", "sha256"): ("RSASSA_PSS_SHA_256", "DIGEST"),
    ("ed25519", None): ("ED25519_SHA_512", "RAW"),
    ("ml-dsa", None): ("ML_DSA_SHAKE_256", "EXTERNAL_MU"),
}
_GONE = frozenset({"PendingDeletion", "PendingReplicaDeletion"})
_USABLE = frozenset({"Enabled", "Updating"})
_ORIGINS = {"AWS_KMS": Origin.GENERATED, "AWS_CLOUDHSM": Origin.GENERATED, "EXTERNAL": Origin.IMPORTED}


class _ImportState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an import goes on with: the empty key, and AWS's token for its wrapping key."""

    key_id: Annotated[str, msgspec.Meta(pattern=rf"^{KEY_ID}\Z")]
    algorithm: str
    token: bytes


_import_states = msgspec.json.Decoder(_ImportState)


class AwsKmsBackend:
    """The keys of one owner in one account and region.

    Args:
        uri: ``awskms:`` URI.
        sleep: waits for a number of seconds between two tries.
        clock: seconds that only go forward.

    Attributes:
        concurrency: requests at a time.
        piece: ``Sign`` makes one signature.

    Raises:
        ProviderUriError: the URI is malformed.
        ProviderConfigurationError: there is no region, or no credentials.
        ProviderUnavailableError: AWS cannot be reached, or does not let us in.
    """

    concurrency = CONCURRENCY
    piece = 1

    def __init__(
        self, uri: str, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        parsed = parse_awskms_uri(uri)
        self._owner = parsed.owner
        self._multi_region = parsed.multi_region
        self._kms = KmsClient(parsed, sleep, clock)
        # Handles of keys that were found fit for use, with the hash of the public key where it goes into signatures.
        self._known: dict[str, bytes] = {}
        # The Chinese regions unwrap by other methods only (Developer Guide, Encrypt the key material).
        imports = not self._kms.region.startswith("cn-")
        self.info = ProviderInfo(
            "awskms",
            f"AWS KMS in {self._kms.region}",
            ProtectionLevel.HSM,
            parsed.algorithms,
            self._kms.region,
            frozenset({_METHOD}) if imports else frozenset(),
            {name: MAX_RAW for name in parsed.algorithms if ALGORITHMS[name].family == "ed25519"},
        )
        self.check()

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Have a key made. Nobody can read its private key out, AWS says."""
        key_id = self._create(label, algorithm, "AWS_KMS")
        try:
            return self._read(key_id, algorithm, fresh=True)
        except BaseException:
            self._discard(key_id)
            raise

    def public_key(self, handle: str) -> ProviderKey:
        """Read a public key, whose private key must be fit for use."""
        key_id, algorithm = _parse_handle(handle)
        self._require_usable(key_id, algorithm)
        return self._read(key_id, algorithm)

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""
        key_id, own = _parse_handle(handle)
        require_algorithm(own, algorithm)
        key_hash = self._known.get(handle)
        if key_hash is None:
            key_hash = self._look_up(handle, key_id, algorithm)
        try:
            return [self._sign(key_id, algorithm, key_hash, payload) for payload in payloads]
        except KeyStateError:
            self._known.pop(handle, None)
            self._require_usable(key_id, algorithm)
            raise
        except KeyHandleError:
            self._known.pop(handle, None)
            raise

    def destroy(self, handle: str) -> None:
        """Have the key deleted after the shortest time that AWS allows; it cannot be used from now on.

        The material of a key that was imported is deleted at once.
        """
        key_id, _ = _parse_handle(handle)
        self._known.pop(handle, None)
        try:
            key = self._describe(key_id)
            if key.key_state in _GONE:
                return
            if key.origin == "EXTERNAL" and key.key_state != "PendingImport":
                self._kms.ask("DeleteImportedKeyMaterial", Done, KeyId=key_id)
            self._schedule_deletion(key_id)
        except KeyHandleError:
            return
        except KeyStateError:
            # Another call may have been quicker.
            if self._describe(key_id).key_state not in _GONE:
                raise

    def evidence(self, handle: str) -> KeyEvidence:
        """What AWS says of a key (``DescribeKey``). It attests to none of it with a signature."""
        key_id, _ = _parse_handle(handle)
        key = self._describe(key_id)
        _require_there(key)
        claims = {
            "Arn": key.arn,
            "CreationDate": key.creation_date.astimezone(UTC).isoformat(),
            "CustomKeyStoreId": key.custom_key_store_id,
            "CloudHsmClusterId": key.cloud_hsm_cluster_id,
            "ExpirationModel": key.expiration_model,
            "KeyManager": key.key_manager,
            "KeySpec": key.key_spec,
            "KeyState": key.key_state,
            "KeyUsage": key.key_usage,
            "MultiRegion": str(key.multi_region).lower(),
            "Origin": key.origin,
            "Exportable": "false: AWS KMS has no operation that gives a private key out (documented, not attested)",
        }
        outside = key.origin == "EXTERNAL_KEY_STORE"
        return KeyEvidence(
            ProtectionLevel.EXTERNAL if outside else ProtectionLevel.HSM,
            _ORIGINS.get(key.origin, Origin.UNKNOWN),
            None if outside else False,
            {name: claim for name, claim in claims.items() if claim is not None},
        )

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make an empty key, and have AWS offer a wrapping key for it, good for 24 hours."""
        if algorithm.family == "ml-dsa":
            raise ImportNotSupportedError(
                "AWS documents this way of wrapping for RSA and elliptic curve keys only",
                next_step="have the ML-DSA key made in AWS KMS",
            )
        key_id = self._create(label, algorithm, "EXTERNAL")
        try:
            offer = self._kms.ask(
                "GetParametersForImport",
                ImportParameters,
                fresh=True,
                KeyId=key_id,
                WrappingAlgorithm="RSA_AES_KEY_WRAP_SHA_256",
                WrappingKeySpec="RSA_4096",
            )
        except BaseException:
            self._discard(key_id)
            raise
        state = msgspec.json.encode(_ImportState(key_id, algorithm.name, offer.import_token))
        return WrappingKey(state, offer.public_key, (_METHOD,), offer.parameters_valid_to.astimezone(UTC))

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Hand the wrapped key to AWS. Doing so again with the same key is fine.

        Where AWS has taken the key and then cannot be reached, the key stays: another try gives it.
        """
        known = _import_state(state)
        if method is not _METHOD or known.algorithm != algorithm.name or not 0 < len(wrapped) <= _MAX_WRAPPED:
            raise WrappedKeyError(
                f"AWS KMS was to get a {known.algorithm} key of at most {_MAX_WRAPPED} bytes, wrapped by {_METHOD}",
                next_step="wrap the key by the method that was offered",
            )
        self._hand_over(known, wrapped)
        return self._read(known.key_id, algorithm, fresh=True)

    def end_import(self, state: bytes) -> None:
        """Have the key deleted that waits for its material; one that has got it stays."""
        key_id = _import_state(state).key_id
        try:
            if self._describe(key_id).key_state == "PendingImport":
                self._schedule_deletion(key_id)
        except KeyHandleError:
            return

    def check(self) -> None:
        """Ask AWS for random bytes."""
        self._kms.ask("GenerateRandom", Done, NumberOfBytes=32)

    def close(self) -> None:
        """Let go of the connections."""
        self._known.clear()
        self._kms.close()

    def _create(self, label: str, algorithm: Algorithm, origin: str) -> str:
        tags = {OWNER_TAG: self._owner, LABEL_TAG: label}
        made = self._kms.ask(
            "CreateKey",
            Described,
            repeatable=False,
            KeySpec=_key_spec(algorithm),
            KeyUsage="SIGN_VERIFY",
            Origin=origin,
            MultiRegion=self._multi_region,
            Description=f"Sealkeeper signing key {label}",
            Tags=[{"TagKey": name, "TagValue": value} for name, value in tags.items()],
        )
        return made.key_metadata.key_id

    def _read(self, key_id: str, algorithm: Algorithm, *, fresh: bool = False) -> ProviderKey:
        found = self._kms.ask("GetPublicKey", PublicKeyRead, fresh=fresh, KeyId=key_id)
        self._require_same(found.key_id, key_id)
        load_public_key(algorithm, found.public_key)
        return ProviderKey(_handle(key_id, algorithm), algorithm, found.public_key)

    def _describe(self, key_id: str) -> KeyMetadata:
        found = self._kms.ask("DescribeKey", Described, KeyId=key_id).key_metadata
        self._require_same(found.key_id, key_id)
        return found

    def _require_same(self, named: str, key_id: str) -> None:
        """Refuse an answer about another key than was asked for: it is named by its id, or its ARN in this region."""
        arn = rf"arn:aws[a-z-]{{0,16}}:kms:{re.escape(self._kms.region)}:[0-9]{{12}}:key/{key_id}"
        if named != key_id and not re.fullmatch(arn, named):
            raise SelfCheckError(
                "AWS KMS answered with another key than it was asked for",
                next_step="take the store out of use and find out who answers in its place",
            )

    def _require_usable(self, key_id: str, algorithm: Algorithm) -> None:
        key = self._describe(key_id)
        _require_there(key)
        if key.key_spec != _key_spec(algorithm) or key.key_usage != "SIGN_VERIFY":
            raise AlgorithmNotSupportedError(f"the key in AWS KMS is not one for {algorithm.name}")
        if key.key_state not in _USABLE:
            raise ProviderPermissionError(
                f"the key cannot be used in AWS KMS: {key.key_state[:32]}", next_step=_STEPS.get(key.key_state, "")
            )

    def _look_up(self, handle: str, key_id: str, algorithm: Algorithm) -> bytes:
        """Find a key fit for use; what of its public key goes into signatures (FIPS 204: tr)."""
        self._require_usable(key_id, algorithm)
        key_hash = b""
        if algorithm.family == "ml-dsa":
            public = load_public_key(algorithm, self._read(key_id, algorithm).public_key)
            assert isinstance(  # noqa: S101  (``load_public_key`` gives no other for this family)
                public, (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)
            )
            key_hash = shake_256(public.public_bytes_raw()).digest(64)
        if len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
        self._known[handle] = key_hash
        return key_hash

    def _sign(self, key_id: str, algorithm: Algorithm, key_hash: bytes, payload: bytes) -> bytes:
        name, kind = _SIGNS[algorithm.family, algorithm.digest]
        if kind == "EXTERNAL_MU":
            # FIPS 204, algorithm 7, line 6, of M' of algorithm 2 with an empty context: any length, in 64 bytes.
            payload = shake_256(key_hash + b"\x00\x00" + payload).digest(64)
        signed = self._kms.ask("Sign", Signed, KeyId=key_id, Message=payload, MessageType=kind, SigningAlgorithm=name)
        self._require_same(signed.key_id, key_id)
        return signed.signature

    def _hand_over(self, known: _ImportState, wrapped: bytes) -> None:
        try:
            self._kms.ask(
                "ImportKeyMaterial",
                Done,
                KeyId=known.key_id,
                ImportToken=known.token,
                EncryptedKeyMaterial=wrapped,
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )
        except (KeyHandleError, KeyStateError):
            raise ImportExpiredError(
                "the key in AWS KMS that waited for this import is gone", next_step="begin the import anew"
            ) from None
        except (ProviderThrottledError, ProviderPermissionError):
            raise
        except ProviderUnavailableError:
            # It may have been taken, and the answer lost.
            if self._describe(known.key_id).key_state not in _USABLE:
                raise

    def _schedule_deletion(self, key_id: str) -> None:
        self._kms.ask("ScheduleKeyDeletion", Done, KeyId=key_id, PendingWindowInDays=WAITING_DAYS)

    def _discard(self, key_id: str) -> None:
        """Remove a key that nobody will know of; where that fails, its tags say whose it is."""
        with suppress(ProviderError):
            self._schedule_deletion(key_id)


_STEPS = {
    "Disabled": "have an administrator enable it: aws kms enable-key",
    "PendingImport": "its key material was deleted: import the same once more",
    "Unavailable": "connect the custom key store that it is in",
    "Creating": "try again shortly",
}


def _key_spec(algorithm: Algorithm) -> str:
    if algorithm.family in ("ecdsa", "ed25519"):
        return _SPECS[str(algorithm.parameter)]
    return f"{'ML_DSA' if algorithm.family == 'ml-dsa' else 'RSA'}_{algorithm.parameter}"


def _require_there(key: KeyMetadata) -> None:
    if key.key_state in _GONE:
        raise KeyHandleError(
            "the key in AWS KMS is about to be deleted",
            next_step=f"within {WAITING_DAYS} days an administrator can keep it: aws kms cancel-key-deletion",
        )


def _handle(key_id: str, algorithm: Algorithm) -> str:
    return f"id={key_id};x-algorithm={algorithm.name}"


def _parse_handle(handle: str) -> tuple[str, Algorithm]:
    match = _HANDLE.fullmatch(handle)
    if match is None or match[2] not in ALGORITHMS:
        raise KeyHandleError("the handle is not one of a key in AWS KMS")
    return match[1], ALGORITHMS[match[2]]


def _import_state(state: bytes) -> _ImportState:
    try:
        if len(state) <= _MAX_STATE:
            return _import_states.decode(state)
    except msgspec.MsgspecError:
        pass
    raise ImportExpiredError("this import was not begun in AWS KMS", next_step="begin the import anew")
