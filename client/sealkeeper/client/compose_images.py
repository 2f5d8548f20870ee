"""The images that a compose file names, with its variables resolved as Docker Compose resolves them.

Source: the Compose specification, services, interpolation and env files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sealkeeper.client.workload_images import MAX_TEXT, ContainerImage, ContainerKind, Keys

_MAX_NESTING = 8
_FILE_NAME = re.compile(r"(?:docker-)?compose(?:[.-].*)?\.ya?ml")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"(?s)([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?+])(.*))?")
_ENV_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][\w.-]*)\s*[=:]\s*(.*)", re.ASCII)
_ENV_QUOTED = re.compile(r"""(?:'([^'\\]*)'|"([^"\\$]*)")\s*(?:#.*)?""")


class VariableError(Exception):
    """A variable has no value that can be told here."""


@dataclass(frozen=True, slots=True)
class Variables:
    """What a compose file can refer to.

    Attributes:
        environment: which comes first.
        env_file: of the file ``.env``; ``None`` for a value that cannot be told without Compose; ``None`` as a whole
            where the file cannot be read.
    """

    environment: Mapping[str, str]
    env_file: Mapping[str, str | None] | None

    def value(self, name: str) -> str | None:
        """The value of a variable; ``None`` where it is not set.

        Raises:
            VariableError: it may be set, but what to cannot be told.
        """
        if name in self.environment:
            return self.environment[name]
        if self.env_file is None:
            raise VariableError(f"the variable {name} may come from .env, which cannot be read here")
        if name in self.env_file and self.env_file[name] is None:
            raise VariableError(f"the variable {name} has a value in .env that takes Compose to read")
        return self.env_file.get(name)


@dataclass(frozen=True, slots=True)
class ServiceRemark:
    """Something else that is to be said of a service, under a rule of ``manifest_files.RULES``."""

    rule_id: str
    message: str
    service: str
    keys: Keys


def is_compose(value: Mapping[str, Any], file: str) -> bool:
    """Whether a document is a compose file: by its services, and by its name where these alone do not tell."""
    services = value.get("services")
    if not isinstance(services, dict):
        return False
    named = _FILE_NAME.fullmatch(PurePath(file).name) is not None
    return named or any(isinstance(one, dict) and ("image" in one or "build" in one) for one in services.values())


def read_env_file(text: str) -> dict[str, str | None] | None:
    """The variables of a file ``.env``.

    Plain and quoted values are read; ``None`` stands for one with escapes or variables of its own.

    Returns:
        ``None`` where the file as a whole is not plain enough to tell, for example with a value of several lines.
    """
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ENV_LINE.fullmatch(stripped)
        if match is None:
            return None
        name, value = match[1], match[2]
        if value[:1] in {"'", '"'}:
            quoted = _ENV_QUOTED.fullmatch(value)
            if quoted is None:
                return None
            found[name] = quoted[1] if quoted[1] is not None else quoted[2]
        else:
            found[name] = None if set(value) & set("$\\'\"") else re.sub(r"(?:^|\s+)#.*", "", value)
    return found


def interpolate(text: str, variables: Variables, depth: int = 0) -> str:
    """Resolve ``$NAME``, ``${NAME}`` and the forms with ``-``, ``?`` and ``+``; ``$$`` is a dollar.

    A variable that is not set is an error here, where Compose takes an empty text and goes on.

    Raises:
        VariableError: a variable without a value, a form that Compose does not know, or nesting too deep.
    """
    if depth > _MAX_NESTING:
        raise VariableError(f"variables are nested more than {_MAX_NESTING} deep")
    parts, at = list[str](), 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        at = dollar + 2
        if text.startswith("$", dollar + 1):
            parts.append("$")
        elif text.startswith("{", dollar + 1):
            end = _closing(text, at)
            parts.append(_braced(text[at:end], variables, depth))
            at = end + 1
        elif match := _NAME.match(text, dollar + 1):
            parts.append(_required(match[0], variables))
            at = match.end()
        else:
            parts.append("$")
            at = dollar + 1
    return "".join([*parts, text[at:]])


def _closing(text: str, at: int) -> int:
    depth = 1
    while at < len(text):
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        at += 1
    raise VariableError("${ is not closed")


def _braced(inner: str, variables: Variables, depth: int) -> str:
    match = _BRACED.fullmatch(inner)
    if match is None:
        raise VariableError("${...} has a form that Compose does not know")
    name, operator, operand = match[1], match[2] or "", match[3] or ""
    value = variables.value(name)
    # With a colon, an empty value counts as none.
    given = value is not None and (value != "" or not operator.startswith(":"))
    if operator.endswith("+"):
        return interpolate(operand, variables, depth + 1) if given else ""
    if given and value is not None:
        return value
    if operator.endswith("-"):
        return interpolate(operand, variables, depth + 1)
    raise VariableError(f"the variable {name} is not set, and has no default")


def _required(name: str, variables: Variables) -> str:
    value = variables.value(name)
    if value is None:
        raise VariableError(f"the variable {name} is not set, and has no default")
    return value


def service_images(value: Mapping[str, Any], variables: Variables) -> Iterator[ContainerImage | ServiceRemark]:
    """What the services of a compose file run and mount, in their order, and what else is to be said of them.

    An image's container is the service. The places are from the root of the file.
    """
    if value.get("include") is not None:
        message = (
            "includes other compose files, which are not followed: scan them too, or what docker compose config gives"
        )
        yield ServiceRemark("compose-elsewhere", message, "", ("include",))
    for service, one in value["services"].items():
        keys: Keys = ("services", str(service))
        if not isinstance(one, dict):
            yield ServiceRemark("manifest-invalid", "a service must be a mapping", str(service), keys)
            continue
        yield from _service(str(service), one, keys, variables)


def _service(
    service: str, one: Mapping[str, Any], keys: Keys, variables: Variables
) -> Iterator[ContainerImage | ServiceRemark]:
    if one.get("image") is not None:
        yield _image(service, one["image"], "container", (*keys, "image"), variables)
    elif one.get("build") is not None:
        message = "is built here and names no image: what is checked is what it is pushed as"
        yield ServiceRemark("compose-built-here", message, service, (*keys, "build"))
    else:
        message = "names no image: another compose file must, which it extends or is merged with: scan that one too"
        yield ServiceRemark("compose-elsewhere", message, service, keys)
    volumes = one.get("volumes")
    for place, volume in enumerate(volumes if isinstance(volumes, list) else ()):
        if isinstance(volume, dict) and volume.get("type") == "image":
            here = (*keys, "volumes", place, "source")
            yield _image(service, volume.get("source"), "imageVolume", here, variables)


def _image(
    service: str, image: Any, kind: ContainerKind, keys: Keys, variables: Variables
) -> ContainerImage | ServiceRemark:
    try:
        if not isinstance(image, str) or not 0 < len(image) <= MAX_TEXT:
            return ServiceRemark("manifest-invalid", f"must be a string of 1 to {MAX_TEXT} characters", service, keys)
        resolved = interpolate(image, variables)
    except VariableError as error:
        return ServiceRemark("compose-variable-unset", str(error), service, keys)
    if not 0 < len(resolved) <= MAX_TEXT:
        message = f"must be 1 to {MAX_TEXT} characters with its variables resolved"
        return ServiceRemark("manifest-invalid", message, service, keys)
    return ContainerImage(resolved, service, kind, keys)
