"""Requests to AWS KMS: typed answers, a short retry where that is safe, and errors that a person can act on.

Source of operations and error codes: AWS Key Management Service API Reference, version 2014-11-01.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from secrets import SystemRandom
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import boto3
import msgspec
from botocore import exceptions
from botocore.config import Config
from botocore.session import Session

from sealkeeper.hsm.awskms_credentials import open_session
from sealkeeper.hsm.awskms_uri import AwsKmsUri
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
    WrappedKeyError,
)
from sealkeeper.hsm.unreachable import because

_T = TypeVar("_T")

CONCURRENCY = 16
"""Connections that are held, and requests at a time."""

KEY_ID = r"(?:mrk-)?[0-9a-f][0-9a-f-]{31,35}"
"""Pattern of a key's id: a UUID, for multi-Region keys 32 hexadecimal digits behind ``mrk-``."""

Operation: TypeAlias = Literal[
    "CreateKey",
    "DeleteImportedKeyMaterial",
    "DescribeKey",
    "GenerateRandom",
    "GetParametersForImport",
    "GetPublicKey",
    "ImportKeyMaterial",
    "ScheduleKeyDeletion",
    "Sign",
]
"""All that AWS is ever asked for. The policy in docs/providers/awskms.md allows exactly these, and to tag new keys."""

_METHODS: dict[Operation, str] = {
    "CreateKey": "create_key",
    "DeleteImportedKeyMaterial": "delete_imported_key_material",
    "DescribeKey": "describe_key",
    "GenerateRandom": "generate_random",
    "GetParametersForImport": "get_parameters_for_import",
    "GetPublicKey": "get_public_key",
    "ImportKeyMaterial": "import_key_material",
    "ScheduleKeyDeletion": "schedule_key_deletion",
    "Sign": "sign",
}
# Seconds. A request that is answered late is not sent again: the caller has waited long enough.
_CONNECT_TIMEOUT, _READ_TIMEOUT, _PATIENCE = 3, 8, 4.0
_FIRST_PAUSE, _LONGEST_PAUSE, _MOST_TRIES = 0.1, 0.8, 5
# AWS says no time. Its quotas are by the second.
_RETRY_AFTER = timedelta(seconds=1)

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_THROTTLED = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "429",
    }
)
_PASSING = frozenset(
    {
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "InternalFailure",
        "InternalError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
_REFUSED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "NotAuthorizedException",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
_UNTIMELY = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_SIGNED_WRONG = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
_UNTIMELY_TEXTS = ("Signature expired", "Signature not yet current")
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorizedException"})
# Nothing has been sent after these, so that even what must not be done twice may be tried again.
_UNSENT = (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError)
_UNREACHABLE = (exceptions.ConnectionError, exceptions.HTTPClientError)
_MISCONFIGURED = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.ConfigNotFound,
    exceptions.ConfigParseError,
    exceptions.InvalidConfigError,
    exceptions.InvalidRegionError,
    exceptions.BaseEndpointResolverError,
    exceptions.EndpointProviderError,
    exceptions.MissingDependencyException,
)
_UNAUTHENTICATED = (
    exceptions.CredentialRetrievalError,
    exceptions.NoAuthTokenError,
    exceptions.TokenRetrievalError,
    exceptions.MetadataRetrievalError,
    exceptions.SSOError,
)

_Short: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class KeyMetadata(msgspec.Struct, rename="pascal"):
    """What AWS says of a key (``KeyMetadata``)."""

    key_id: Annotated[str, msgspec.Meta(pattern=rf"^{KEY_ID}\Z")]
    arn: _Short
    creation_date: datetime
    key_manager: _Short
    key_spec: _Short
    key_state: _Short
    key_usage: _Short
    origin: _Short
    multi_region: bool = False
    expiration_model: _Short | None = None
    custom_key_store_id: _Short | None = None
    cloud_hsm_cluster_id: _Short | None = None


class Described(msgspec.Struct, rename="pascal"):
    """Answer to ``CreateKey`` and ``DescribeKey``."""

    key_metadata: KeyMetadata


class PublicKeyRead(msgspec.Struct, rename="pascal"):
    """Answer to ``GetPublicKey``: id or ARN of the key, and SubjectPublicKeyInfo, DER."""

    key_id: _Short
    public_key: Annotated[bytes, msgspec.Meta(max_length=8192)]


class Signed(msgspec.Struct, rename="pascal"):
    """Answer to ``Sign``: id or ARN of the key, and the signature."""

    key_id: _Short
    signature: Annotated[bytes, msgspec.Meta(max_length=6144)]


class ImportParameters(msgspec.Struct, rename="pascal"):
    """Answer to ``GetParametersForImport``."""

    import_token: Annotated[bytes, msgspec.Meta(min_length=1, max_length=6144)]
    public_key: Annotated[bytes, msgspec.Meta(max_length=4096)]
    parameters_valid_to: datetime


class Done(msgspec.Struct):
    """An answer of which nothing is needed."""


for _answer in (Described, Done, ImportParameters, PublicKeyRead, Signed):
    # msgspec learns a type at its first use, and the process crashes where another thread uses it meanwhile.
    msgspec.json.Decoder(_answer)


class KeyStateError(ProviderPermissionError):
    """The key is in a state in which it cannot do what it was asked for. Other keys are not concerned."""


class KmsClient:
    """One region's KMS; several threads may use it at once.

    Args:
        uri: where it is.
        sleep: waits for a number of seconds.
        clock: seconds that only go forward.

    Attributes:
        region: that it is in.

    Raises:
        ProviderConfigurationError: there is no region, or no credentials.
        ProviderUnavailableError: the credentials cannot be fetched now.
    """

    def __init__(
        self, uri: AwsKmsUri, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._random = SystemRandom()
        try:
            self.region = _region(uri)
            self._client = _connect(uri, self.region)
        except exceptions.ClientError as error:
            raise _refusal("AssumeRole", error) from None
        except exceptions.BotoCoreError as error:
            raise _failure(error) from None

    def ask(
        self, operation: Operation, kind: type[_T], *, repeatable: bool = True, fresh: bool = False, **parameters: Any
    ) -> _T:
        """Send a request, again for a moment where AWS takes none or fails.

        Args:
            operation: what is asked.
            kind: what the answer is read as.
            repeatable: doing it twice does no harm.
            fresh: the key is a new one, which other parts of AWS hear of late.
            parameters: of the request.

        Raises:
            ProviderError: what is wrong.
        """
        give_up = self._clock() + _PATIENCE
        for tried in range(1, _MOST_TRIES + 1):
            try:
                answer = getattr(self._client, _METHODS[operation])(**parameters)
            except (exceptions.ClientError, exceptions.BotoCoreError) as error:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tried - 1)) * (0.5 + self._random.random() / 2)
                worth_it = _may_pass(error, repeatable=repeatable, fresh=fresh)
                if not worth_it or tried == _MOST_TRIES or self._clock() + pause > give_up:
                    raise translated(operation, error) from None
                self._sleep(pause)
            else:
                return _read(answer, kind)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def translated(operation: str, error: Exception) -> ProviderError:
    """Our error for one of the SDK's. None of the server's own words are in its text but the error code."""
    return _refusal(operation, error) if isinstance(error, exceptions.ClientError) else _failure(error)


def _region(uri: AwsKmsUri) -> str:
    region = uri.region or Session(profile=uri.profile).get_config_variable("region")
    if not isinstance(region, str) or not region:
        raise ProviderConfigurationError(
            "no AWS region is set", next_step="name it in the URI: awskms:region=eu-central-1"
        )
    return region


def _connect(uri: AwsKmsUri, region: str) -> Any:
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=CONCURRENCY,
        # The SDK would also make a key again whose making was not answered.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Where requests go is what the URI says, whatever variables and profiles say.
        ignore_configured_endpoint_urls=True,
        proxies={},
        user_agent_extra="sealkeeper",
    )
    session: boto3.Session = open_session(uri, region, config)
    return session.client("kms", region_name=region, endpoint_url=uri.endpoint, config=config)


def _code(error: exceptions.ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else "Unknown"


def _message(error: exceptions.ClientError) -> str:
    """AWS's text: to compare, not to show."""
    return str(error.response.get("Error", {}).get("Message", ""))


def _status(error: exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _may_pass(error: Exception, *, repeatable: bool, fresh: bool) -> bool:
    if not isinstance(error, exceptions.ClientError):
        return isinstance(error, _UNSENT) or (repeatable and isinstance(error, _UNREACHABLE))
    code = _code(error)
    if code in _THROTTLED or (fresh and (code in _DENIED or code == "NotFoundException")):
        return True
    return repeatable and (code in _PASSING or _status(error) >= 500)


def _read(answer: Any, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError:
        raise ProviderUnavailableError("AWS KMS answered what was not asked") from None


def _refusal(operation: str, error: exceptions.ClientError) -> ProviderError:
    code = _code(error)
    # A request for a role fails inside of the one that needs it.
    operation = operation if error.operation_name in _METHODS else "AssumeRole"
    if code in _THROTTLED:
        return ProviderThrottledError(
            f"AWS KMS takes no more requests at this rate ({operation})",
            next_step="wait, or have the request quota of this account and region raised (Service Quotas)",
            retry_after=_RETRY_AFTER,
        )
    if code in _DENIED:
        return ProviderPermissionError(f"AWS does not allow {operation} ({code})", next_step=_permission(operation))
    if code in _UNTIMELY or (code in _SIGNED_WRONG and any(text in _message(error) for text in _UNTIMELY_TEXTS)):
        return ProviderPermissionError(
            f"AWS refuses what was signed by a clock that is off ({code})",
            next_step="set this machine's clock right (NTP): AWS takes a difference of five minutes at most",
        )
    if code in _REFUSED:
        return ProviderPermissionError(
            f"AWS does not accept the credentials ({code})",
            next_step="renew them; if they are new, check this machine's clock",
        )
    found = _TEXTS.get(code)
    if found is not None:
        kind, text, next_step = found
        return kind(text, next_step=next_step)
    if operation in _UNSUPPORTED and code in ("ValidationException", "UnsupportedOperationException"):
        kind, text, next_step = _UNSUPPORTED[operation]
        return kind(text, next_step=next_step)
    if code in _PASSING or _status(error) >= 500:
        return ProviderUnavailableError(
            f"AWS KMS failed ({operation}: {code})", next_step="try again; look at the region's AWS Health status"
        )
    # It answered, if only to refuse, and that may be a matter of one key.
    kind = ProviderPermissionError if 400 <= _status(error) < 500 else ProviderUnavailableError
    return kind(f"AWS KMS refused the request ({operation}: {code})", next_step="look the request up in CloudTrail")


def _permission(operation: str) -> str:
    if operation == "AssumeRole":
        return "let the gateway's own identity take on the role: sts:AssumeRole, and the role's trust policy"
    also = " and kms:TagResource" if operation == "CreateKey" else ""
    return f"allow kms:{operation}{also} in the gateway's IAM policy, and look at the key's own policy"


def _failure(error: Exception) -> ProviderError:
    """For what went wrong before AWS answered."""
    name = type(error).__name__
    if isinstance(error, _MISCONFIGURED):
        return ProviderConfigurationError(
            f"AWS cannot be asked as configured ({name})",
            next_step="check region, profile and credentials of the awskms: URI",
        )
    if isinstance(error, _UNAUTHENTICATED):
        return ProviderPermissionError(
            f"AWS credentials cannot be fetched ({name})",
            next_step="check the machine's or pod's role, or log in to the profile anew",
        )
    if isinstance(error, exceptions.SSLError):
        return ProviderUnavailableError(
            "the certificate of the AWS KMS endpoint is not trusted",
            next_step="check who answers at the endpoint; name a private authority with AWS_CA_BUNDLE",
        )
    if isinstance(error, _UNREACHABLE):
        return ProviderUnavailableError(
            f"AWS KMS cannot be reached ({name}){because(error)}",
            next_step="check region and endpoint of the awskms: URI, DNS, firewall, and any VPC endpoint",
        )
    return ProviderUnavailableError(f"AWS's SDK failed ({name})", next_step="try again; if it stays so, report it")


_TEXTS: dict[str, tuple[type[ProviderError], str, str]] = {
    "NotFoundException": (
        KeyHandleError,
        "AWS KMS has no such key in this region",
        "check region and account of the awskms: URI",
    ),
    "InvalidArnException": (KeyHandleError, "AWS KMS has no such key in this region", ""),
    "DisabledException": (
        ProviderPermissionError,
        "the key is disabled in AWS KMS",
        "have an administrator enable it: aws kms enable-key",
    ),
    "KMSInvalidStateException": (
        KeyStateError,
        "the key's state in AWS KMS does not allow it",
        "look at it: aws kms describe-key",
    ),
    "InvalidKeyUsageException": (AlgorithmNotSupportedError, "the key in AWS KMS is not one for the algorithm", ""),
    "LimitExceededException": (
        ProviderPermissionError,
        "the account has as many KMS keys in this region as it may",
        "have the quota raised (Service Quotas), or remove keys that are not needed",
    ),
    "InvalidCiphertextException": (
        WrappedKeyError,
        "AWS KMS cannot unwrap the key",
        "wrap the key under the wrapping key of this import, by the method that was offered",
    ),
    "IncorrectKeyMaterialException": (
        WrappedKeyError,
        "what AWS KMS unwrapped is not a key for the algorithm, or not the one that was imported before",
        "check the key's type, curve or size, and that it is PKCS#8 DER",
    ),
    "ExpiredImportTokenException": (
        ImportExpiredError,
        "the wrapping key's 24 hours are over",
        "begin the import anew",
    ),
    "InvalidImportTokenException": (
        ImportExpiredError,
        "AWS KMS does not know the wrapping key any more",
        "begin the import anew",
    ),
}
_UNSUPPORTED: dict[str, tuple[type[ProviderError], str, str]] = {
    "CreateKey": (
        AlgorithmNotSupportedError,
        "AWS KMS makes no such key in this region",
        "leave the algorithm out with algorithms=... in the awskms: URI",
    ),
    "GetParametersForImport": (
        ImportNotSupportedError,
        "AWS KMS takes no such key from outside in this region",
        "have the key made in AWS KMS",
    ),
}
