"""Dual control as people use it: proposing, reading, signing, watching, and the auditor's check without the gateway."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from sealkeeper.client import Client, Connection
from sealkeeper.client.operations import digest_content
from sealkeeper.client.token_source import FixedToken
from sealkeeper.server.identity import Role
from sealkeeper.server.policy_engine import default_policy
from tests.e2e.command import COMMAND, run, run_here, settings
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, P256, PARENT, TENANT, Running
from tests.oidc_issuer import oidc_issuer
from tests.server.people import add_person
from tests.wrapping import new_private_key

REPOSITORY = "acme-org/app"
DONE, REFUSED, USAGE, PROPOSED = 0, 1, 2, 4
KINDS = ("compromise", "destroy", "import", "policy", "quota", "grant", "break-glass")


@dataclass
class Said:
    """What a command has said.

    Attributes:
        code: its exit code.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """A gateway with the policy that tenants begin with, and a folder where people run commands."""

    gateway: Running
    folder: Path
    second: str
    capfd: pytest.CaptureFixture[str]

    def say(self, who: str, *arguments: str) -> Said:
        self.capfd.readouterr()
        code = run_here("--config", str(settings(self.gateway, who, self.folder)), *arguments)
        return Said(code, *self.capfd.readouterr())

    def propose(self, who: str, *arguments: str) -> str:
        """The id of the proposal that a command makes, and whose exit code says so."""
        said = self.say(who, *arguments, "--json")
        assert said.code == PROPOSED, said
        document = said.document
        assert (document["reason"], document["exit_code"]) == ("APPROVAL_REQUIRED", PROPOSED)
        name: str = document["proposal"]
        assert name.startswith(f"{PARENT}/proposals/")
        return name.rpartition("/")[2]

    def approve(self, name: str, who: str = "") -> Said:
        said = self.say(who or self.second, "approvals", "approve", name, "--yes")
        assert said.code == DONE, said
        return said

    def new_key(self, key_id: str, **labels: str) -> str:
        more = [f"--label={name}={one}" for name, one in labels.items()]
        assert self.say("custodian", "keys", "create", key_id, "--algorithm", P256, *more).code == DONE
        return key_id


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running.make(tmp_path_factory.mktemp("approvals") / "gateway", policy=default_policy())
    with made.running():
        yield made


@pytest.fixture(scope="module")
def second(live: Running) -> str:
    """A person who is neither of those that a gateway begins with."""
    return add_person(live.directory, Role.ADMIN, "second")


@pytest.fixture
def desk(
    live: Running,
    second: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(live, tmp_path, second, capfd)


def compromise(desk: Desk, name: str) -> str:
    desk.new_key(name)
    return desk.propose("custodian", "keys", "set-state", f"{name}/1", "COMPROMISED", "--yes")


def destroy(desk: Desk, name: str) -> str:
    desk.new_key(name)
    assert desk.say("custodian", "keys", "set-state", f"{name}/1", "DISABLED", "--yes").code == DONE
    return desk.propose("custodian", "keys", "set-state", f"{name}/1", "DESTROY_SCHEDULED", "--yes")


def finish(desk: Desk, name: str) -> str:
    bring(desk, name)
    return desk.propose("custodian", *FINISH)


FINISH = ("keys", "import", "finish", "wrapped.json", "--public-key", "public.pem")


def bring(desk: Desk, name: str) -> None:
    key = new_private_key("secp256r1")
    spki, pem = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.PEM
    (desk.folder / "public.pem").write_bytes(key.public_key().public_bytes(pem, spki))
    plain = serialization.NoEncryption()
    (desk.folder / "private.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    begin = ("keys", "import", "begin", name, "-o", "import.json", "--algorithm", P256)
    assert desk.say("custodian", *begin, "--label", "repository=acme-org/app").code == DONE
    assert desk.say("custodian", "keys", "import", "wrap", "import.json", "private.pem", "-o", "wrapped.json").code == 0


def policy(desk: Desk, name: str) -> str:
    Path("new.cedar").write_text(f"{default_policy()}\n// {name}\n")
    return desk.propose("admin", "policy", "propose", "new.cedar", "--reason", f"for {name}")


def quota(desk: Desk, name: str) -> str:
    keys = desk.say("admin", "quota", "show", "--json").document["limits"]["keys"]
    assert desk.say("admin", "quota", "set", "--keys", str(keys - 1)).code == DONE
    return desk.propose("admin", "quota", "set", "--keys", str(keys), "--reason", f"for {name}")


def grant(desk: Desk, name: str) -> str:
    desk.new_key(name)
    subject = f"spiffe://{DOMAIN}/tenants/{TENANT}/roles/ci/release"
    return desk.propose(
        "custodian", "grants", "create", name, "--subject", subject, "--for", "1h", "--reason", f"for {name}"
    )


def emergency(desk: Desk, name: str) -> str:
    reason = f"an outage of {name}"
    return desk.propose(
        "custodian", "break-glass", "--tenant-wide", "--action", "Sign", "--for", "1h", "--reason", reason
    )


PROPOSE: dict[str, Callable[[Desk, str], str]] = {
    "compromise": compromise,
    "destroy": destroy,
    "import": finish,
    "policy": policy,
    "quota": quota,
    "grant": grant,
    "break-glass": emergency,
}


def read_aloud(kind: str, name: str) -> tuple[str, ...]:
    """What an approver must read before signing."""
    return {
        "compromise": (
            f"{PARENT}/keys/{name}/versions/1 becomes COMPROMISED",
            "This cannot be undone",
            "signed nothing",
        ),
        "destroy": (f"The private key of {PARENT}/keys/{name}/versions/1 is destroyed", "called off"),
        "import": (f"becomes a version of {PARENT}/keys/{name};", "by telephone", "repository=acme-org/app"),
        "policy": ("Another policy decides who may do what", f"+// {name}"),
        "quota": ("when it was proposed, at most 999", "keys"),
        "grant": ("For 1 hour from the approval on", "/roles/ci/release", "may do Sign", f"{PARENT}/keys/{name}"),
        "break-glass": ("EMERGENCY: for 1 hour", "may do Sign", f"with {PARENT}", "though its role may not"),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_proposed_is_read_signed_done_and_proven_without_the_gateway(desk: Desk, kind: str) -> None:
    name = f"all-{kind}"
    id_ = PROPOSE[kind](desk, name)
    page = desk.say(desk.second, "approvals", "show", id_)
    assert page.code == DONE
    for words in read_aloud(kind, name):
        assert words in page.out, page.out
    assert "Needs 1 approval; it has none so far." in page.out
    third = "admin" if PROPOSER[kind] == "custodian" else "custodian"
    if kind == "import":
        assert desk.say(PROPOSER[kind], *FINISH, "--json").document["proposal"].endswith(id_)
    done = desk.approve(id_)
    if kind == "import":
        assert f"{id_} is APPROVED, 1 of 1 approval" in done.out
        assert desk.say("custodian", *FINISH).code == DONE
    else:
        assert f"{id_} is EXECUTED, 1 of 1 approval," in done.out
    assert desk.say(third, "approvals", "watch", id_).code == DONE
    require_proven(desk, id_)


PROPOSER = {kind: "admin" if kind in ("policy", "quota") else "custodian" for kind in KINDS}


def require_proven(desk: Desk, id_: str) -> None:
    """The auditor's check passes, and fails when anything that matters is another."""
    made = desk.gateway.directory
    trust = ("--ca", str(made / "tls" / "ca.pem"), "--audit-key", str(made / "audit.vkey"))
    assert desk.say("admin", "approvals", "show", id_, "--evidence", "kept.json").code == DONE
    verified = verify(desk, "kept.json", *trust)
    assert verified.code == DONE, verified
    assert "approved by second" in verified.out
    document = verify(desk, "kept.json", *trust, "--json").document
    assert (document["verified"], document["logVerified"]) == (True, True)
    assert [one["person"] for one in document["approvers"]] == ["second"]
    kept = json.loads(Path("kept.json").read_bytes())
    for name, spoil in CORRUPTIONS.items():
        broken = json.loads(json.dumps(kept))
        spoil(broken)
        Path("broken.json").write_text(json.dumps(broken))
        assert verify(desk, "broken.json", *trust).code == REFUSED, name


def verify(desk: Desk, *arguments: str) -> Said:
    """Without a client's file, and so without the gateway."""
    desk.capfd.readouterr()
    code = run_here("--config", "/dev/null", "approvals", "verify", *arguments)
    return Said(code, *desk.capfd.readouterr())


def changed(text: str, before: bytes, after: bytes) -> str:
    data = base64.b64decode(text)
    assert before in data
    return base64.b64encode(data.replace(before, after, 1)).decode()


def _content(kept: Any) -> None:
    kept["content"] = changed(kept["content"], b'"required":1', b'"required":0')


def _statement(kept: Any) -> None:
    [one] = kept["approvals"]
    envelope = json.loads(base64.b64decode(one["statement"]))
    envelope["payload"] = changed(envelope["payload"], b"APPROVE", b"REJECT!")
    one["statement"] = base64.b64encode(json.dumps(envelope).encode()).decode()


def _record(kept: Any) -> None:
    kept["records"][-1]["record"] = changed(kept["records"][-1]["record"], b'"outcome":"OK"', b'"outcome":"NO"')


def _proof(kept: Any) -> None:
    one = kept["records"][0]["hashes"]
    one[0] = base64.b64encode(bytes(32)).decode()


def _execution(kept: Any) -> None:
    del kept["records"][-1]


def _decision(kept: Any) -> None:
    del kept["records"][1]


def _approval(kept: Any) -> None:
    kept["approvals"].clear()


def _checkpoint(kept: Any) -> None:
    kept["checkpoint"] = kept["checkpoint"].replace(DOMAIN, "another.example")


CORRUPTIONS: dict[str, Callable[[Any], None]] = {
    "content": _content,
    "statement": _statement,
    "record": _record,
    "proof": _proof,
    "no execution": _execution,
    "no decision": _decision,
    "no approval": _approval,
    "checkpoint": _checkpoint,
}


def test_what_waits_is_listed_and_what_was_rejected_or_taken_back_is_not_done(desk: Desk) -> None:
    grant_id, quota_id, key_id = grant(desk, "told"), quota(desk, "told"), compromise(desk, "told-2")
    listed = desk.say("admin", "approvals", "list")
    assert listed.out.splitlines()[0].split() == ["PROPOSAL", "STATE", "ACTION", "RESOURCE", "BY", "APPROVALS", "UNTIL"]
    for id_, action, by in ((grant_id, "CreateGrant", "custodian"), (quota_id, "RaiseQuota", "admin")):
        [line] = [one for one in listed.out.splitlines() if one.startswith(id_)]
        assert line.split()[1:3] == ["PENDING", action]
        assert line.split()[4:6] == [by, "0/1"]
    assert desk.say("custodian", "approvals", "approve", grant_id, "--yes").code == REFUSED
    rejected = desk.say(desk.second, "approvals", "reject", grant_id, "--reason", "no such job", "--yes")
    assert f"{grant_id} is REJECTED, 0 of 1 approval" in rejected.out
    assert desk.say("admin", "approvals", "watch", grant_id).code == REFUSED
    refused = desk.say("custodian", "approvals", "withdraw", quota_id)
    assert (refused.code, "is yours" in refused.err) == (REFUSED, True)
    assert f"{quota_id} is WITHDRAWN" in desk.say("admin", "approvals", "withdraw", quota_id).out
    closed = desk.say(desk.second, "approvals", "approve", quota_id, "--yes")
    assert (closed.code, "nothing was signed" in closed.err) == (REFUSED, True)
    ids = [one["name"].rpartition("/")[2] for one in desk.say("admin", "approvals", "list", "--json").document]
    assert key_id in ids
    assert not {grant_id, quota_id} & set(ids)
    everything = {
        one["name"].rpartition("/")[2]: one["state"]
        for one in desk.say("admin", "approvals", "list", "--all", "--json").document
    }
    assert (everything[grant_id], everything[quota_id]) == ("REJECTED", "WITHDRAWN")
    # Neither of them was done, and no auditor is told that they were.
    made = desk.gateway.directory
    assert desk.say("admin", "approvals", "show", grant_id, "--evidence", "rejected.json").code == DONE
    found = verify(desk, "rejected.json", "--ca", str(made / "tls" / "ca.pem"), "--audit-key", str(made / "audit.vkey"))
    assert found.code == REFUSED
    assert "refused at execution" in found.out


def test_what_is_proposed_says_how_it_goes_on(desk: Desk) -> None:
    desk.new_key("goes-on")
    said = desk.say("custodian", "keys", "set-state", "goes-on/1", "COMPROMISED", "--yes")
    assert (said.code, said.out) == (PROPOSED, "")
    assert "CompromiseKeyVersion needs 1 approval of others; it is proposed as" in said.err
    [id_] = [one["name"].rpartition("/")[2] for one in desk.say("admin", "approvals", "list", "--json").document][:1]
    assert f"sealkeeper approvals approve {id_}" in said.err
    assert f"sealkeeper approvals watch {id_}" in said.err
    again = desk.say("custodian", "keys", "set-state", "goes-on/1", "COMPROMISED", "--yes", "--json")
    assert again.document["proposal"].endswith(id_)


def test_without_a_terminal_nobody_is_taken_to_have_read_it(desk: Desk) -> None:
    id_ = grant(desk, "unread")
    said = run(desk.gateway, desk.second, "approvals", "approve", id_, cwd=desk.folder, stdin=subprocess.DEVNULL)
    assert (said.returncode, "--yes" in said.stderr) == (USAGE, True)
    assert desk.say("admin", "approvals", "show", id_, "--json").document["state"] == "PENDING"


def test_who_watches_sees_it_being_done(desk: Desk) -> None:
    id_ = grant(desk, "watched")
    config = str(settings(desk.gateway, "admin", desk.folder))
    watching = [*COMMAND, "--config", config, "approvals", "watch", id_, "--json"]
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # It watches from the first line on.
        assert json.loads(process.stdout.readline())["state"] == "PENDING"
        desk.approve(id_)
        states = [json.loads(line)["state"] for line in process.stdout]
        assert (process.wait(60), states[-1]) == (DONE, "EXECUTED")
        assert states in (["APPROVED", "EXECUTED"], ["EXECUTED"])


def test_an_approver_of_a_compromise_sees_what_is_in_production_and_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with oidc_issuer() as issuer:
        gateway = Running.make(tmp_path / "gateway", policy=default_policy())
        second = add_person(gateway.directory, Role.ADMIN, "second")
        claims = f'{{ claims = {{ repository = "{REPOSITORY}" }}, tenant = "{TENANT}", role = "ci" }}'
        jobs = f'[issuers.jobs]\nissuer = "{issuer.url}"\nkind = "github"\nprincipals = [{claims}]\n'
        gateway.change_settings(lambda text: text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1) + jobs)
        with gateway.running():
            desk = Desk(gateway, tmp_path, second, capfd)
            desk.new_key("release", repository=REPOSITORY)
            for environment, artifact in (("production", "app-1.0.tar"), ("staging", "app-1.1.tar")):
                token = issuer.token("github", f"https://{DOMAIN}", repository=REPOSITORY, environment=environment)
                connection = Connection(
                    gateway.addresses["tokens"],
                    TENANT,
                    gateway.directory / "tls" / "ca.pem",
                    tokens=FixedToken(token, "the test's token", "none"),
                )
                with Client(connection, retry=NO_RETRY) as client:
                    client.sign(f"{PARENT}/keys/release", digest_content("SHA2_256", bytes(32), artifact))
            id_ = desk.propose("custodian", "keys", "set-state", "release/1", "COMPROMISED", "--yes")
            page = desk.say(second, "approvals", "show", id_).out
            assert "2 signatures, the last one at " in page
            assert "1 of them for PRODUCTION" in page
            [line] = [one for one in page.splitlines() if "in production: " in one]
            assert "app-1.0.tar" in line
            assert line.endswith(", WILL BE REFUSED")
            impact = desk.say(second, "approvals", "show", id_, "--json").document["impact"]
            assert (impact["signatures"], impact["productionSignatures"]) == (2, 1)
            assert desk.approve(id_).code == DONE


@pytest.mark.parametrize("kind", ["grant", "import"])
def test_an_approval_that_was_taken_back_and_given_again_is_in_the_evidence_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    two = default_policy().replace('@approvals("1")', '@approvals("2")')
    gateway = Running.make(tmp_path / "gateway", policy=two)
    second = add_person(gateway.directory, Role.ADMIN, "second")
    with gateway.running():
        desk = Desk(gateway, tmp_path, second, capfd)
        id_ = PROPOSE[kind](desk, "release")
        assert f"{id_} is PENDING, 1 of 2 approvals" in desk.approve(id_).out
        assert f"{id_} is PENDING, 0 of 2 approvals" in desk.say(second, "approvals", "withdraw", id_).out
        assert f"{id_} is PENDING, 1 of 2 approvals" in desk.approve(id_, "admin").out
        page = desk.say(second, "approvals", "show", id_).out
        assert "Needs 2 approvals; it has 1." in page
        assert [one for one in page.splitlines() if one.startswith("  APPROVE") and ", taken back " in one]
        assert "2 of 2 approvals" in desk.approve(id_).out
        if kind == "import":
            assert desk.say("custodian", *FINISH).code == DONE
        made = gateway.directory
        trust = ("--ca", str(made / "tls" / "ca.pem"), "--audit-key", str(made / "audit.vkey"))
        assert desk.say("admin", "approvals", "show", id_, "--evidence", "kept.json").code == DONE
        said = verify(desk, "kept.json", *trust, "--json")
        assert said.code == DONE
        assert [one["person"] for one in said.document["approvers"]] == ["admin", "second"]
        # One of them less, and there are not enough.
        kept = json.loads(Path("kept.json").read_bytes())
        assert len(kept["approvals"]) == 3
        for place, name in ((1, "agreement"), (2, "agreement")):
            broken = {**kept, "approvals": [one for number, one in enumerate(kept["approvals"]) if number != place]}
            Path("broken.json").write_text(json.dumps(broken))
            assert f"refused at {name}" in verify(desk, "broken.json", *trust).out
