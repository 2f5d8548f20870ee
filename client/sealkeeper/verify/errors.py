"""What verification refuses.

``reason`` is stable and upper snake case. Texts say what is wrong and where, never more of the input than its place.
"""

from __future__ import annotations


class VerifyError(Exception):
    """Base of all errors of this package."""

    reason = "VERIFICATION_FAILED"


class MalformedBundleError(VerifyError):
    """The bundle is not what the Sigstore bundle format allows, v0.1 to v0.3."""

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


class StatementError(VerifyError):
    """An in-toto Statement is malformed.

    Attributes:
        path: the place in the Statement, for example ``$.subject[3].digest.sha256``.
        text: what is wrong there.
    """

    reason = "STATEMENT_INVALID"

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.text = text


class PredicateError(VerifyError):
    """A predicate is not what its type says.

    Attributes:
        path: the place in the predicate of the first problem, for example ``$.buildDefinition.externalParameters``.
        text: what is wrong there.
        problems: all that were found, each its path and text, the first one included.
    """

    reason = "PREDICATE_INVALID"

    def __init__(self, path: str, text: str, *more: tuple[str, str]) -> None:
        self.path = path
        self.text = text
        self.problems = ((path, text), *more)
        super().__init__("; ".join(f"{path}: {text}" for path, text in self.problems))


class GatePolicyError(VerifyError):
    """A gate's policy is not what it should be; the text starts with the place, for example ``$.signers``."""

    reason = "GATE_POLICY_INVALID"


class EvidenceError(VerifyError):
    """What is there about an artifact cannot be looked at: it is too much, or it cannot be had.

    Attributes:
        reason: ATTESTATIONS_TOO_MANY, ATTESTATIONS_TOO_LARGE or ATTESTATIONS_UNAVAILABLE.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


class RegoError(VerifyError):
    """A Rego module is not one that a gate can use.

    Attributes:
        line: where, from 1; 0 where no place is known.
        column: in that line, in characters from 1; 0 likewise.
    """

    reason = "REGO_INVALID"

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(f"line {line}, column {column}: {message}" if line else message)
        self.line = line
        self.column = column


class RegoTimeoutError(VerifyError):
    """A Rego module took longer than it may."""

    reason = "REGO_TIMEOUT"


class RegoMemoryError(VerifyError):
    """A Rego module took more memory than it may."""

    reason = "REGO_MEMORY"


class RegoFailedError(VerifyError):
    """A Rego module has no result: its evaluation failed, the interpreter died of it, or the input is none."""

    reason = "REGO_FAILED"


class RegoMissingError(VerifyError):
    """The interpreter for Rego is not installed."""

    reason = "REGO_MISSING"
