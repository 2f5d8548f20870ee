"""What C2SP and those who implement it have published is read as they mean it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import pytest

from sealkeeper.verify.errors import LogCorruptError, NoteError
from sealkeeper.verify.log import read_checkpoint, verify_log
from sealkeeper.verify.merkle import leaf_hash
from sealkeeper.verify.note import Checkpoint, NoteVerifier, parse_checkpoint, parse_signed_note
from tests.verify import naive_tree

# C2SP/C2SP, signed-note.md at v1.1.0, section "Verifier keys": the example key and the note that it signed.
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# The same file, before its first section: a text with an empty line in it. Its key is not published.
QUASIMODO = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3Ze"
    "kRwNtIc=\n"
)
# C2SP/C2SP, tlog-checkpoint.md, before its first section; and tlog-cosignature.md, the line of a witness under it.
SOFA = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeM"
    "cTOAYQ8=\n"
)
WITNESS = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+"
    "mbIUBkBIfZ+qnA==\n"
)
# golang/mod, sumdb/note/note_test.go, TestOpen: a text, two keys and their signatures.
VERSE = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# The same file, TestNewVerifier: a key that is too long and one of an unknown type, with the ids that they would have.
WRONG_KEYS = [
    "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
    "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
]
# transparency-dev/formats, package log, TestID: keys of the Go checksum database and of Sigstore's first Rekor (P-256).
SUM_GOLANG = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
REKOR = (
    "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7n"
    "wZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="
)
# golang/mod, sumdb/client_test.go: the test database's key, its records, and the tree of six in TestClientFork.
SUMDB = "localhost.localdev/sumdb+00000c67+AcTrnkbUA+TU4heY3hkjiSES/DSQniBqIeQ/YppAUtK6"
SUMDB_RECORDS = [
    b"rsc.io/quote v1.5.2 h1:w5fcysjrx7yqtD/aO+QwRjYZOKnaM9Uh2b40tElTs3Y=\n"
    b"rsc.io/quote v1.5.2/go.mod h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0=\n"
    b"rsc.io/quote v1.5.2 h2:xyzzy\n",
    b"golang.org/x/text v0.0.0-20170915032832-14c0d48ead0c h1:qgOY6WgZOaTkIIMiVjBQcw93ERBE4m30iBm00nkL0i8=\n"
    b"golang.org/x/text v0.0.0-20170915032832-14c0d48ead0c/go.mod h1:NqM8EUOU14njkJ3fqMW+pc6Ldnwhi/IjpwHt7yyuwOQ=\n",
    b"rsc.io/sampler v1.3.0 h1:7uVkIFmeBqHfdjD+gZwtXXI+RODJ2Wc4O7MPEh/QiW4=\n"
    b"rsc.io/sampler v1.3.0/go.mod h1:T1hPZKmBbMNahiBKFy5HrXp6adAjACjK9JXDnKaTXpA=\n",
    b"rsc.io/Quote v1.5.2 h1:uppercase!=\n",
    b"rsc.io/pkg1 v1.5.3 h1:hash!=\n",
    b"rsc.io/pkg1 v1.5.4 h1:hash!=\n",
]
SUMDB_TREE = (
    "go.sum database tree\n"
    "6\n"
    "wc4SkQt52o5W2nQ8To2ARs+mWuUJjss+sdleoiqxMmM=\n"
    "\n"
    "— localhost.localdev/sumdb AAAMZ6oRNswlEZ6ZZhxrCvgl1MBy+nusq4JU+TG6Fe2NihWLqOzb+y2c2kzRLoCr4tvw9o36ucQEnhc20e4nA4"
    "Qc/wc=\n"
)
# transparency-dev/trillian-tessera, testdata: build_log.sh has the key and the entries, log/ the checkpoints and tiles.
TESSERA = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
TESSERA_ENTRIES = b"one two three four five six seven eit nain ten ileven twelf threeten fourten fivten".split()
TESSERA_CHECKPOINTS = {
    0: (
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "M9e0lhxJACzE1KoUdqKuPa+9p6R7dSW8BlEvrg/noo8FkGg6PbJoRNOcdjqjOq89wVvTA60eubCc4oufo5BvIVEgtQc=",
    ),
    3: (
        "Wqx3HImawpLnS/Gv4ubjAvi1WIOy0b8Ze0amvqbavKk=",
        "M9e0lvAQRtH832pk2RTbeSeZMkp4FZSdJYFBUjO5SKxuRbywPUF3cx+HUrb50kjd3rUWW/fj53Wj1dwcwh9bGQnqVAg=",
    ),
    15: (
        "rKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=",
        "M9e0luh4jTG+UMBqOUo9/q+yAEvx1ilBEniMvjf1zfcBOhg+CKubMt53MvIt/uEWP6zdkdIQzd/fmwlM/dlPWF74ewI=",
    ),
}
# log/tile/0/000.p/3 there.
TESSERA_TILE = bytes.fromhex(
    "d0d7360ab79f58ab1e1e3fe64ad77e2ea0bc07e36b5f46ed2223edd9298df9e9"
    "ab1ab7f07c7c8fe0eff4ba6faa53c7e4412e91a599153e8aa4e01beece5b7825"
    "671f146c5e471e8a1a83a3c214ce4ba907b8f3a5888d14cc8cd3ce75bb12ef94"
)


@pytest.mark.parametrize(
    ("vkey", "envelope"),
    [(FOO, FOO_NOTE), (PETER, VERSE + "\n" + PETER_LINE), (ENOCH, VERSE + "\n" + ENOCH_LINE), (SUMDB, SUMDB_TREE)],
)
def test_published_notes_verify_under_their_published_keys_and_no_altered_one_does(vkey: str, envelope: str) -> None:
    verifier = NoteVerifier.from_vkey(vkey)
    verifier.verify(parse_signed_note(envelope))
    with pytest.raises(NoteError, match="wrong"):
        verifier.verify(parse_signed_note("X" + envelope[1:]))


@pytest.mark.parametrize("vkey", [FOO, PETER, ENOCH, SUM_GOLANG, REKOR, TESSERA])
def test_published_verifier_keys_read_back(vkey: str) -> None:
    assert NoteVerifier.from_vkey(vkey).vkey() == vkey


def test_mangled_verifier_keys_are_refused() -> None:
    parts = [PETER[start:end] for start in range(len(PETER)) for end in range(start + 1, len(PETER) + 1)]
    others = [PETER[:at] + chr(ord(PETER[at]) + 1) + PETER[at + 1 :] for at in range(len(PETER))]
    for wrong in [*WRONG_KEYS, *others, *(part for part in parts if part != PETER)]:
        with pytest.raises(NoteError):
            NoteVerifier.from_vkey(wrong)


def test_either_of_two_published_signatures_is_enough() -> None:
    parsed = parse_signed_note(VERSE + "\n" + PETER_LINE + ENOCH_LINE)
    for vkey in (PETER, ENOCH):
        NoteVerifier.from_vkey(vkey).verify(parsed)


# The same test's malformed notes.
@pytest.mark.parametrize(
    "envelope",
    [
        VERSE,
        VERSE + "\n",
        VERSE + "\n" + PETER_LINE[:-1],
        "\x01" + VERSE + "\n" + PETER_LINE,
        b"\xff" + (VERSE + "\n" + PETER_LINE).encode(),
        VERSE + "\n" + PETER_LINE.replace("PeterNeumann", "Bad Name"),
        VERSE + "\n" + PETER_LINE + "Unexpected line.\n",
        VERSE + "\n" + PETER_LINE * 101,
    ],
)
def test_published_malformed_notes_are_refused(envelope: str | bytes) -> None:
    with pytest.raises(NoteError):
        parse_signed_note(envelope)


def test_the_published_note_with_an_empty_line_has_it_in_its_text() -> None:
    parsed = parse_signed_note(QUASIMODO)
    assert parsed.text == QUASIMODO[: QUASIMODO.index("\n— ")]
    [signature] = parsed.signatures
    assert (signature.name, signature.key_id.hex()) == ("quasimodo.example/salvatore", "367ba04b")
    assert len(signature.signature) == 64


def test_the_published_checkpoint_reads_back() -> None:
    parsed = parse_signed_note(SOFA)
    checkpoint = parse_checkpoint(parsed.text)
    root = bytes.fromhex("0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62")
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, root)
    assert checkpoint.text() == parsed.text


def test_the_published_checkpoint_has_the_signature_of_the_go_checksum_database_under_another_name() -> None:
    verifier = NoteVerifier.from_vkey(SUM_GOLANG)
    real = SOFA.replace("— example.com/behind-the-sofa", "— sum.golang.org")
    verifier.verify(parse_signed_note(real.replace("example.com/behind-the-sofa", "go.sum database tree")))
    with pytest.raises(NoteError, match="wrong"):
        verifier.verify(parse_signed_note(real))


def test_a_published_cosignature_is_a_line_of_another_key() -> None:
    log, witness = parse_signed_note(SOFA + WITNESS).signatures
    assert parse_signed_note(SOFA).signatures == (log,)
    # A timestamp of eight bytes goes before the signature; the specification's example has this one.
    assert int.from_bytes(witness.signature[:8], "big") == 1679315147
    assert len(witness.signature) == 8 + 64


def test_the_published_records_are_the_tree_that_was_signed() -> None:
    checkpoint = parse_checkpoint(parse_signed_note(SUMDB_TREE).text)
    assert (checkpoint.size, checkpoint.root_hash) == (6, naive_tree.root(SUMDB_RECORDS))


@dataclass
class Files:
    """A log in memory."""

    files: dict[str, bytes] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)


def tessera(size: int) -> Files:
    root, signature = TESSERA_CHECKPOINTS[size]
    name = TESSERA.partition("+")[0]
    entries = TESSERA_ENTRIES[:size]
    files = {"checkpoint": f"{name}\n{size}\n{root}\n\n— {name} {signature}\n".encode()}
    if size:
        files[f"tile/entries/000.p/{size}"] = b"".join(len(one).to_bytes(2, "big") + one for one in entries)
        files[f"tile/0/000.p/{size}"] = b"".join(map(leaf_hash, entries))
    return Files(files)


@pytest.mark.parametrize("size", TESSERA_CHECKPOINTS)
def test_a_published_log_verifies(size: int) -> None:
    verifier = NoteVerifier.from_vkey(TESSERA)
    report = verify_log(tessera(size), verifier, earlier=read_checkpoint(tessera(0), verifier))
    assert report.checkpoint.size == size
    assert base64.b64encode(report.checkpoint.root_hash).decode() == TESSERA_CHECKPOINTS[size][0]


def test_a_published_tile_has_these_bytes() -> None:
    log, verifier = tessera(3), NoteVerifier.from_vkey(TESSERA)
    assert log.files["tile/0/000.p/3"] == TESSERA_TILE
    log.files["tile/entries/000.p/3"] = b"\0\3one\0\3two\0\5three"
    verify_log(log, verifier)
    log.files["tile/entries/000.p/3"] = b"\0\3one\0\3two\0\4tree"
    with pytest.raises(LogCorruptError) as caught:
        verify_log(log, verifier)
    assert caught.value.index == 2
