"""The webhook's settings are read strictly: what is wrong is named, and nothing is exempt that was not said to be."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission import settings as module
from sealkeeper.client.admission.decider import Binding
from sealkeeper.client.admission.settings import (
    DigestRule,
    FailurePolicy,
    Limits,
    NamespaceRule,
    parse_settings,
    read_settings,
)
from sealkeeper.client.errors import ConfigurationError

LEAST = """
listen = "0.0.0.0:8443"
[tls]
certificate = "tls.crt"
key = "tls.key"
[[namespaces]]
names = ["shop-*"]
gate = "tenants/acme/gates/production"
"""


def parsed(text: str) -> module.WebhookSettings:
    return parse_settings(tomllib.loads(text), Path("/etc/webhook"))


def wrong(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parsed(text)
    assert caught.value.next_step
    assert caught.value.violations[0].field == str(caught.value).partition(":")[0]
    return str(caught.value)


def example() -> str:
    return "\n".join(line.removeprefix("    ") for line in (module.__doc__ or "").split("::\n", 1)[1].splitlines())


def test_the_example_in_the_documentation_of_the_module_is_read() -> None:
    found = parsed(example())
    assert found.tls.client_ca == Path("/etc/webhook/api-server-ca.crt")
    assert found.connection == Path("/etc/webhook/client.toml")
    assert found.rules[0] == NamespaceRule(("kube-system",), None)
    production = Binding("tenants/acme/gates/production", "production")
    assert found.rules[1] == NamespaceRule(("shop-*",), production, DigestRule.EVERYWHERE, FailurePolicy.OPEN)
    assert found.external_data == {"default": production}


def test_what_is_left_out_is_the_safe_choice() -> None:
    found = parsed(LEAST)
    assert found.default is None
    assert found.rules[0].failure_policy is FailurePolicy.CLOSED
    assert found.limits == Limits()


def test_what_is_for_the_decider_is_handed_on_as_it_is() -> None:
    found = parsed(LEAST + '[decider]\ncache = 30\n[decider.registries."a.example"]\nca = "ca.pem"\n')
    assert found.decider == {"cache": 30, "registries": {"a.example": {"ca": "ca.pem"}}}
    assert "ca.pem" not in repr(found)


def test_a_namespace_that_no_rule_names_has_no_rule_not_even_kube_system() -> None:
    found = parsed(LEAST)
    assert [found.rule_for(name) for name in ("kube-system", "shop", "other", "")] == [None] * 4
    assert found.rule_for("shop-a") is found.rules[0]


def test_the_first_rule_that_matches_counts() -> None:
    text = LEAST + '[[namespaces]]\nnames = ["*"]\nallow = true\n'
    found = parsed(text)
    assert found.rule_for("shop-a") is found.rules[0]
    assert found.rule_for("any") is found.rules[1]


def test_objects_in_no_namespace_are_the_defaults_and_match_no_pattern() -> None:
    text = LEAST + '[[namespaces]]\nnames = ["*"]\nallow = true\n[default]\ngate = "tenants/acme/gates/rest"\n'
    found = parsed(text)
    assert found.rule_for("") is found.default
    assert found.default is not None
    assert found.default.binding == Binding("tenants/acme/gates/rest", "")


def test_a_failure_policy_at_the_top_holds_where_a_rule_says_none() -> None:
    text = 'failure_policy = "open"\n' + LEAST + '[[namespaces]]\nnames=["b"]\nfailure_policy="closed"\n'
    found = parsed(text + 'gate = "tenants/acme/gates/b"\n')
    assert [one.failure_policy for one in found.rules] == [FailurePolicy.OPEN, FailurePolicy.CLOSED]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tls: is missing"),
        (LEAST.replace('listen = "0.0.0.0:8443"', ""), "listen: is missing"),
        (LEAST.replace("0.0.0.0:8443", "8443"), "listen: must be host:port"),
        (LEAST.replace('key = "tls.key"', ""), "tls.key: is missing"),
        (LEAST.replace('key = "tls.key"', "key = 3"), "tls.key: must be a text"),
        (LEAST.replace('key = "tls.key"', 'key = "tls.key"\ninsecure = true'), "tls.insecure: is no setting"),
        (LEAST.replace('names = ["shop-*"]', ""), "namespaces[0].names: must be 1 to"),
        (LEAST.replace('["shop-*"]', "[]"), "namespaces[0].names: must be 1 to"),
        (LEAST.replace('["shop-*"]', '["a", "shop?"]'), "namespaces[0].names[1]: must be a namespace's name"),
        (LEAST.replace('["shop-*"]', '["[a-z]"]'), "namespaces[0].names[0]: must be"),
        (LEAST.replace("tenants/acme/gates/production", "production"), "namespaces[0].gate: must be tenants/"),
        (LEAST + 'environment = "Prod"\n', "namespaces[0].environment: must be at most 63"),
        (LEAST + "allow = true\n", "namespaces[0].gate: is no setting"),
        (LEAST + 'allow = "yes"\n', "namespaces[0].allow: must be true or false"),
        (LEAST + 'failure_policy = "Ignore"\n', "namespaces[0].failure_policy: must be one of closed, open"),
        (LEAST + "require_digest = true\n", "namespaces[0].require_digest: must be one of"),
        (LEAST + "[[namespaces]]\nnames=['b']\n", "namespaces[1].gate: is missing"),
        (LEAST + "[default]\n", "default.gate: is missing"),
        (LEAST + "[external_data.Prod]\n", "external_data.Prod: the name must be"),
        (LEAST + "[external_data.prod]\n", "external_data.prod.gate: is missing"),
        ("namespace = 3\n" + LEAST, "namespace: is no setting"),
        ("budget = 0\n" + LEAST, "budget: must be a number from"),
        ("budget = nan\n" + LEAST, "budget: must be a number from"),
        ("budget = true\n" + LEAST, "budget: must be a number from"),
        ("max_body = 1\n" + LEAST, "max_body: must be a whole number from"),
        ("max_bodies = 65536\n" + LEAST, "max_bodies: must not be less than max_body"),
        ("namespaces = 3\nlisten = 'a:1'\n[tls]\ncertificate='a'\nkey='b'", "namespaces: must be at most"),
        ("namespaces = [3]\nlisten = 'a:1'\n[tls]\ncertificate='a'\nkey='b'", "namespaces[0]: must be a table"),
        ("listen = 'a:1'\n[tls]\ncertificate='a'\nkey='b'", "namespaces: no namespace is mapped"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    assert wrong(text).startswith(said)


@pytest.mark.parametrize("data", [b"a = ", b"\xff", b"a = " + b"[" * 100_000, b"#" * (1024 * 1024 + 1)])
def test_a_file_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "webhook.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"webhook\.toml"):
        read_settings(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"webhook\.toml: No such file"):
        read_settings(tmp_path / "webhook.toml")


_TEXT = st.text("a*/-. ", max_size=8)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_NAMES = ("listen", "tls", "namespaces", "default", "external_data", "budget", "failure_policy", "max_body", "decider")


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES))
def test_whatever_a_setting_is_it_is_taken_or_named_and_never_crashes(change: dict[str, Any]) -> None:
    document = {**tomllib.loads(LEAST), **change}
    with suppress(ConfigurationError):
        assert parse_settings(document, Path()).listen
