"""Images in files and streams: where they are written, what is said of the rest, and what no file can do to a scan."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client import manifest_files
from sealkeeper.client.manifest_files import MAX_FILE, RULES, FoundImage, scan_files, scan_stream
from sealkeeper.client.scan_report import Finding

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: app:1\n"


def scan(text: str | bytes, file: str = "-", **environment: str) -> list[FoundImage | Finding]:
    return list(scan_stream(text if isinstance(text, bytes) else text.encode(), file, environment))


def images(found: list[FoundImage | Finding]) -> list[FoundImage]:
    return [one for one in found if isinstance(one, FoundImage)]


def findings(found: list[FoundImage | Finding]) -> list[Finding]:
    return [one for one in found if isinstance(one, Finding)]


def only(found: list[FoundImage | Finding]) -> Finding:
    (one,) = found
    assert isinstance(one, Finding)
    return one


def test_an_image_is_found_with_all_that_is_known_of_its_place() -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: prod\n"
        "spec:\n  template:\n    spec:\n      containers:\n      - name: main\n        image: 'app:1' # it\n"
    )
    assert scan(text, "d/web.yaml") == [
        FoundImage(
            image="app:1",
            file="d/web.yaml",
            line=11,
            column=16,
            object_kind="Deployment",
            object_name="web",
            namespace="prod",
            container="main",
            container_kind="container",
            path="spec.template.spec.containers[0].image",
        )
    ]


def test_a_finding_about_an_image_has_its_place() -> None:
    (found,) = images(scan(POD, "a.yaml"))
    finding = found.finding("unsigned", "error", "no signature", "until May")
    assert (finding.file, finding.line, finding.column, finding.image) == ("a.yaml", 7, 12, "app:1")
    assert finding.properties["object_kind"] == "Pod"
    assert finding.properties["path"] == "spec.containers[0].image"
    assert finding.justification == "until May"


def test_what_helm_renders_keeps_the_name_of_its_template() -> None:
    text = (
        f"---\n# Source: shop/templates/web.yaml\n{POD}"
        f"---\n# Source: shop/templates/db.yaml\n# more\n\n{POD}---\n{POD}"
        "---\n# Source: shop/templates/text.yaml\napiVersion: v1\nkind: ConfigMap\n"
        "data:\n  x: |\n    y\n# Source: not/this.yaml\n"
    )
    found = scan(text)
    assert [(one.source, one.line) for one in images(found)] == [
        ("shop/templates/web.yaml", 9),
        ("shop/templates/db.yaml", 20),
        ("", 28),
    ]
    assert len(found) == 3


def test_documents_of_kustomize_and_kubectl_are_read_one_by_one() -> None:
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [yaml.safe_load(POD), {"apiVersion": "v1", "kind": "Service"}],
    }
    found = images(scan(f"{POD}---\n{json.dumps(listed)}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n"))
    assert [(one.line, one.object_kind, one.object_name, one.path) for one in found] == [
        (7, "Pod", "p", "spec.containers[0].image"),
        (9, "Pod", "p", "items[0].spec.containers[0].image"),
    ]


def test_json_is_read_with_its_places() -> None:
    (one,) = images(scan(json.dumps(yaml.safe_load(POD), indent=1), "pod.json"))
    assert (one.image, one.line, one.column, one.object_name) == ("app:1", 11, 14, "p")


def test_a_workload_that_is_wrong_is_a_finding_and_hides_no_other() -> None:
    broken = POD.replace("    image: app:1\n", "    image: {name: x}\n")
    found = scan(f"{broken}---\n{POD}---\napiVersion: 1\nkind: Pod\n")
    assert len(images(found)) == 1
    first, last = findings(found)
    assert (first.rule_id, first.level, first.line, first.column) == ("manifest-invalid", "error", 7, 12)
    assert first.message.startswith("spec.containers[0].image: ")
    assert first.properties["object_name"] == "p"
    assert (last.line, last.column) == (17, 13)


def test_items_of_a_list_that_are_wrong_hide_no_others() -> None:
    pod = yaml.safe_load(POD)
    listed = {"apiVersion": "v1", "kind": "List", "items": [{**pod, "spec": {}}, pod]}
    found = scan(json.dumps(listed))
    assert len(images(found)) == 1
    assert [one.properties["path"] for one in findings(found)] == ["items[0].spec.containers"]


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: {{ .Values.image }}\n",
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: '{{ .Values.image }}:1'\n",
        "{{- if .Values.on }}\napiVersion: v1\nkind: Pod\n{{- end }}\n",
        '{{ include "x" . }}\n',
    ],
)
def test_a_template_that_is_not_rendered_is_an_error_that_says_how(text: str) -> None:
    found = only(scan(text))
    assert (found.rule_id, found.level) == ("template-not-rendered", "error")
    assert "helm template" in found.message


def test_braces_elsewhere_make_no_template_of_a_manifest() -> None:
    text = POD + "    args: ['{{ $labels.instance }}']\n"
    assert [one.image for one in images(scan(text))] == ["app:1"]
    assert not findings(scan(text))


@pytest.mark.parametrize("text", ["a: 1\n", "- x\n", "text\n", '{"name": "x"}', "kind: Pod\nspec: {}\n"])
def test_what_is_no_manifest_is_passed_over_with_a_note(text: str) -> None:
    found = only(scan(text))
    assert (found.rule_id, found.level) == ("not-a-manifest", "note")
    assert found.line == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n"])
def test_what_has_no_images_is_passed_over_in_silence(text: str) -> None:
    assert scan(text) == []


@pytest.mark.parametrize("text", ["a: [", "a: b: c", b"\xff\xfe", "{'a': 1, 'a': 2}", "a: \x01"])
def test_what_cannot_be_read_is_an_error(text: str | bytes) -> None:
    found = only(scan(text, "x.yaml"))
    assert (found.rule_id, found.level, found.file) == ("manifest-invalid", "error", "x.yaml")


COMPOSE = """\
services:
  web: {image: "app:${TAG:-1}"}
  db:
    image: db:$VERSION
  here: {build: .}
  merged: {}
"""


def test_services_of_a_compose_file_are_found_or_remarked_on(tmp_path: Path) -> None:
    found = scan(COMPOSE, str(tmp_path / "stack.yaml"))
    (web,) = images(found)
    assert (web.image, web.line, web.column, web.object_kind, web.object_name) == ("app:1", 2, 16, "services", "web")
    assert [(one.rule_id, one.level, one.line) for one in findings(found)] == [
        ("compose-variable-unset", "error", 4),
        ("compose-built-here", "note", 5),
        ("compose-elsewhere", "note", 6),
    ]


def test_compose_variables_come_from_the_environment_before_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TAG=file\nVERSION=file\n")
    found = images(scan(COMPOSE, str(tmp_path / "compose.yaml"), VERSION="environment"))
    assert [one.image for one in found] == ["app:file", "db:environment"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "bytes"])
def test_an_env_file_that_cannot_be_read_leaves_no_default_in_force(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff")
    found = scan(COMPOSE, str(tmp_path / "compose.yaml"))
    assert not images(found)
    assert [one.rule_id for one in findings(found)][:2] == ["compose-variable-unset"] * 2


def test_merges_of_compose_files_are_followed() -> None:
    text = "x-base: &base\n  image: app:1\nservices:\n  a: {<<: *base}\n  b:\n    <<: *base\n    image: own:2\n"
    assert [(one.image, one.line, one.object_name) for one in images(scan(text))] == [
        ("app:1", 2, "a"),
        ("own:2", 7, "b"),
    ]


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(POD)


def test_folders_are_searched_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        "b.yaml",
        "a.yml",
        "c.JSON",
        "sub/z.yaml",
        "sub/deeper/y.json",
        "note.txt",
        ".git/x.yaml",
        ".hidden/h.yaml",
    )
    found = scan_files([tmp_path], environment={})
    names = [Path(one.file).relative_to(tmp_path).as_posix() for one in found]
    assert names == ["a.yml", "b.yaml", "c.JSON", ".hidden/h.yaml", "sub/z.yaml", "sub/deeper/y.json"]


def test_a_file_that_is_named_is_read_whatever_its_name_and_once(tmp_path: Path) -> None:
    write(tmp_path, "rendered.txt", "a.yaml")
    paths: list[str | Path] = [tmp_path / "rendered.txt", tmp_path, tmp_path / "a.yaml", str(tmp_path / "." / "a.yaml")]
    assert [Path(one.file).name for one in scan_files(paths, environment={})] == ["rendered.txt", "a.yaml"]


def test_standard_input_is_read_where_it_is_named() -> None:
    (one,) = scan_files(["-"], environment={}, stdin=io.BytesIO(POD.encode()))
    assert (one.file, one.line) == ("-", 7)


def test_links_are_followed_within_the_folder_and_not_out_of_it(tmp_path: Path) -> None:
    write(tmp_path, "out/secret.yaml", "in/real.txt", "in/sub/s.yaml")
    inside = tmp_path / "in"
    (inside / "link.yaml").symlink_to("real.txt")
    (inside / "out.yaml").symlink_to(tmp_path / "out" / "secret.yaml")
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "again").symlink_to("sub")
    (inside / "round").symlink_to(".")
    found = list(scan_files([inside], environment={}))
    assert sorted(Path(one.file).name for one in images(found)) == ["link.yaml", "s.yaml"]
    assert [(Path(one.file).name, one.rule_id) for one in findings(found)] == [
        ("folder", "link-not-followed"),
        ("out.yaml", "link-not-followed"),
    ]


def test_what_cannot_be_opened_is_an_error_and_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path, "d/z.yaml")
    os.mkfifo(tmp_path / "d" / "pipe.yaml")
    (tmp_path / "d" / "lost.yaml").symlink_to("nowhere.yaml")
    (tmp_path / "d" / "circle.yaml").symlink_to("circle.yaml")
    paths: list[str | Path] = [tmp_path / "none.yaml", "a\0b", "x" * 5000, "", tmp_path / "d"]
    found = list(scan_files(paths, environment={}))
    assert [one.rule_id for one in findings(found)] == ["file-unreadable"] * 7
    assert all(one.level == "error" for one in findings(found))
    assert len(images(found)) == 1


def test_a_file_of_fifty_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    found = only(list(scan_files([tmp_path], environment={})))
    assert found.rule_id == "file-unreadable"
    assert str(MAX_FILE) in found.message

    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1, /) -> bytes:
            assert 0 < size <= MAX_FILE + 1
            self.taken += size
            return b"#" * size

    stdin = Endless()
    assert only(list(scan_files(["-"], environment={}, stdin=stdin))).rule_id == "file-unreadable"  # type: ignore[arg-type]
    assert stdin.taken == MAX_FILE + 1
    assert only(scan(b"#" * (MAX_FILE + 1))).rule_id == "file-unreadable"


def test_more_files_than_the_bound_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "MAX_FILES", 2)
    write(tmp_path, "a.yaml", "b.yaml", "c.yaml", "d.yaml")
    found = list(scan_files([tmp_path], environment={}))
    assert len(images(found)) == 2
    assert [one.rule_id for one in findings(found)] == ["file-unreadable"]


@pytest.mark.parametrize(
    "text",
    [
        POD + "x0: &x0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"x{n}: &x{n} [{f'*x{n - 1},' * 9}]\n" for n in range(1, 30)),
        "---\n# Source: a\n" * 100_000,
        f"---\n{POD}" * 12_000,
    ],
    ids=["laughs", "sources", "documents"],
)
def test_bombs_end_in_one_error(text: str) -> None:
    (error,) = findings(scan(text))
    assert (error.rule_id, error.level) == ("manifest-invalid", "error")


def test_every_rule_has_help_and_an_id_of_its_own() -> None:
    assert len({one.id for one in RULES}) == len(RULES)
    assert all(one.help and one.description for one in RULES)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda one: "{{" not in one)
CONTAINERS = st.lists(st.fixed_dictionaries({"image": TEXT, "name": TEXT}), min_size=1, max_size=4)
PODS = st.fixed_dictionaries({"containers": CONTAINERS}, optional={"initContainers": CONTAINERS})


@given(st.lists(PODS, min_size=1, max_size=3), st.sampled_from([True, False, None]))
def test_every_image_of_deployments_is_found_exactly_once_where_it_is_written(
    pods: list[dict[str, Any]], flow: bool | None
) -> None:
    objects = [{"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": pod}}} for pod in pods]
    text = yaml.safe_dump_all(objects, default_flow_style=flow, default_style='"', width=10_000)
    found = scan(text)
    assert not findings(found)
    written = [one["image"] for pod in pods for name in ("containers", "initContainers") for one in pod.get(name, [])]
    assert sorted(one.image for one in images(found)) == sorted(written)
    lines = text.split("\n")
    for one in images(found):
        # The scalar that begins there is the image.
        events = yaml.parse(lines[one.line - 1][one.column - 1 :])
        assert next(event.value for event in events if isinstance(event, yaml.ScalarEvent)) == one.image


@given(st.binary(max_size=80))
def test_any_bytes_give_images_or_findings(data: bytes) -> None:
    for text in (data, POD.encode() + data, b"services: {a: {image: x}}\n" + data):
        scan(text)


def test_the_pre_commit_hook_runs_the_scan_on_yaml() -> None:
    root = Path(__file__).parents[2]
    (hook,) = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "sealkeeper gate scan"
    assert (hook["language"], hook["types"]) == ("python", ["yaml"])
