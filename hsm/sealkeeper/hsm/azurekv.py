"""Keys in Azure Key Vault and Azure Managed HSM.

``azurekv://acme.vault.azure.net?auth=managed-identity&region=germanywestcentral``

A key has a name of its own: its label, as far as Azure's names allow, and a random end. The handle is name and version,
and the algorithm, which Azure does not bind an RSA key to. Keys may sign and verify, nothing else. Private keys come in
by Microsoft's BYOK specification only, wrapped under a key that never leaves Azure's hardware; into a store without
hardware they could only come in the clear, so they do not.

API: Key Vault keys REST 2025-07-01, by azure-keyvault-keys. A client of that SDK changes its token without a lock, so
that each thread takes a connection with clients of its own out of a pool.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, TypeVar

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.policies import RedirectPolicy, RetryPolicy
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient
from cryptography.hazmat.primitives.asymmetric import rsa

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.azurekv_http import (
    CREATE,
    DELETE,
    IMPORT,
    LIST,
    PURGE,
    READ,
    READ_DELETED,
    SIGN,
    Action,
    Login,
    LoginRefusedError,
    open_transport,
    refusal,
)
from sealkeeper.hsm.azurekv_keys import (
    OFFERED,
    SIGNS_WITH,
    attestation_of,
    claims_of,
    jwk,
    kind_of_key,
    public_key_of,
    rsa_public_key_of,
    signature_of,
    spki_of,
    transfer_blob,
)
from sealkeeper.hsm.azurekv_uri import Auth, AzureKeyVaultUri, Kind, parse_azurekv_uri
from sealkeeper.hsm.backend import BackendLostError, require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
    PublicKeyMismatchError,
    SelfCheckError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import (
    Attestation,
    KeyEvidence,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.hsm.secret_file import fingerprint

T = TypeVar("T")

WRAPPING_KEY_LIFE = timedelta(hours=24)
"""How long an import may take."""
_METHOD = WrapMethod.RSA_OAEP_SHA1_AES_256_KWP
_WRAPPING_KEY_BITS = 4096
_MAX_WRAPPED = 16 * 1024
_MAX_STATE = 1024
_KEYS_KNOWN = 10_000
# Each has a pipeline of its own, a few tens of KiB.
_SIGNERS_PER_CONNECTION = 64
# In seconds, before random lengthening by up to half: about three quarters of a second in all.
_RETRY_PAUSES = (0.1, 0.4)
_LONGEST_RETRY_AFTER = timedelta(seconds=2)
_NO_MORE_RETRIES_AFTER = 3.0
# A deleted key can be purged once Azure has moved it, which takes seconds.
_PURGE_PAUSES = (0.2, 0.5, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0)

_HANDLE = re.compile(r"([0-9A-Za-z-]{1,127})/([0-9A-Za-z]{1,64});x-algorithm=([0-9A-Za-z_]{1,64})")
# Key names end with 20 digits behind a hyphen, so that none is a wrapping key's.
_WRAPPING_NAME = re.compile(r"sealkeeper-wrapping-[0-9a-f]{24}")
_VERSION = re.compile(r"[0-9A-Za-z]{1,64}")
_REGION_HEADER = "x-ms-keyvault-region"


@dataclass(frozen=True, slots=True)
class _Handle:
    """What a handle says."""

    name: str
    version: str
    algorithm: Algorithm


class _Connection:
    """One connection to the store, used by one thread at a time.

    Attributes:
        keys: client for all but signing.
    """

    def __init__(self, uri: AzureKeyVaultUri, login: Login) -> None:
        self._transport = open_transport(uri.ca_file)
        self._login = login
        self._signers: OrderedDict[str, CryptographyClient] = OrderedDict()
        self.keys = KeyClient(f"https://{uri.host}", login, **self._options())

    def _options(self) -> dict[str, Any]:
        # The SDK would retry for minutes, and the making of keys as well; it would follow redirects.
        return {
            "transport": self._transport,
            "retry_policy": RetryPolicy.no_retries(),
            "redirect_policy": RedirectPolicy(permit_redirects=False),
        }

    def signer(self, key_id: str, public: dict[str, Any]) -> CryptographyClient:
        """The client that signs with a key. It knows the public key alone, so that it must leave signing to the store,
        and need not ask for it."""
        signer = self._signers.get(key_id)
        if signer is None:
            signer = CryptographyClient(KeyVaultKey(key_id, jwk=public), self._login, **self._options())
            self._signers[key_id] = signer
            if len(self._signers) > _SIGNERS_PER_CONNECTION:
                self._signers.popitem(last=False)
        self._signers.move_to_end(key_id)
        return signer

    def close(self) -> None:
        """Close the connection, which all clients share."""
        self._transport.close()


class AzureKeyVaultBackend:
    """One vault or Managed HSM. Made, it has asked the store for a sign of life.

    Args:
        uri: as in ``azurekv_uri.py``.
        sleep: waits for that many seconds.
        now: the time, UTC.

    Raises:
        ProviderConfigurationError: a file cannot be used, or the store is in another region than it should be.
        ProviderUnavailableError: the store does not answer, or does not let the gateway in.
    """

    concurrency = 16
    piece = 1

    def __init__(
        self,
        uri: str,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._uri = parse_azurekv_uri(uri)
        self._sleep, self._now = sleep, now
        self._credential_file = fingerprint(self._uri.source) if self._uri.source else ""
        if self._uri.ca_file is not None and not self._uri.ca_file.is_file():
            raise ProviderConfigurationError("the ca-file cannot be read", next_step=f"check {self._uri.ca_file}")
        self._login = Login(self._uri)
        self._idle: deque[_Connection] = deque()
        # Public keys by handle, so that signing takes one request; guarded by the lock.
        self._public: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = Lock()
        in_hardware = self._uri.protection is ProtectionLevel.HSM
        self._hardware = "-HSM" if in_hardware else ""
        what = "Azure Key Vault" if self._uri.kind is Kind.VAULT else "Azure Managed HSM"
        self.info = ProviderInfo(
            "azurekv",
            f"{what} {self._uri.host}",
            self._uri.protection,
            OFFERED,
            region=self._check_region(),
            wrap_methods=frozenset({_METHOD} if in_hardware else ()),
        )

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair that may sign and verify, and nothing else."""
        name = _name(label)
        kty, shape = kind_of_key(algorithm)
        tags = _tags(label, algorithm, "generated")

        def make(connection: _Connection) -> KeyVaultKey:
            return connection.keys.create_key(
                name, f"{kty}{self._hardware}", **shape, key_operations=["sign", "verify"], tags=tags
            )

        return self._accepted(self._make(CREATE, name, make), name, algorithm)

    def public_key(self, handle: str) -> ProviderKey:
        """Read the public key."""
        parsed = _parse(handle)
        try:
            spki, _ = self._read(parsed)
        except (AlgorithmNotSupportedError, KeyHandleError):
            self._forget(handle)
            raise KeyHandleError("the key store has no such key") from None
        return ProviderKey(handle, parsed.algorithm, spki)

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Have each digest signed by the store, one request each."""
        parsed = _parse(handle)
        require_algorithm(parsed.algorithm, algorithm)
        with self._lock:
            public = self._public.get(handle)
        if public is None:
            _, public = self._read(parsed)
            self._remember(handle, public)
        try:
            return [self._sign(parsed, public, payload) for payload in payloads]
        except KeyHandleError:
            self._forget(handle)
            raise

    def destroy(self, handle: str) -> None:
        """Delete the key and purge it. Where purge protection forbids that, Azure keeps it deleted for the days that
        are set for the store, and then purges it: until then, somebody with that permission can bring it back."""
        try:
            parsed = _parse(handle)
        except KeyHandleError:
            return
        self._forget(handle)
        self._remove(parsed.name)

    def check(self) -> None:
        """Ask for a list of one key, and whether the store is where it should be.

        Azure may serve a vault from the paired region while its own is down.
        """
        try:
            self._check_region()
        except ProviderConfigurationError as error:
            raise ProviderUnavailableError(str(error), next_step=error.next_step) from None

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.popleft().close()
        self._login.close()

    def evidence(self, handle: str) -> KeyEvidence:
        """Read back the key's attributes, and from a Managed HSM its attestation.

        Azure does not say of a key whether it was made there: the origin is unknown. The tag that says so was written
        by the gateway, and can be changed by whoever may update the key.
        """
        parsed = _parse(handle)
        try:
            key = self._get(parsed.name, parsed.version)
            public_key_of(key, parsed.algorithm, self._hardware)
        except (AlgorithmNotSupportedError, KeyHandleError):
            raise KeyHandleError("the key store has no such key") from None
        kty = str(jwk(key, "kty"))
        attestation = self._attestation(parsed.name, parsed.version)
        return KeyEvidence(
            ProtectionLevel.HSM if kty.endswith("-HSM") else ProtectionLevel.SOFTWARE,
            Origin.UNKNOWN,
            key.properties.exportable,
            claims_of(key),
            attestation,
        )

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make a key exchange key: RSA in hardware, for imports only, that the store refuses to use after a day."""
        self._require_imports()
        name = f"sealkeeper-wrapping-{secrets.token_hex(12)}"
        expires = self._now().replace(microsecond=0) + WRAPPING_KEY_LIFE
        tags = _tags(label, algorithm, "wrapping")

        def make(connection: _Connection) -> KeyVaultKey:
            return connection.keys.create_key(
                name, "RSA-HSM", size=_WRAPPING_KEY_BITS, key_operations=["import"], expires_on=expires, tags=tags
            )

        key = self._make(CREATE, name, make)
        try:
            version = self._identity(key, name)
            public = _wrapping_key_of(key)
            attestation = self._attestation(name, version)
        except ProviderError:
            self._discard(name)
            raise
        state = json.dumps({"name": name, "version": version}).encode()
        return WrappingKey(state, spki_of(public), (_METHOD,), expires, attestation)

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Have the store unwrap a private key."""
        self._require_imports()
        name, version = _parse_state(state)
        wrapping_key = self._wrapping_key(name, version)
        length = len(wrapped) - wrapping_key.key_size // 8
        if method is not _METHOD or len(wrapped) > _MAX_WRAPPED or length < 24 or length % 8:
            raise WrappedKeyError(
                f"this is not a private key wrapped by {_METHOD} under this wrapping key",
                next_step="wrap it again, with the wrapping key and the method of this import",
            )
        blob = transfer_blob(f"https://{self._uri.host}/keys/{name}/{version}", wrapped)
        key = self._import(_name(label), label, algorithm, blob)
        if load_public_key(algorithm, key.public_key) != load_public_key(algorithm, public_key):
            self._remove(_parse(key.handle).name, purge_must=False)
            raise PublicKeyMismatchError(
                "the private key does not belong to the public key", next_step="wrap the right one, or name its own"
            )
        return key

    def end_import(self, state: bytes) -> None:
        """Delete the wrapping key, and purge it where the store lets the gateway."""
        name, _ = _parse_state(state)
        self._remove(name, purge_must=False)

    def _require_imports(self) -> None:
        if not self._hardware:
            raise ImportNotSupportedError(
                "keys protected in software could only come in the clear, so none can be brought into this store",
                next_step="import into a provider with protection=HSM: a Premium vault or a Managed HSM",
            )

    def _wrapping_key(self, name: str, version: str) -> rsa.RSAPublicKey:
        """The public wrapping key of an import.

        Raises:
            ImportExpiredError: it is gone, disabled or too old.
        """
        try:
            key = self._get(name, version)
        except KeyHandleError:
            raise _expired() from None
        expires = key.properties.expires_on
        if expires is None or expires <= self._now() or key.properties.enabled is False:
            raise _expired()
        return _wrapping_key_of(key)

    def _import(self, name: str, label: str, algorithm: Algorithm, blob: bytes) -> ProviderKey:
        kty, shape = kind_of_key(algorithm)
        key = JsonWebKey(kty=f"{kty}-HSM", crv=shape.get("curve"), key_ops=["sign", "verify"], t=blob)
        tags = _tags(label, algorithm, "imported")

        def put(connection: _Connection) -> KeyVaultKey:
            return connection.keys.import_key(name, key, hardware_protected=True, tags=tags)

        try:
            return self._accepted(self._make(IMPORT, name, put), name, algorithm)
        except KeyHandleError:
            raise _expired() from None
        except AlgorithmNotSupportedError:
            raise WrappedKeyError(
                f"the key store cannot unwrap it, or it is no key for {algorithm.name}",
                next_step="wrap the PKCS#8 of a key for that algorithm again, under the wrapping key of this import",
            ) from None

    def _accepted(self, key: KeyVaultKey, name: str, algorithm: Algorithm) -> ProviderKey:
        """What the store has just made or taken, if it is what was asked for; else it is removed.

        Raises:
            AlgorithmNotSupportedError: it is not.
            SelfCheckError: the answer is about another key.
        """
        try:
            version = self._identity(key, name)
            spki, public = public_key_of(key, algorithm, self._hardware)
            if key.properties.exportable or not set(jwk(key, "key_ops") or ["none"]) <= {"sign", "verify"}:
                raise AlgorithmNotSupportedError("the key store made a key that can do more than sign")
        except ProviderError:
            self._remove(name, purge_must=False)
            raise
        handle = f"{name}/{version};x-algorithm={algorithm.name}"
        self._remember(handle, public)
        return ProviderKey(handle, algorithm, spki)

    def _read(self, handle: _Handle) -> tuple[bytes, dict[str, Any]]:
        return public_key_of(self._get(handle.name, handle.version), handle.algorithm, self._hardware)

    def _get(self, name: str, version: str) -> KeyVaultKey:
        key = self._call(READ, lambda connection: connection.keys.get_key(name, version), repeat=True)
        self._identity(key, name, version)
        return key

    def _identity(self, key: KeyVaultKey, name: str, version: str | None = None) -> str:
        """The version of a key that the store answers with.

        Raises:
            SelfCheckError: it is another key than was asked for.
        """
        return self._require_identity(key.id, name, version)

    def _require_identity(self, kid: object, name: str, version: str | None) -> str:
        start = f"https://{self._uri.host}/keys/{name}/"
        found = kid[len(start) :] if isinstance(kid, str) else ""
        right = str(kid)[: len(start)].lower() == start.lower() and _VERSION.fullmatch(found)
        if not right or found != (version or found):
            raise SelfCheckError(
                "the key store answered with another key than it was asked for",
                next_step="take the store out of use and find out who answers in its place",
            )
        return found

    def _sign(self, handle: _Handle, public: dict[str, Any], payload: bytes) -> bytes:
        key_id = f"https://{self._uri.host}/keys/{handle.name}/{handle.version}"
        algorithm = handle.algorithm
        named: list[object] = []

        # The SDK's result names the key that was asked for, not the one that the store says it used.
        def note(response: Any) -> None:
            if response.http_response.status_code == 200:
                named.append(response.http_response.json().get("kid"))

        def ask(connection: _Connection) -> bytes:
            named.clear()
            with_what = SIGNS_WITH[algorithm.family, algorithm.digest or ""]
            return connection.signer(key_id, public).sign(with_what, payload, raw_response_hook=note).signature

        raw = self._call(SIGN, ask, repeat=True)
        self._require_identity(named[-1] if named else None, handle.name, handle.version)
        return signature_of(algorithm, raw)

    def _attestation(self, name: str, version: str) -> Attestation | None:
        if self._uri.kind is not Kind.MANAGED_HSM:
            return None
        try:
            key = self._call(READ, lambda one: one.keys.get_key_attestation(name, version), repeat=True)
        except (KeyHandleError, AlgorithmNotSupportedError):
            return None
        self._identity(key, name, version)
        return attestation_of(key.properties)

    def _check_region(self) -> str:
        """Ask for a list of one key; the region that the store says it is in, else that of the URI."""
        said: list[str] = []

        def note(response: Any) -> None:
            said.append(str(response.http_response.headers.get(_REGION_HEADER, "")))

        def ask(connection: _Connection) -> None:
            pages = connection.keys.list_properties_of_keys(max_page_size=1, raw_response_hook=note).by_page()
            for _ in next(iter(pages), ()):
                break

        self._call(LIST, ask, repeat=True)
        region = re.sub(r"[^a-z0-9]", "", said[-1].lower()[:64]) if said else ""
        if self._uri.region and region and region != self._uri.region:
            raise ProviderConfigurationError(
                f"the key store is in {region}, not in {self._uri.region}",
                next_step="name the region that it is in, or another store",
            )
        return self._uri.region or region

    def _remove(self, name: str, *, purge_must: bool = True) -> None:
        """Delete a key and all its versions, and purge it where the store permits."""
        pauses = iter(_PURGE_PAUSES)
        deleted = self._delete(name)
        while (level := self._deleted_level(name)) is None:
            if not deleted:
                return
            self._pause(pauses)
        if "purgeable" not in level.lower():
            return
        while True:
            try:
                self._call(PURGE, lambda connection: connection.keys.purge_deleted_key(name), repeat=True)
            except KeyHandleError:
                return
            except ProviderPermissionError:
                if purge_must:
                    raise
            except _BusyError:
                self._pause(pauses)
                continue
            return

    def _delete(self, name: str) -> bool:
        """Whether there was something to delete that may yet turn up among deleted keys."""
        try:
            poller = self._call(DELETE, lambda connection: connection.keys.begin_delete_key(name), repeat=True)
        except KeyHandleError:
            return False
        except _BusyError:
            return True
        return poller.result().recovery_id is not None

    def _deleted_level(self, name: str) -> str | None:
        """How a deleted key can be recovered; ``None`` where it is not among the deleted ones."""
        try:
            key = self._call(READ_DELETED, lambda connection: connection.keys.get_deleted_key(name), repeat=True)
        except (KeyHandleError, _BusyError):
            return None
        return key.properties.recovery_level or ""

    def _pause(self, pauses: Iterator[float]) -> None:
        pause = next(pauses, None)
        if pause is None:
            raise ProviderUnavailableError(
                "the key is deleted, and the key store is not ready yet to purge it", next_step="destroy it again"
            )
        self._sleep(pause)

    def _make(self, action: Action, name: str, ask: Callable[[_Connection], KeyVaultKey]) -> KeyVaultKey:
        """Have a key made or taken, once. What a call may have left behind that failed half-way is deleted."""
        try:
            return self._call(action, ask, repeat=False)
        except (AlgorithmNotSupportedError, KeyHandleError, ProviderThrottledError, ProviderPermissionError):
            raise
        except ProviderError:
            self._discard(name)
            raise

    def _discard(self, name: str) -> None:
        """Delete a key that nobody will ask for again, if the store lets the gateway."""
        try:
            self._call(DELETE, lambda connection: connection.keys.begin_delete_key(name), repeat=True)
        except ProviderError:
            return

    def _remember(self, handle: str, public: dict[str, Any]) -> None:
        with self._lock:
            self._public[handle] = public
            if len(self._public) > _KEYS_KNOWN:
                self._public.popitem(last=False)

    def _forget(self, handle: str) -> None:
        with self._lock:
            self._public.pop(handle, None)

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection(self._uri, self._login)
        try:
            yield connection
        finally:
            self._idle.append(connection)

    def _call(self, action: Action, ask: Callable[[_Connection], T], *, repeat: bool) -> T:
        """Ask the store, and ask again where that is safe and may help.

        Raises:
            ProviderError: what it meant by refusing.
        """
        started = time.monotonic()
        for pause in (*(_RETRY_PAUSES if repeat else ()), None):
            try:
                with self._connection() as connection:
                    return ask(connection)
            except Exception as caught:  # noqa: BLE001  (the SDK raises what it stumbles over in an answer)
                error = self._meaning(caught, action)
            wait = None if pause is None else _wait(error, pause)
            if wait is None or time.monotonic() - started > _NO_MORE_RETRIES_AFTER:
                raise error from None
            self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _meaning(self, caught: Exception, action: Action) -> ProviderError:
        if (
            isinstance(caught, HttpResponseError)
            and caught.status_code == 409
            and action in (DELETE, READ_DELETED, PURGE)
        ):
            return _BusyError("the key is being deleted")
        if isinstance(caught, HttpResponseError) and caught.status_code == 400:
            return _bad_request(action, self._hardware)
        source = self._uri.source if self._uri.auth in (Auth.CLIENT_CERTIFICATE, Auth.CLIENT_SECRET) else None
        refused = isinstance(caught, (LoginRefusedError, ClientAuthenticationError))
        if refused and source is not None and fingerprint(source) != self._credential_file:
            return BackendLostError("the credential was replaced, and a new worker logs in with the new one")
        return refusal(caught, action, self._uri.kind)


class _BusyError(ProviderUnavailableError):
    """The key is between two states."""


def _wait(error: ProviderError, pause: float) -> float | None:
    """How long to wait before another try, in seconds; ``None`` where there should be none."""
    lengthened = pause * (1 + random.random() / 2)  # noqa: S311  (no secret)
    if isinstance(error, ProviderThrottledError):
        after = error.retry_after
        if after is None:
            return lengthened
        return after.total_seconds() + lengthened if after <= _LONGEST_RETRY_AFTER else None
    return lengthened if type(error) is ProviderUnavailableError else None


def _bad_request(action: Action, hardware: str) -> ProviderError:
    if action is CREATE:
        return AlgorithmNotSupportedError(
            "the key store refuses to make such a key",
            next_step="a Standard vault has no keys in hardware: use a Premium one, or protection=SOFTWARE"
            if hardware
            else "look at the store's own log",
        )
    if action in (IMPORT, SIGN):
        return AlgorithmNotSupportedError("the key store refuses the key, or what it should do with it")
    return KeyHandleError("the key store has no such key")


def _wrapping_key_of(key: KeyVaultKey) -> rsa.RSAPublicKey:
    """The public key of a key exchange key.

    Raises:
        SelfCheckError: it is not one in hardware, for imports only.
    """
    try:
        public = rsa_public_key_of(key)
        right = public.key_size == _WRAPPING_KEY_BITS and jwk(key, "kty") == "RSA-HSM"
    except AlgorithmNotSupportedError:
        right = False
    if not right or jwk(key, "key_ops") != ["import"]:
        raise SelfCheckError("the key store made another wrapping key than it was asked for")
    return public


def _expired() -> ImportExpiredError:
    return ImportExpiredError(
        "the key store has no such wrapping key, or it is too old", next_step="begin the import again"
    )


def _parse(handle: str) -> _Handle:
    found = _HANDLE.fullmatch(handle)
    if found is None or found[3] not in OFFERED:
        raise KeyHandleError("the key store has no such key")
    return _Handle(found[1], found[2], ALGORITHMS[found[3]])


def _parse_state(state: bytes) -> tuple[str, str]:
    """Name and version of the wrapping key of an import."""
    try:
        document: Any = json.loads(state) if len(state) <= _MAX_STATE else None
        name, version = document["name"], document["version"]
        if _WRAPPING_NAME.fullmatch(name) and _VERSION.fullmatch(version):
            return name, version
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ImportExpiredError("this is not an import of this key store", next_step="begin the import again")


def _name(label: str) -> str:
    """A name that no other key has: 1 to 127 of 0-9, a-z, A-Z and ``-``."""
    return f"{re.sub(r'[^0-9A-Za-z-]', '-', label)[:100]}-{secrets.token_hex(10)}"


def _tags(label: str, algorithm: Algorithm, origin: str) -> dict[str, str]:
    return {"sealkeeper-label": label, "sealkeeper-algorithm": algorithm.name, "sealkeeper-origin": origin}
