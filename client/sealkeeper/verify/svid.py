"""What callers' certificates may look like: X.509-SVIDs (SPIFFE X.509-SVID, sections 2 to 5) and those of private CAs.

The web's rules (RFC 5280), loosened where such certificates differ: the name may be critical or not, whatever the
subject is; server and client may stand in one extended key usage; no authority key identifier is needed; CAs often have
no key usage. That a certificate is a CA's, or a caller's, is for whoever reads it to check.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy

_AGNOSTIC = Criticality.AGNOSTIC

CALLER = (
    ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.SubjectAlternativeName, _AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, _AGNOSTIC, None)
    .may_be_present(x509.AuthorityKeyIdentifier, _AGNOSTIC, None)
    .may_be_present(x509.CertificatePolicies, _AGNOSTIC, None)
)
"""Of a caller's own certificate."""

AUTHORITY = (
    ExtensionPolicy.webpki_defaults_ca()
    .require_present(x509.BasicConstraints, _AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, _AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, _AGNOSTIC, None)
    .may_be_present(x509.SubjectAlternativeName, _AGNOSTIC, None)
    .may_be_present(x509.AuthorityKeyIdentifier, _AGNOSTIC, None)
    .may_be_present(x509.CertificatePolicies, _AGNOSTIC, None)
)
"""Of the CAs that vouch for it."""
