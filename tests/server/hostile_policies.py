"""Policies that are as bad as they may be for Cedar's parser; run on a stack of a given size, in a process of its own.

python -m tests.server.hostile_policies 1024
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator

from sealkeeper.server.authorization import Action
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.policy_engine import MAX_TEXT, Link, compile_policy, default_policy
from sealkeeper.server.resources import KeyName
from tests.server.policy_house import question

HEAD = '@id("x") permit (principal, action, resource) '
TOKENS, DEPTH = 1000, 32
MEMORY = 2 * 1024**3
# Those of the head and around a condition.
_SPENT = 22


def when(condition: str) -> str:
    return f"{HEAD}when {{ {condition} }};"


def chains() -> Iterator[tuple[str, str]]:
    """One thing after the other, as often as tokens allow, and far more often."""
    for count in (100, 190, (TOKENS - _SPENT) // 2, 100_000):
        for sign, operand in (("&&", "true"), ("||", "false"), ("+", "1"), ("-", "1"), ("*", "1"), ("==", "true")):
            compared = f" {sign} ".join([operand] * count)
            yield f"{count} {sign}", when(compared if operand != "1" else f"1 == {compared}")
        yield f"{count} dots", when("context" + ".a" * count)
        yield f"{count} has", when("principal has " + ".".join(["a"] * count))
        yield f"{count} calls", when("resource" + '.getTag("a")' * (count // 2) + ' == "x"')
        yield f"{count} indexes", when("context" + '["a"]' * (count // 2))
        yield f"{count} not", when("!" * count + "true")
        yield f"{count} negative", when("1 == " + "-" * count + "1")
        yield f"{count} in", when("principal" + " in principal" * count)
        yield f"{count} paths", when("principal is " + "a::" * (count // 2) + "b")
        yield f"{count} whens", HEAD + "when {true} " * (count // 2) + ";"
        yield f"{count} unlesses", HEAD + "unless {false} " * (count // 2) + ";"
        yield f"{count} annotations", "".join(f'@a{one}("x") ' for one in range(count // 3)) + HEAD + ";"
        yield f"{count} members", when("[" + ",".join(["1"] * count) + "].contains(2)")
        yield f"{count} else", when("if true then true else " * (count // 4) + "true")
        yield f"{count} conditions", when("if " * (count // 5) + "true" + " then true else true" * (count // 5))
        yield f"{count} then", when("if true then " * (count // 5) + "true" + " else true" * (count // 5))


def nests() -> Iterator[tuple[str, str]]:
    """One thing in the other, as deep as is allowed, one deeper, and far deeper."""
    for depth in (DEPTH - 1, DEPTH, 100_000):
        yield f"{depth} brackets", when("(" * depth + "true" + ")" * depth)
        yield f"{depth} sets", when("[" * depth + "1" + "] " * depth + "== [1]")
        yield f"{depth} records", when("{a: " * depth + "1" + "}" * depth + " == {a: 1}")
        yield f"{depth} open", HEAD + "when {" + "(" * depth
        yield f"{depth} closed", HEAD + "when {" + ")" * depth
        yield f"{depth} after a carriage return in a comment", "// \r" + when("(" * depth + "true" + ")" * depth)
        yield f"{depth} after a string", when('principal.role == "\\"" && ' + "(" * depth + "true" + ")" * depth)
        yield f"{depth} after a broken string", when('principal.role == "\\\n" && ' + "(" * depth + "true")
        for width in (1, 4, 7, 12):
            inner = ("(" + "true && " * width) * depth + "true" + ")" * depth
            yield f"{depth} brackets of {width}", when(inner)
            sums = ("(" + "1 + " * width) * depth + "1" + ")" * depth
            yield f"{depth} sums of {width}", when(f"1 == {sums}")
            yield f"{depth} sets of {width}", when(("[" + "1," * width) * depth + "1" + "]" * depth + " == [1]")
            ifs = ("(if " + "true && " * width + "true then true else ") * (depth // 2) + "true" + ")" * (depth // 2)
            yield f"{depth} ifs of {width}", when(ifs)


def lengths() -> Iterator[tuple[str, str]]:
    """As long as the text may be."""
    room = MAX_TEXT - 200
    yield "like with more * than may be", when('principal.role like "' + "*a" * (room // 2) + '"')
    yield "like with many *", when('principal.role like "' + "*a" * 2000 + '"')
    yield "a string", when('principal.role == "' + "a" * 4000 + '"')
    yield "a longer string", when('principal.role == "' + "a" * room + '"')
    yield "escapes", when('principal.role == "' + "\\u{61}" * (room // 6) + '"')
    yield "as many bad escapes as may be", when('principal.role == "' + "\\q" * 100 + '"') + "//" + "x" * (room - 500)
    yield "as many stars as may be", when('principal.role == "' + "\\*" * 100 + '"') + "//" + "x" * (room - 500)
    yield "bad escapes", when('principal.role == "' + "\\q" * (room // 2) + '"')
    yield "a string of many without an end", when('principal.role == "' + '\\"(' * (room // 3))
    yield "quotes", when('"' * room)
    yield "a string without an end", HEAD + 'when { principal.role == "' + "(" * room
    yield "a comment", "//" + "(" * room + "\n" + HEAD + ";"
    yield "comments", "// (\n" * (room // 5) + HEAD + ";"
    yield "slashes", HEAD + "when { " + "/ " * (room // 2) + "};"
    yield "a name", when("principal." + "a" * room + ' == "x"')
    yield "names", "".join(f'@id("x{one}") permit (principal, action, resource) when {{ principal.{"a" * 120} }};'
                           for one in range(room // 190))  # fmt: skip
    yield (
        "has in many policies",
        "".join(
            f'@id("x{one}") permit (principal, action, resource) when {{ principal has {".".join(["a"] * 8)} }};'
            for one in range(900)
        ),
    )
    yield "letters of other scripts", when("principal." + "é" * 1000 + ' == "x"')
    yield "letters of other scripts in a string", when('principal.role == "' + "é" * (room // 2) + '"')
    yield "a thousand policies", "".join(f'@id("x{one}") permit (principal, action, resource);' for one in range(1000))
    yield (
        "a thousand with like",
        "".join(
            f'@id("x{one}") permit (principal, action, resource) when {{ principal.role like "{"*a" * 80}" }};'
            for one in range(1000)
        ),
    )
    yield "semicolons", ";" * room
    yield "nothing", ""
    yield "spaces", " " * room
    yield "no policy", "// nothing"
    yield "a null", when("true") + "\0"
    yield "half a surrogate", when("true") + "// \ud800"


def texts() -> Iterator[tuple[str, str]]:
    yield "the default", default_policy()
    yield from chains()
    yield from nests()
    yield from lengths()


def tried(text: str) -> str:
    try:
        policy = compile_policy(text)
    except InvalidRequestError as error:
        return "refused" if error.reason == "POLICY_INVALID" else f"refused as {error.reason}"
    asked = question(Principal("acme", "s", Role.CI), Action.SIGN, labels={})
    policy.decide(asked, "1")
    policy.granting([Link("g", "s", False, [Action.SIGN], KeyName("acme", "k"))]).decide(asked, "1")
    return "taken"


def main(stack: int) -> None:
    outcomes: dict[str, str] = {}

    def work() -> None:
        for name, text in texts():
            print("trying", name, flush=True)
            outcomes[name] = tried(text)

    # What takes all memory ends here, and not the machine.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(stack * 1024)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for name, outcome in outcomes.items():
        print(outcome, name)


if __name__ == "__main__":
    main(int(sys.argv[1]))
