"""Offline verification: a bundle, an artifact, a trust root and a policy; no network, no gRPC.

>>> from sealkeeper.verify import Artifact, Policy, TrustRoot, verify
"""

from __future__ import annotations

from sealkeeper.verify.artifact import Artifact
from sealkeeper.verify.ceremony import Ceremony, CeremonyResult, KeptCeremony, LogProof, verify_ceremony
from sealkeeper.verify.errors import (
    LogCorruptError,
    MalformedBundleError,
    PolicyError,
    StepFailedError,
    TrustRootError,
    VerifyError,
)
from sealkeeper.verify.steps import Step
from sealkeeper.verify.trust import TrustRoot
from sealkeeper.verify.verifier import Policy, VerificationResult, verify

__all__ = [
    "Artifact",
    "Ceremony",
    "CeremonyResult",
    "KeptCeremony",
    "LogCorruptError",
    "LogProof",
    "MalformedBundleError",
    "Policy",
    "PolicyError",
    "Step",
    "StepFailedError",
    "TrustRoot",
    "TrustRootError",
    "VerificationResult",
    "VerifyError",
    "verify",
    "verify_ceremony",
]
