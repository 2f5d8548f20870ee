"""Whose credentials AWS is asked with: the SDK's standard chain, a file, or a role taken on with either."""

from __future__ import annotations

from configparser import Error as ConfigError
from configparser import RawConfigParser
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.session import Session

from sealkeeper.hsm.awskms_uri import AwsKmsUri
from sealkeeper.hsm.errors import ProviderConfigurationError, ProviderPermissionError
from sealkeeper.hsm.secret_file import fingerprint, read_secret

_ACCESS, _SECRET, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"
_FORMAT = f"write it as AWS's tools do: [default], {_ACCESS} = ..., {_SECRET} = ..., and {_TOKEN} where there is one"


def open_session(uri: AwsKmsUri, region: str, config: Config) -> boto3.Session:
    """A session with credentials, which are fetched anew before they run out.

    Raises:
        ProviderConfigurationError: there are none, or the file with them cannot be used.
        BotoCoreError: the SDK cannot load them.
    """
    session = _session(uri, region, config)
    if uri.credentials_source is not None:
        _give(session, _FileCredentials(uri.credentials_source))
    source = session.get_credentials()
    if source is None:
        raise ProviderConfigurationError(
            "there are no AWS credentials",
            next_step="give the gateway's machine or pod a role, or name a file with credentials-source=file:/path",
        )
    if uri.role_arn is None:
        return boto3.Session(botocore_session=session)
    create = partial(session.create_client, region_name=region, endpoint_url=uri.sts_endpoint, config=config)
    fetcher = AssumeRoleCredentialFetcher(create, source, uri.role_arn, {"RoleSessionName": "sealkeeper"})
    # A session keeps the credentials that it has loaded, so those of the role need one of their own.
    in_role = _session(uri, region, config)
    _give(in_role, DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role"))
    return boto3.Session(botocore_session=in_role)


def _session(uri: AwsKmsUri, region: str, config: Config) -> Session:
    session = Session(profile=uri.profile)
    # Those clients too with which the SDK itself fetches credentials: by its own, they wait for minutes, and go to
    # another region.
    session.set_config_variable("region", region)
    session.set_default_client_config(config)
    return session


def _give(session: Session, credentials: Any) -> None:
    session.register_component("credential_provider", CredentialResolver([_Given(credentials)]))


class _Given(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    METHOD = "sealkeeper"
    CANONICAL_NAME = "custom-sealkeeper"

    def __init__(self, credentials: Any) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Any:
        return self._credentials


class _FileCredentials(Credentials):  # type: ignore[misc]  # botocore has no types
    """An access key in a file, which is read again once it has changed: whoever puts it there can renew it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = Lock()
        self._seen = fingerprint(path)
        access, secret, token = _read(path)
        super().__init__(access, secret, token, method="sealkeeper")

    def get_frozen_credentials(self) -> Any:
        with self._reading:
            seen = fingerprint(self._path)
            if seen != self._seen:
                try:
                    self.access_key, self.secret_key, self.token = _read(self._path)
                except ProviderConfigurationError as error:
                    # It was right once, and can become right again without a restart.
                    raise ProviderPermissionError(str(error), next_step=error.next_step) from None
                self._seen = seen
            return super().get_frozen_credentials()


def _read(path: Path) -> tuple[str, str, str | None]:
    """Access key id, secret access key and session token of an AWS credentials file's default section."""
    parser = RawConfigParser(default_section="", delimiters=("=",), comment_prefixes=("#", ";"))
    try:
        parser.read_string(read_secret(path, "AWS credentials").decode("ascii"))
        found = dict(parser["default"])
    except (ConfigError, KeyError, ValueError):
        # The error's text would show the line.
        raise ProviderConfigurationError("the AWS credentials file is malformed", next_step=_FORMAT) from None
    if not found.get(_ACCESS) or not found.get(_SECRET) or set(found) - {_ACCESS, _SECRET, _TOKEN}:
        raise ProviderConfigurationError(
            "the AWS credentials file lacks an access key, or holds more than that", next_step=_FORMAT
        )
    return found[_ACCESS], found[_SECRET], found.get(_TOKEN) or None
