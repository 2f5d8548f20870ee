"""Provider URIs: which store, where it is, and which file holds its secret.

``pkcs11:`` as in RFC 7512, with ``module-path`` and ``pin-source=file:/...``; ``software:///folder`` with
``sealing-key-source=file:/...`` or ``passphrase-source=file:/...``. A secret itself never stands in a URI:
``pin-value`` is refused, because settings are shown, copied and logged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sealkeeper.hsm.errors import ProviderUriError

MAX_URI = 2048
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """A token and how to reach it (RFC 7512 section 2.3). ``None`` means: any.

    Attributes:
        module_path: the PKCS#11 library.
        pin_source: file with the user PIN.
        token: token label.
        manufacturer: of the token.
        model: of the token.
        serial: of the token.
        slot_id: number of the slot.
    """

    module_path: Path
    pin_source: Path
    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    slot_id: int | None = None


@dataclass(frozen=True, slots=True)
class SoftwareUri:
    """A folder of sealed key files. Exactly one of the sources is set.

    Attributes:
        directory: the folder.
        sealing_key_source: file with 32 random bytes, raw or as 64 hexadecimal digits.
        passphrase_source: file with a passphrase.
    """

    directory: Path
    sealing_key_source: Path | None = None
    passphrase_source: Path | None = None


def scheme_of(uri: str) -> str:
    """The scheme of a provider URI.

    Raises:
        ProviderUriError: it has none, is longer than 2,048 characters or holds blanks or other than printable ASCII.
    """
    scheme, colon, _ = uri.partition(":")
    if len(uri) > MAX_URI or not _PRINTABLE.fullmatch(uri):
        raise ProviderUriError(f"a provider URI is at most {MAX_URI} printable ASCII characters; percent-encode others")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise ProviderUriError("a provider URI starts with its scheme, for example pkcs11: or software:")
    return scheme


def parse_pkcs11_uri(uri: str) -> Pkcs11Uri:
    """Parse a ``pkcs11:`` URI that names a token.

    Raises:
        ProviderUriError: naming the attribute that is malformed, unknown, given twice, missing or not allowed.
    """
    path, _, query = after_scheme(uri, "pkcs11").partition("?")
    if "pin-value" in query:
        raise ProviderUriError(
            "pin-value is not allowed: the PIN would show wherever settings are shown",
            next_step="put the PIN into a file of its own and name it with pin-source=file:/path",
        )
    where = attributes(path, ";", ("token", "manufacturer", "model", "serial", "slot-id"))
    how = attributes(query, "&", ("module-path", "pin-source"))
    for needed in ("module-path", "pin-source"):
        if needed not in how:
            raise ProviderUriError(f"{needed} is missing from the pkcs11: URI")
    slot = where.get("slot-id")
    if slot is not None and not re.fullmatch(r"[0-9]{1,20}", slot):
        raise ProviderUriError("slot-id is not a number")
    return Pkcs11Uri(
        module_path=absolute_path(how["module-path"], "module-path"),
        pin_source=file_source(how["pin-source"], "pin-source"),
        token=where.get("token"),
        manufacturer=where.get("manufacturer"),
        model=where.get("model"),
        serial=where.get("serial"),
        slot_id=None if slot is None else int(slot),
    )


def parse_software_uri(uri: str) -> SoftwareUri:
    """Parse a ``software:`` URI.

    Raises:
        ProviderUriError: naming what is malformed, unknown, given twice or missing.
    """
    path, _, query = after_scheme(uri, "software").partition("?")
    how = attributes(query, "&", ("sealing-key-source", "passphrase-source"))
    if len(how) != 1:
        raise ProviderUriError("a software: URI needs exactly one of sealing-key-source and passphrase-source")
    if path.startswith("//"):
        path = path[2:]
    sources = {name: file_source(value, name) for name, value in how.items()}
    return SoftwareUri(
        directory=absolute_path(decoded(path, "the folder"), "the folder"),
        sealing_key_source=sources.get("sealing-key-source"),
        passphrase_source=sources.get("passphrase-source"),
    )


def after_scheme(uri: str, scheme: str) -> str:
    """What stands behind the scheme and its colon.

    Raises:
        ProviderUriError: it is of another scheme, or not a URI.
    """
    if scheme_of(uri) != scheme:
        raise ProviderUriError(f"not a {scheme}: URI")
    return uri[len(scheme) + 1 :]


def attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    """The ``name=value`` pairs of a URI's part, percent-decoded.

    Raises:
        ProviderUriError: naming the attribute that is unknown, given twice, empty or malformed.
    """
    found: dict[str, str] = {}
    for part in text.split(separator) if text else []:
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise ProviderUriError(f"{name[:32]!r} is not an attribute known here; known are {', '.join(known)}")
        if name in found:
            raise ProviderUriError(f"{name} is given twice")
        found[name] = decoded(value, name)
    return found


def decoded(value: str, name: str) -> str:
    """Percent-decoded text.

    Raises:
        ProviderUriError: it is malformed, empty or holds a NUL.
    """
    if _PERCENT.search(value):
        raise ProviderUriError(f"{name} has a percent sign without two hexadecimal digits")
    try:
        text = unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise ProviderUriError(f"{name} is not UTF-8") from None
    if not text or "\x00" in text:
        raise ProviderUriError(f"{name} is empty or holds a NUL")
    return text


def absolute_path(text: str, name: str) -> Path:
    """A path.

    Raises:
        ProviderUriError: it is not absolute.
    """
    path = Path(text)
    if not path.is_absolute():
        raise ProviderUriError(f"{name} is not an absolute path")
    return path


def file_source(text: str, name: str) -> Path:
    """The path of a ``file:/path``, as secrets are named.

    Raises:
        ProviderUriError: it is none, or not absolute.
    """
    scheme, _, path = text.partition(":")
    if scheme != "file":
        raise ProviderUriError(f"{name} must be file:/path")
    return absolute_path(path.removeprefix("//"), name)
