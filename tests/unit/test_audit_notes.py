"""Signed notes, verifier keys and checkpoints as C2SP has them, with the vectors that others publish."""

import base64
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meowcat.audit import Checkpoint, Key, verify_checkpoint
from meowcat.audit.checkpoints import parse_checkpoint, split_checkpoints
from meowcat.audit.keys import sign_note
from meowcat.audit.merkle import EMPTY
from meowcat.audit.notes import MAX_SIGNATURES, format_note, keys_of, parse_note, parse_vkey
from meowcat.core.errors import AuditError

# c2sp.org/signed-note, "Verifier keys"
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXm"
    "RKuwHjG1Yu72Iney"
    "aQM=\n"
)
# golang.org/x/mod/sumdb/note: the package's example, whose private key is published
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
BY_PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZIn"
    "NIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
BY_ENOCH = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2"
    "tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

LOG = Key.generate("example.com/log")
BODY = Checkpoint(origin="example.com/log", size=5, root=b"r" * 32)


def signed(text, *signers):
    keys = [(parse_vkey(key.vkey), key.sign(text.encode())) for key in signers]
    return format_note(text, keys)


def signers(note, *vkeys):
    return [key.name for key in parse_note(note).signed_by(keys_of(vkeys))]


def refused(match, call, *arguments, **named):
    with pytest.raises(AuditError, match=match) as caught:
        call(*arguments, **named)
    assert caught.value.code == 151


def test_the_specifications_example_verifies_and_its_key_id_recomputes():
    key = parse_vkey(VKEY)
    assert (key.name, key.id.hex(), str(key)) == ("example.com/foo", "530d903a", VKEY)
    assert signers(NOTE, VKEY) == ["example.com/foo"]
    assert parse_note(NOTE).text == "This is an example message.\n"
    refused("wrong", signers, NOTE.replace("example message", "forged message"), VKEY)


def test_signatures_are_those_that_go_makes(tmp_path):
    path = tmp_path / "peter.key"
    path.write_text(PETER_PRIVATE + "\n")
    path.chmod(0o600)
    key = Key.load(path)
    assert key.vkey == PETER
    assert sign_note(TEXT, key) == f"{TEXT}\n{BY_PETER}"
    assert signers(f"{TEXT}\n{BY_PETER}{BY_ENOCH}", PETER, ENOCH) == ["PeterNeumann", "EnochRoot"]


def test_signatures_of_unknown_keys_are_ignored():
    other = Key.generate("example.com/log")  # the same name, another id
    note = signed(str(BODY), other, LOG)
    assert signers(note, LOG.vkey) == ["example.com/log"]
    assert verify_checkpoint(note, LOG.vkey) == BODY
    cosigned = note + "— witness.example " + base64.b64encode(b"\1\2\3\4" + bytes(72)).decode() + "\n"
    assert verify_checkpoint(cosigned, LOG.vkey) == BODY


def test_a_known_key_whose_signature_is_wrong_rejects_the_note_whoever_else_signed():
    other = Key.generate("example.com/other")
    forged = format_note(
        str(BODY),
        [
            (parse_vkey(other.vkey), other.sign(str(BODY).encode())),
            (parse_vkey(LOG.vkey), LOG.sign(b"something else")),
        ],
    )
    refused("the signature of example.com/log .* is wrong", signers, forged, LOG.vkey, other.vkey)
    assert signers(forged, other.vkey) == ["example.com/other"]


def test_a_note_that_no_known_key_signed_is_rejected():
    refused("signed by example.com/foo .*, and not by example.com/log", signers, NOTE, LOG.vkey)
    refused("no verifier key", signers, NOTE)


def test_so_many_signatures_as_must_be_taken_are_and_there_is_an_end():
    many = [Key.generate(f"example.com/{number}") for number in range(MAX_SIGNATURES)]
    assert signers(signed("a\n", *many[:15], LOG), LOG.vkey) == ["example.com/log"]
    assert len(signers(signed("a\n", *many), *[key.vkey for key in many])) == MAX_SIGNATURES >= 16
    refused("65 signatures", signers, signed("a\n", *many, LOG), LOG.vkey)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda note: note.removesuffix("\n"), "expected a text, an empty line"),
        (lambda note: note.replace("\n\n", "\n"), "expected a text, an empty line"),
        (lambda note: note.replace("—", "-"), "no signature line"),
        (lambda note: note.replace("—", "–"), "no signature line"),
        (lambda note: note + "\n", "expected a text, an empty line"),
        (lambda note: note.replace("\n", "\r\n"), "control characters"),
        (lambda note: note.replace("example m", "example\tm"), "control characters"),
        (lambda note: "\ud800" + note, "no Unicode text"),
        (lambda note: "x" * (1 << 20) + note, "no Unicode text of at most"),
        (lambda note: note.replace("com/foo U", "com/f+o U"), "key name 'example.com/f\\+o'"),
        (lambda note: note.replace("com/foo U", "com/f\u00a0o U"), "key name"),
        (lambda note: note.replace("— example.com/foo ", "—  "), "key name ''"),
        (lambda note: note.replace("aQM=\n", "aQM\n"), "no standard base64"),
        (lambda note: note.replace("aQM=\n", "aQN=\n"), "no canonical base64"),
        (lambda note: note.replace("Uw2QOkn8", "Uw2QOk-8"), "no standard base64"),
        (lambda note: note.split(" Uw2")[0] + " Uw2QOg==\n", "has 4 bytes"),
        (lambda note: note.split(" Uw2")[0] + "\n", "no signature line"),
        (lambda note: note + "more\n", "no signature line"),
    ],
)
def test_what_is_no_note_is_refused(change, match):
    refused(match, signers, change(NOTE), VKEY)


@pytest.mark.parametrize(
    ("vkey", "match"),
    [
        ("", "expected NAME\\+ID\\+KEY"),
        ("example.com/foo+530d903a", "expected NAME\\+ID\\+KEY"),
        (VKEY.replace("530d903a", "530d903b"), "its id is '530d903b', but its key has 530d903a"),
        (VKEY.replace("foo+", "fo0+"), "its id is"),
        (VKEY.replace("foo+", "f o+"), "key name"),
        (VKEY[:-4], "a public key of 29 bytes"),
        ("a+00000000+", "signature type : expected 01"),
        ("a+00000000+BOkyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "signature type 04: expected 01"),
        ("a+00000000+*", "no standard base64"),
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey, match):
    refused(match, parse_vkey, vkey)


def test_a_checkpoint_comes_back_as_it_was_signed():
    text = sign_note(str(BODY), LOG)
    assert verify_checkpoint(text, LOG.vkey) == BODY
    assert verify_checkpoint(text, parse_vkey(LOG.vkey), origin="example.com/log") == BODY
    assert text.startswith("example.com/log\n5\n")


def test_a_checkpoint_of_another_log_is_refused_although_the_key_is_right():
    text = sign_note(str(Checkpoint(origin="example.com/other", size=0, root=EMPTY)), LOG)
    refused("is of 'example.com/other'; expected 'example.com/log'", verify_checkpoint, text, LOG.vkey)
    assert verify_checkpoint(text, LOG.vkey, origin="example.com/other").size == 0
    refused("expected 'x'", verify_checkpoint, sign_note(str(BODY), LOG), LOG.vkey, origin="x")


def test_extension_lines_are_covered_by_the_signature_and_otherwise_ignored():
    text = sign_note(str(BODY) + "anything\n", LOG)
    assert verify_checkpoint(text, LOG.vkey) == BODY
    refused("wrong", verify_checkpoint, text.replace("anything", "something"), LOG.vkey)


ROOT64 = base64.b64encode(b"r" * 32).decode()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("a\n5\n", "three lines"),
        (f"\n5\n{ROOT64}\n", "three lines"),
        (f"a\n5\n{ROOT64}\n\nb\n", "three lines"),
        (f"a\n05\n{ROOT64}\n", "size '05'"),
        (f"a\n+5\n{ROOT64}\n", "size '\\+5'"),
        (f"a\n٥\n{ROOT64}\n", "size '٥'"),
        (f"a\n{1 << 63}\n{ROOT64}\n", "expected a decimal number"),
        (f"a\n5\n{ROOT64[:-4]}\n", "a root of 30 bytes"),
        ("a\n5\nx\n", "no standard base64"),
        (f"a\n0\n{ROOT64}\n", "root of an empty tree"),
    ],
)
def test_what_is_no_checkpoint_is_refused(body, match):
    refused(match, parse_checkpoint, signed(body, LOG))


def test_many_checkpoints_can_stand_in_one_file():
    texts = [sign_note(str(Checkpoint(origin="a", size=n, root=b"%032d" % n)), LOG) for n in (1, 2, 3)]
    assert split_checkpoints("\n".join(texts)) == texts
    assert split_checkpoints("".join(texts)) == texts
    assert split_checkpoints("\n\n" + "\n\n".join(texts) + "\n") == texts
    assert split_checkpoints("") == []


def test_a_key_in_a_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "audit.key"
    LOG.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.load(path).vkey == LOG.vkey
    refused("never overwritten", LOG.save, path)
    for mode in (0o640, 0o604, 0o666, 0o700):
        path.chmod(mode)
        refused(f"mode 0{mode:o} lets others.*chmod 600", Key.load, path)
    path.chmod(0o400)
    assert Key.load(path).vkey == LOG.vkey


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hunter2",
        PETER,
        PETER_PRIVATE.replace("c74f20a3", "c74f20a4"),
        PETER_PRIVATE[:-4],
        PETER_PRIVATE.replace("AYEK", "BIEK"),
        "PRIVATE+KEY+a+00000000+hunter2*",
        b"\xff\xfe",
    ],
)
def test_what_is_no_key_file_is_refused_and_never_shown(tmp_path, content):
    path = tmp_path / "audit.key"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    with pytest.raises(AuditError) as caught:
        Key.load(path)
    assert "hunter2" not in str(caught.value)
    assert "YEKFALV" not in str(caught.value)


def test_a_key_that_is_not_there_says_how_to_make_one(tmp_path):
    refused("No such file or directory; 'meowcat audit keygen' makes one", Key.load, tmp_path / "none")
    refused("No such file", LOG.save, tmp_path / "none" / "key")
    refused("key name 'a b'", Key.generate, "a b")


def test_a_key_shows_its_public_part_only():
    assert repr(LOG) == f"Key({LOG.vkey!r})"
    with pytest.raises(TypeError):
        pickle.dumps(LOG)


def test_a_signer_that_signs_with_another_key_is_found_out():
    class Confused:
        vkey = LOG.vkey
        sign = staticmethod(Key.generate("x").sign)

    refused("not one of example.com/log", sign_note, "a\n", Confused())


@given(st.text(max_size=300))
def test_any_text_is_a_note_or_refused(text):
    for candidate in (text, f"{NOTE}{text}", f"{text}\n\n{NOTE}", NOTE.replace("\n\n", text)):
        try:
            note = parse_note(candidate)
        except AuditError:
            continue
        try:
            assert note.signed_by(keys_of(VKEY))
            assert note.text.encode() == b"This is an example message.\n"
        except AuditError:
            pass


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_checkpoint_with_one_byte_changed_is_refused_or_the_same(at, mask):
    text = sign_note(str(BODY), LOG)
    raw = bytearray(text.encode())
    raw[at % len(raw)] ^= mask
    try:
        changed = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(AuditError):
        verify_checkpoint(changed, LOG.vkey)
