"""The images in Kubernetes manifests, rendered Helm charts, Kustomize output and compose files, with their places.

What cannot be told is a finding and never passed over in silence: a scan fails closed, and one bad file hides no other.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sealkeeper.client.compose_images import (
    ServiceRemark,
    Variables,
    is_compose,
    read_env_file,
    service_images,
)
from sealkeeper.client.located_documents import MAX_DOCUMENTS, Document, DocumentError, Place, read_documents
from sealkeeper.client.scan_report import STDIN, Finding, Level, Rule
from sealkeeper.client.workload_images import (
    ContainerImage,
    ContainerKind,
    Keys,
    ManifestError,
    images_of,
    objects_of,
    path_of,
)

MAX_FILE = 16 * 1024 * 1024
"""Most bytes of a file or stream."""
MAX_FILES = 10_000
"""Most files of a scan."""
_MAX_ENV_FILE = 1024 * 1024
_ENDINGS = frozenset({".yaml", ".yml", ".json"})
# `helm template` writes it above each document; no more of a line than a path can have.
_SOURCE = re.compile(rb"^# Source: (\S[^\r\n]{0,1023})\r?$", re.MULTILINE)

RULES = (
    Rule(
        "manifest-invalid",
        "A manifest from which the images cannot be told.",
        "Correct it where the finding points to. kubectl apply --dry-run=server, or docker compose config, shows more.",
    ),
    Rule(
        "file-unreadable",
        "A file or folder that cannot be read, or is beyond the bounds of a scan.",
        "Check that it exists and can be read; split what is too large.",
    ),
    Rule(
        "template-not-rendered",
        "A template, in which the images are not written out yet.",
        "Render it first, and scan the output: helm template CHART | sealkeeper gate scan -",
    ),
    Rule(
        "compose-variable-unset",
        "An image of a compose file depends on a variable without a value.",
        "Set the variable, give it a default in the file, or scan what docker compose config gives.",
    ),
    Rule(
        "compose-built-here",
        "A service of a compose file is built, and names no image that could be checked.",
        "Nothing, for development. To deploy it, push the image and name it with its digest.",
        "note",
    ),
    Rule(
        "compose-elsewhere",
        "A compose file leaves an image to another one.",
        "Scan all of them, or what docker compose config gives.",
        "note",
    ),
    Rule(
        "not-a-manifest",
        "A file that holds neither Kubernetes objects nor compose services.",
        "Nothing, if it is not meant to. Kubernetes objects have a kind and an apiVersion.",
        "note",
    ),
    Rule(
        "link-not-followed",
        "A symbolic link that leads out of the folder that is scanned.",
        "Name what it leads to, to have that scanned too.",
        "note",
    ),
)
"""Of the findings that ``scan_files`` gives."""
_LEVELS: Mapping[str, Level] = {rule.id: rule.level for rule in RULES}


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, and where it is written.

    Attributes:
        image: as it is written; in a compose file with its variables resolved.
        file: path as it was given or found; ``-`` for standard input.
        line: of the value, from 1.
        column: of the value, from 1, in characters.
        object_kind: for example ``Deployment``; ``services`` in a compose file.
        object_name: of the object, or of the service.
        namespace: as the object says; empty where it says none.
        container: of the container or volume; may be empty.
        container_kind: what the image is for.
        path: in the document, for example ``items[0].spec.containers[0].image``.
        source: template that the document was rendered from, where Helm says so; else empty.
    """

    image: str
    file: str
    line: int
    column: int
    object_kind: str
    object_name: str
    namespace: str
    container: str
    container_kind: ContainerKind
    path: str
    source: str = ""

    def finding(self, rule_id: str, level: Level, message: str, justification: str | None = None) -> Finding:
        """A finding about this image."""
        names = ("object_kind", "object_name", "namespace", "container", "container_kind", "path", "source")
        properties = {name: str(getattr(self, name)) for name in names}
        return Finding(
            rule_id, level, message, self.file, self.line, self.column, self.image, properties, justification
        )


def scan_files(
    paths: Iterable[str | Path],
    *,
    environment: Mapping[str, str] = os.environ,
    stdin: BinaryIO | None = None,
) -> Iterator[FoundImage | Finding]:
    """The images in files, in the order of the files; and findings, under ``RULES``, where there is something else.

    Folders are searched for ``*.yaml``, ``*.yml`` and ``*.json``, by name; ``.git`` is left out, and symbolic links
    are not followed out of them. A file that is named itself is read whatever its name is.

    Args:
        paths: of files and folders; ``-`` is standard input.
        environment: for the variables of compose files, before the file ``.env`` beside them.
        stdin: the stream for ``-``; standard input if not given.
    """
    seen: set[str] = set()
    for found in _files(paths):
        if isinstance(found, Finding):
            yield found
            continue
        real = found if found == STDIN or "\0" in found else os.path.realpath(found)
        if real in seen:
            continue
        if len(seen) == MAX_FILES:
            yield _finding("file-unreadable", f"there are more than {MAX_FILES} files", found)
            return
        seen.add(real)
        data = _read(found, stdin)
        if isinstance(data, Finding):
            yield data
        else:
            yield from scan_stream(data, found, environment)


def scan_stream(
    data: bytes, file: str = STDIN, environment: Mapping[str, str] = os.environ
) -> Iterator[FoundImage | Finding]:
    """The images in one stream of YAML documents or JSON, as ``scan_files`` gives them.

    Args:
        data: at most ``MAX_FILE`` bytes.
        file: that it is reported under; compose variables are looked for in ``.env`` beside it.
        environment: for the variables of compose files.
    """
    if len(data) > MAX_FILE:
        yield _too_long(file)
        return
    reading = _Stream(data, file, environment)
    try:
        for document in read_documents(data):
            yield from reading.document(document)
    except DocumentError as error:
        yield reading.unreadable(error)
        return
    if reading.other is not None:
        message = "a document holds neither Kubernetes objects nor compose services: passed over"
        yield _finding("not-a-manifest", message, file, reading.other)


class _Stream:
    """One stream while it is read: its documents come one after the other, and each says what it is."""

    def __init__(self, data: bytes, file: str, environment: Mapping[str, str]) -> None:
        self._data = data
        self._file = file
        self._environment = environment
        self._variables: Variables | None = None
        self._sources = list(islice(_sources(data), MAX_DOCUMENTS))
        self.other: Place | None = None

    def document(self, document: Document) -> Iterator[FoundImage | Finding]:
        value = document.value
        if value is None:
            return
        if isinstance(value, dict) and "kind" in value and "apiVersion" in value:
            yield from self._objects(document)
        elif isinstance(value, dict) and is_compose(value, self._file):
            yield from self._services(document)
        else:
            self.other = self.other or document.place

    def unreadable(self, error: DocumentError) -> Finding:
        if b"{{" in self._data:
            message = f"is a template that has not been rendered ({error}): render it first: helm template"
            return _finding("template-not-rendered", message, self._file, error.place)
        return _finding("manifest-invalid", f"cannot be read as YAML or JSON: {error}", self._file, error.place)

    def _objects(self, document: Document) -> Iterator[FoundImage | Finding]:
        source = self._source(document)
        try:
            for keys, one in objects_of(document.value):
                yield from self._object(document, keys, one, source)
        except ManifestError as error:
            yield self._invalid(document, error.keys, error.description, {"source": source})

    def _object(
        self, document: Document, keys: Keys, one: Mapping[str, Any], source: str
    ) -> Iterator[FoundImage | Finding]:
        names = _names(one)
        try:
            images = images_of(one)
        except ManifestError as error:
            yield self._invalid(document, keys + error.keys, error.description, {**names, "source": source})
            return
        for image in images:
            yield self._found(document, image, keys + image.keys, names, source)

    def _services(self, document: Document) -> Iterator[FoundImage | Finding]:
        if self._variables is None:
            self._variables = Variables(self._environment, _env_file(self._file))
        for one in service_images(document.value, self._variables):
            if isinstance(one, ServiceRemark):
                yield self._remark(document, one)
            else:
                names = {"object_kind": "services", "object_name": one.container, "namespace": ""}
                yield self._found(document, one, one.keys, names, "")

    def _remark(self, document: Document, one: ServiceRemark) -> Finding:
        properties = {"object_kind": "services", "object_name": one.service, "path": path_of(one.keys)}
        message = f"{path_of(one.keys)}: {one.message}"
        return _finding(one.rule_id, message, self._file, document.place_of(one.keys), properties)

    def _found(
        self, document: Document, image: ContainerImage, keys: Keys, names: Mapping[str, str], source: str
    ) -> FoundImage | Finding:
        line, column = document.place_of(keys)
        found = FoundImage(
            image=image.image,
            file=self._file,
            line=line,
            column=column,
            object_kind=names["object_kind"],
            object_name=names["object_name"],
            namespace=names["namespace"],
            container=image.container,
            container_kind=image.kind,
            path=path_of(keys),
            source=source,
        )
        if "{{" in image.image:
            message = (
                f"{found.path}: the image is a template that has not been rendered: render it first: helm template"
            )
            return found.finding("template-not-rendered", "error", message)
        return found

    def _invalid(self, document: Document, keys: Keys, description: str, properties: Mapping[str, str]) -> Finding:
        path = path_of(keys)
        return _finding(
            "manifest-invalid",
            f"{path or 'the object'}: {description}",
            self._file,
            document.place_of(keys),
            {**properties, "path": path},
        )

    def _source(self, document: Document) -> str:
        """What Helm says just above the document, between its marker and its first value."""
        at = bisect_left(self._sources, (document.place[0], b"")) - 1
        if at < 0 or self._sources[at][0] < document.start:
            return ""
        return self._sources[at][1].decode("utf-8", "backslashreplace")


def _sources(data: bytes) -> Iterator[tuple[int, bytes]]:
    line, counted = 1, 0
    for match in _SOURCE.finditer(data):
        line += data.count(b"\n", counted, match.start())
        counted = match.start()
        yield line, match[1]


def _names(one: Mapping[str, Any]) -> dict[str, str]:
    metadata = one.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    name = known.get("name") or known.get("generateName")
    texts = {"object_kind": one["kind"], "object_name": name, "namespace": known.get("namespace")}
    return {name: text if isinstance(text, str) else "" for name, text in texts.items()}


def _finding(
    rule_id: str, message: str, file: str, place: Place = (0, 0), properties: Mapping[str, str] | None = None
) -> Finding:
    return Finding(rule_id, _LEVELS[rule_id], message, file, *place, properties=properties or {})


def _too_long(file: str) -> Finding:
    return _finding("file-unreadable", f"has more than {MAX_FILE} bytes", file)


# os.path's questions below answer no, where pathlib's raise: for links in a circle, names too long, and no permission.
def _files(paths: Iterable[str | Path]) -> Iterator[str | Finding]:
    for path in map(str, paths):
        if path != STDIN and os.path.isdir(path):  # noqa: PTH112
            yield from _folder(path)
        else:
            yield path


def _folder(folder: str) -> Iterator[str | Finding]:
    root = Path(os.path.realpath(folder))
    failed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(one for one in folders if one != ".git")
        for name in sorted([*files, *folders]):
            yield from _entry(Path(parent, name), root)
        while failed:
            yield _unreadable(str(failed[0].filename), failed.pop(0))
    for error in failed:
        yield _unreadable(str(error.filename), error)


def _entry(path: Path, root: Path) -> Iterator[str | Finding]:
    folder = os.path.isdir(path)  # noqa: PTH112
    if not folder and path.suffix.lower() not in _ENDINGS:
        return
    if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):  # noqa: PTH114
        yield _finding("link-not-followed", "leads out of the folder: not followed", str(path))
    elif not folder:
        # A named pipe in a folder would be waited for without end; one that is named itself is meant.
        odd = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113
        yield _finding("file-unreadable", "is not a regular file", str(path)) if odd else str(path)


def _read(file: str, stdin: BinaryIO | None) -> bytes | Finding:
    try:
        if file == STDIN:
            data = (stdin or sys.stdin.buffer).read(MAX_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_FILE + 1)
    except OSError as error:
        return _unreadable(file, error)
    except ValueError:
        # A path with a NUL in it.
        return _finding("file-unreadable", "cannot be read: not a path", file)
    return data if len(data) <= MAX_FILE else _too_long(file)


def _unreadable(file: str, error: OSError) -> Finding:
    return _finding("file-unreadable", f"cannot be read: {error.strerror or type(error).__name__}", file)


def _env_file(file: str) -> dict[str, str | None] | None:
    path = Path(".env") if file == STDIN else Path(file).with_name(".env")
    try:
        # Not blocking, should it be a named pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return None
            data = opened.read(_MAX_ENV_FILE + 1)
        return read_env_file(data.decode()) if len(data) <= _MAX_ENV_FILE else None
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        return None
