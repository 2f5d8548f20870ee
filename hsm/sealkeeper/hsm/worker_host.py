"""What a worker does with one request: the same whether one thread serves or several do."""

from __future__ import annotations

from contextlib import suppress

from sealkeeper.hsm import frames
from sealkeeper.hsm.algorithms import Algorithm, PublicKey, algorithm_named, load_public_key, signature_verifies
from sealkeeper.hsm.backend import (
    Backend,
    BackendLostError,
    DiagnosingBackend,
    ImportBackend,
    WitnessBackend,
    check_payloads,
)
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportNotSupportedError,
    ProviderError,
    SelfCheckError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import KeyEvidence, Origin, ProviderKey
from sealkeeper.hsm.registry import open_backend

MAX_WRAPPED = 16 * 1024
"""Bytes of a wrapped private key."""

_CACHE_LIMIT = 10_000


class WorkerHost:
    """Answers requests with the backend that the first of them opens.

    Attributes:
        lost: the store cannot be reached from this process any more; it should end.
    """

    def __init__(self) -> None:
        self.lost = False
        self._backend: Backend | None = None
        self._public: dict[str, PublicKey] = {}

    @property
    def backend(self) -> Backend:
        """The open store.

        Raises:
            ProviderError: none has been opened.
        """
        if self._backend is None:
            raise ProviderError("the worker has opened no store")
        return self._backend

    def close(self) -> None:
        """Let go of the store: log out, give tokens back. What goes wrong there is of no interest any more."""
        if self._backend is not None:
            with suppress(Exception):
                self._backend.close()

    def answer(self, request: frames.Request) -> frames.Response:
        """Do all of a request that is not one to sign."""
        try:
            answer = self._answer(request)
            # What cannot be written, as a text with half a character in it, must not fail where it is sent.
            frames.frame([answer])
        except Exception as error:  # noqa: BLE001  (see ``failed``)
            return self.failed(request, error)
        return answer

    def failed(self, request: frames.Request, error: Exception) -> frames.Failed:
        """The answer that says what went wrong. A library's error must neither end the worker nor show its text."""
        if isinstance(error, ProviderError):
            self.lost = self.lost or isinstance(error, BackendLostError)
            return frames.Failed(
                request.id, error.reason, _writable(str(error)), _writable(error.next_step), error.retry_after
            )
        text = f"the key store failed unexpectedly ({type(error).__name__})"
        return frames.Failed(request.id, "PROVIDER_UNAVAILABLE", text, "look at the key store's own log")

    def _answer(self, request: frames.Request) -> frames.Response:
        if isinstance(request, frames.Open):
            self._backend = open_backend(request.uri)
            return frames.Opened(request.id, self._backend.info)
        backend = self.backend
        match request:
            case frames.Generate():
                return _key(request.id, backend.generate(request.label, _offered(backend, request.algorithm)))
            case frames.Read():
                return _key(request.id, backend.public_key(request.handle))
            case frames.Destroy():
                backend.destroy(request.handle)
                self._public.pop(request.handle, None)
            case frames.Witness():
                return frames.Witnessed(request.id, _evidence(backend, request.handle))
            case frames.Diagnose():
                diagnoses = backend.diagnose() if isinstance(backend, DiagnosingBackend) else ()
                return frames.Diagnosed(request.id, list(diagnoses))
            case frames.BeginImport() | frames.FinishImport() | frames.EndImport():
                return _import(backend, request)
            case _:
                backend.check()
        return frames.Done(request.id)

    def sign(self, request: frames.Sign, start: int, end: int) -> list[bytes]:
        """Sign the payloads of a request from one place to another.

        Raises:
            ProviderError: as in ``KeyProvider.sign``.
        """
        backend = self.backend
        algorithm = _offered(backend, request.algorithm)
        if not start:
            check_payloads(algorithm, request.payloads, backend.info)
        payloads = request.payloads[start:end]
        signatures = backend.sign(request.handle, algorithm, payloads)
        if len(signatures) != len(payloads):
            raise SelfCheckError("the key store made another number of signatures than it was asked for")
        # What another computer, or a vendor's library, answers is not believed; nor what came over a wire.
        if backend.info.scheme != "software":
            public = self._public_key(backend, request.handle, algorithm)
            for payload, signature in zip(payloads, signatures, strict=True):
                if not signature_verifies(algorithm, public, payload, signature):
                    raise SelfCheckError(
                        "the key store made a signature that does not verify; it was withheld",
                        next_step="take the store out of use and have it examined",
                    )
        return signatures

    def _public_key(self, backend: Backend, handle: str, algorithm: Algorithm) -> PublicKey:
        public = self._public.get(handle)
        if public is None:
            public = load_public_key(algorithm, backend.public_key(handle).public_key)
            if len(self._public) >= _CACHE_LIMIT:
                self._public.clear()
            self._public[handle] = public
        return public


def _offered(backend: Backend, name: str) -> Algorithm:
    algorithm = algorithm_named(name)
    if name not in backend.info.algorithms:
        raise AlgorithmNotSupportedError(
            f"{backend.info.description} cannot do {name}",
            next_step=f"it can do: {', '.join(sorted(backend.info.algorithms))}",
        )
    return algorithm


def _evidence(backend: Backend, handle: str) -> KeyEvidence:
    if isinstance(backend, WitnessBackend):
        return backend.evidence(handle)
    backend.public_key(handle)
    return KeyEvidence(backend.info.protection_level, Origin.UNKNOWN, None)


def _import(backend: Backend, request: frames.BeginImport | frames.FinishImport | frames.EndImport) -> frames.Response:
    if not isinstance(backend, ImportBackend) or not backend.info.wrap_methods:
        raise ImportNotSupportedError(
            f"{backend.info.description} cannot unwrap private keys, so none can be brought into it",
            next_step="import into another provider, or have the key made where it is to live",
        )
    if isinstance(request, frames.BeginImport):
        offer = backend.begin_import(request.label, _offered(backend, request.algorithm))
        return frames.Offered(request.id, offer)
    if isinstance(request, frames.EndImport):
        backend.end_import(request.state)
        return frames.Done(request.id)
    if not 1 <= len(request.wrapped) <= MAX_WRAPPED:
        raise WrappedKeyError(
            f"a wrapped key has 1 to {MAX_WRAPPED} bytes, not {len(request.wrapped)}",
            next_step="hand over what sealkeeper keys import wrap has written",
        )
    algorithm = _offered(backend, request.algorithm)
    load_public_key(algorithm, request.public_key)
    key = backend.finish_import(
        request.state, request.label, algorithm, request.method, request.wrapped, request.public_key
    )
    return _key(request.id, key)


def _writable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _key(number: int, key: ProviderKey) -> frames.Key:
    return frames.Key(number, key.handle, key.algorithm.name, key.public_key)
