"""What verification refuses.

``reason`` is stable and upper snake case. Texts say what is wrong and where, never more of the input than its place.
"""

from __future__ import annotations


class VerifyError(Exception):
    """Base of all errors of this package."""

    reason = "VERIFICATION_FAILED"


class MalformedBundleError(VerifyError):
    """The bundle is not what the Sigstore bundle v0.3 format allows."""

    reason = "BUNDLE_MALFORMED"


class TrustRootError(VerifyError):
    """The trust root cannot be read or does not make sense."""

    reason = "TRUST_ROOT_INVALID"


class ProofError(VerifyError):
    """An inclusion or consistency proof does not lead to the root."""

    reason = "PROOF_INVALID"


class NoteError(VerifyError):
    """A signed note or checkpoint is malformed, or not signed by the key it should be."""

    reason = "NOTE_INVALID"


class PolicyError(VerifyError):
    """The policy pins nothing, or pins what contradicts itself."""

    reason = "POLICY_INVALID"


class LogCorruptError(VerifyError):
    """A log does not agree with its checkpoint.

    Attributes:
        index: the first entry that is bad; ``None`` where the fault cannot be laid at one entry.
    """

    reason = "LOG_CORRUPT"

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class StepFailedError(VerifyError):
    """A step of a verification failed.

    Attributes:
        step: its stable name.
    """

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
