"""Words of a command line become the arguments of a verb."""

import re
from pathlib import Path

import pytest

from allmlp.errors import InputError
from allmlp.verbs._words import bind, convert, split_words


def verb(run: str | Path, *files: str, out: str | None = None, top: int = 5, quick: bool = False, **nested: object):
    pass


def closed(first: str, second: int = 2, *, size: tuple[int, int] | None = None, names: list[str] | None = None):
    pass


def test_what_is_an_override():
    subjects, overrides = split_words(["a", "b=1", "c.d_e2=x=y", "B=1", "a/b=1", "-x=1", "=", "e=", "b=2"])
    assert subjects == ["a", "B=1", "a/b=1", "-x=1", "="]
    assert overrides == {"b": "2", "c.d_e2": "x=y", "e": ""}


def test_subjects_fill_positions_and_the_rest_of_them_the_star():
    assert bind(verb, ["run", "a.png", "b.png", "top=3"]) == (["run", "a.png", "b.png"], {"top": 3})
    assert bind(verb, ["top=3", "run"]) == (["run"], {"top": 3})


def test_unknown_overrides_go_to_an_open_ended_verb_as_text():
    assert bind(verb, ["run", "data.name=x", "epochs=3"]) == (["run"], {"data.name": "x", "epochs": "3"})


def test_positions_may_be_given_by_name():
    assert bind(verb, ["run=a"]) == ([], {"run": "a"})
    assert bind(closed, ["second=3", "a"]) == ([], {"first": "a", "second": 3})
    assert bind(closed, ["a", "3"]) == (["a", 3], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Wanted FIRST; got nothing for it."),
        (["a", "1", "b"], "Wanted at most 2 subjects; 'b' is one more. Keys are written key=value."),
        (["a", "frist=1"], "Unknown key 'frist'. Did you mean first?"),
        (["a", "zzz=1"], "Unknown key 'zzz'. Known: first, second, size, names."),
        (["a", "second=x"], "second: wanted int; got 'x'."),
        (["a", "x"], "second: wanted int; got 'x'."),
        (["a", "size=1"], "size: wanted tuple[int, int] | None; got '1'."),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        bind(closed, words)


def test_a_subject_beside_its_own_name():
    with pytest.raises(InputError, match=r"'a\.png' is given beside run=\.\.\.; give one or the other"):
        bind(verb, ["run=a", "a.png"])


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("3", str, "3"),
        ("1e-3", float, 1e-3),
        ("true", bool, True),
        ("none", int | None, None),
        ("none", str, "none"),
        ("1,2", tuple[int, int], (1, 2)),
        ("[1, 2]", tuple[int, int], (1, 2)),
        ("a,b", list[str], ["a", "b"]),
        ("a", list[str], ["a"]),
        ("a,b", str, "a,b"),
        ("{a: 1}", dict[str, int], {"a": 1}),
    ],
    ids=str,
)
def test_conversion(text, annotation, value):
    found = convert("key", text, annotation)
    assert found == value
    assert type(found) is type(value)
