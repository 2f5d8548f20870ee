"""What can go wrong between here and a registry.

``reason`` is stable and upper snake case. Texts name hosts, repositories and digests, which are no secrets; they never
hold credentials, tokens, or what a registry wrote beyond the code of its error.
"""

from __future__ import annotations


class RegistryError(Exception):
    """Base of all errors of this package.

    Attributes:
        reason: stable, upper snake case.
        next_step: what a person can do about it.
        transient: the same may work later.
    """

    reason = "REGISTRY_ERROR"
    next_step = "look at what the registry logged"
    transient = False

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        if next_step:
            self.next_step = next_step


class ImageReferenceError(RegistryError):
    """The text is no reference of an image."""

    reason = "REFERENCE_INVALID"
    next_step = "write it as registry/repository:tag or registry/repository@sha256:digest"


class CredentialsError(RegistryError):
    """A file of credentials cannot be read, or a credential helper fails."""

    reason = "CREDENTIALS_UNUSABLE"
    next_step = "log in again with docker login or podman login, or correct the file"


class RegistryUnavailableError(RegistryError):
    """The registry cannot be reached, or says that it cannot answer now."""

    reason = "REGISTRY_UNAVAILABLE"
    next_step = "check the registry's name, the network and the proxy; of a private CA, name its file"
    transient = True


class RegistryTimeoutError(RegistryUnavailableError):
    """The time for the whole operation is over."""

    reason = "REGISTRY_TIMEOUT"
    next_step = "try again; when it happens again, look at the registry, or allow more time"


class RegistryThrottledError(RegistryUnavailableError):
    """The registry takes no more requests at this rate."""

    reason = "REGISTRY_THROTTLED"
    next_step = "wait, or log in to the registry, which allows more"


class RegistryDeniedError(RegistryError):
    """The registry does not let these credentials, or nobody without any, do this."""

    reason = "REGISTRY_DENIED"
    next_step = "log in to the registry, and check that the account may read, or write, the repository"


class ManifestUnknownError(RegistryError):
    """The registry has no such manifest; most say so of a repository that must not be seen, too."""

    reason = "MANIFEST_UNKNOWN"
    next_step = "check the name, the tag and the digest"


class BlobUnknownError(RegistryError):
    """The registry has no such blob."""

    reason = "BLOB_UNKNOWN"
    next_step = "push the image or the attachment again; its registry has lost a part of it"


class DigestLiesError(RegistryError):
    """What came is not what its digest, or its size, says."""

    reason = "DIGEST_LIES"
    next_step = "do not use what this registry, or a proxy before it, serves until somebody has looked into it"


class TooLargeError(RegistryError):
    """An answer has, or says that it has, more bytes than are taken."""

    reason = "TOO_LARGE"
    next_step = "remove what was attached in excess, or raise the limit"


class TooManyError(RegistryError):
    """There are more manifests, layers, pages or bundles than are taken."""

    reason = "TOO_MANY"
    next_step = "remove what was attached in excess, or raise the limit"


class RedirectRefusedError(RegistryError):
    """The registry sends the request to where it must not go."""

    reason = "REDIRECT_REFUSED"
    next_step = "correct the registry's set-up: blobs alone are redirected, and to https"


class AddressRefusedError(RegistryError):
    """A name leads to an address that must not be connected to."""

    reason = "ADDRESS_REFUSED"
    next_step = "allow the host to be local where it is meant to be; else somebody looks for a way into the network"


class PlaintextRefusedError(AddressRefusedError):
    """Something would have to be asked for without TLS."""

    reason = "PLAINTEXT_REFUSED"
    next_step = "serve it over TLS, or name the host as an insecure one"


class MalformedError(RegistryError):
    """The registry's answer, or what is stored in it, is not what the OCI specs allow."""

    reason = "MALFORMED"
    next_step = "check that this is a registry, and what pushed the manifest to it"


class ConflictError(RegistryError):
    """Others change the same list of referrers again and again."""

    reason = "REFERRERS_CONFLICT"
    next_step = "attach again when the other one is done"
    transient = True
