"""A file that is no config, or made to hang the program, is told as a mistake and counts as empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from optim_cli.config.files import depth, read_text, read_tree
from tests.command_lines import told, write

TENFOLD = [f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(12)]
MERGED = [x.replace("[", "{<<: [").replace("]", "]}") for x in TENFOLD]
# Content -> why it cannot be read.
UNREADABLE: dict[str, tuple[str | bytes, str]] = {
    "unclosed": ("a: [1\n", ":2: no YAML: expected ','"),
    "tab": ("a:\t1\n\tb: 2\n", ":1: no YAML: found character '\\t'"),
    "duplicate": ("seed: 1\nseed: 2\n", ":2: no YAML: found duplicate key seed"),
    "two documents": ("seed: 1\n---\nseed: 2\n", ":2: no YAML: but found another document"),
    "call": ("seed: !!python/object/apply:os.system [ls]\n", ":1: no YAML: could not determine"),
    "name": ("seed: !!python/name:os.system\n", ":1: no YAML: could not determine a constructor"),
    "own tag": ("seed: !mine 3\n", ":1: no YAML: could not determine a constructor"),
    "set": ("seed: !!set {a}\n", "cannot be read: Value 'set' is not a supported primitive type"),
    "null key": ("null: 2\n", "cannot be read: Incompatible key type 'NoneType'"),
    "list key": ("[1, 2]: 2\n", ":1: no YAML: found unhashable key"),
    "number": ("3\n", "cannot be read: Invalid loaded object type: int"),
    "latin-1": ("# é\nseed: 1\n".encode("latin-1"), "cannot be read: 'utf-8' codec can't decode byte 0xe9"),
    "utf-16": ("seed: 1\n".encode("utf-16"), "cannot be read: 'utf-8' codec can't decode"),
    "zero byte": (b"seed: 1\x00\n", "cannot be read: unacceptable character #x0000"),
    "interpolation": ("device: ${\n", "cannot be read: no viable alternative at input '${'"),
    "digits": (f"seed: {'9' * 5000}\n", "cannot be read: Exceeds the limit"),
    "itself": ("a: &a [*a]\n", "cannot be read: nested deeper than 32"),
    "aliases": ("".join(["a: &a [1]\n", *TENFOLD]), "its aliases make more than 10000 values of it"),
    "merges": ("".join(["a: &a {x: 1}\n", *MERGED]), "its aliases make more than 10000 values of it"),
    "deep": (f"a: {'[' * 40}{']' * 40}\n", "cannot be read: nested deeper than 32"),
    "deeper": (f"a: {'[' * 2000}\n", "cannot be read: nested deeper than 32"),
    "blocks": ("\n".join(" " * x + "a:" for x in range(600)), "cannot be read: nested deeper than 32"),
    "long": (f"a: {'x' * 2_000_000}\n", "cannot be read: longer than 200000 bytes"),
    **{
        f"defaults {x}": (f"defaults: {x}\n", "cannot be read: ")
        for x in (
            "3",
            "{a: b}",
            "null",
            "abc",
            "[1]",
            "[null]",
            "[[]]",
            "[{}]",
            "[{a: b, c: d}]",
            "[_self_@x]",
        )
    },
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for each of UNREADABLE."""
    files = {f"recipe/r{number}.yaml": content for number, (content, _) in enumerate(UNREADABLE.values())}
    return write(tmp_path_factory.mktemp("own"), files)


@pytest.fixture(scope="module")
def lines(own: Path) -> list[str]:
    """What is told of all of them."""
    return told(f"recipe=[{','.join(f'r{x}' for x in range(len(UNREADABLE)))}]", own=own)


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(lines: list[str], name: str) -> None:
    number = list(UNREADABLE).index(name)
    [line] = [x for x in lines if f"/r{number}.yaml" in x]
    assert UNREADABLE[name][1] in line
    assert len(lines) == len(UNREADABLE)


def test_it_counts_as_empty(own: Path) -> None:
    """So that the rest is still told."""
    found = told("recipe=r0", "optimizer.lr=-1", "model=nope", own=own)
    assert [x.partition(": ")[0].rpartition("/")[2] for x in found] == ["model", "r0.yaml:2", "optimizer.lr"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n", "In 'recipe/x'"),
        ("abc\n", "abc: unknown key"),
        ("1: 2\n", "1: unknown key"),
        ("'': 2\n", "'': unknown key"),
        ("optimizer.lr: 2\n", "optimizer.lr: unknown key"),
        ("optimizer: {1: 2}\n", "optimizer.1: unknown key"),
        ("seed: 2020-01-01\n", "seed: '2020-01-01' is not allowed"),
        ("seed: !!binary aGk=\n", "seed: b'hi' is not allowed"),
        ("seed: {a: 1}\n", "seed: {'a': 1} is not allowed"),
        ("model: 3\n", "model: 3 is no choice"),
        ("model: [1]\n", "In 'recipe/x'"),
        ("model: null\n", "model: null is no choice"),
        ("model: ${optimizer}\n", "makes nothing that is allowed here"),
        ("defaults: [nope]\n", "'nope' is no choice"),
        ("defaults: [{override /model: nope}]\n", "model: 'nope' is no choice"),
        ("defaults: [{override /nope: x}]\n", "Could not override 'nope'"),
        ("defaults: [{override model: mlp}]\n", "Could not override"),
        ("defaults: [_self_, _self_]\n", "Duplicate _self_"),
        ('defaults: [{override /model: "a\\0b"}]\n', "is no choice"),
        (f"defaults: [{{override /model: {'x' * 5000}}}]\n", "is no choice"),
        ("device: '" + "${a." * 200 + "}" * 200 + "'\n", "recipe/x.yaml: cannot be read"),
    ],
)
def test_readable_but_wrong(tmp_path: Path, text: str, says: str) -> None:
    assert says in told("recipe=x", own=write(tmp_path, {"recipe/x.yaml": text}))[0]


def test_defaults_lists_without_end(tmp_path: Path) -> None:
    """Files that list themselves, each other, or twice as many each."""
    write(tmp_path, {"recipe/a.yaml": "defaults: [b]\n", "recipe/b.yaml": "defaults: [a]\n"})
    write(tmp_path, {"model/c.yaml": "defaults: [{'/model@x': '${oc.select:no,c}'}]\n"})
    for number in range(20):
        twice = f"defaults: [d{number + 1}@left, d{number + 1}@right]\n"
        write(tmp_path, {f"recipe/d{number}.yaml": twice})
    write(tmp_path, {"recipe/d20.yaml": "seed: 1\n"})
    for choice in ("recipe=a", "recipe=d0", "model=c"):
        assert "leads back to itself, or lists too much" in told(choice, own=tmp_path)[0]


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n", "\ufeffseed: 1\n", "b: &b {lr: 1}\n"])
def test_right(tmp_path: Path, text: str) -> None:
    text = text.replace("b: &b {lr: 1}", "optimizer: &b {lr: 1.0}\n# *b")
    assert not told("recipe=x", own=write(tmp_path, {"recipe/x.yaml": text}))


def test_a_group_file_may_hold_nothing(tmp_path: Path) -> None:
    own = write(tmp_path, {"averaging/mine.yaml": "", "model/mine.yaml": ""})
    assert not told("averaging=mine", own=own)
    assert "model: {} is no choice" in told("model=mine", own=own)[0]


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "endless"):
        with pytest.raises(OSError, match="no regular file"):
            read_text(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission(tmp_path: Path) -> None:
    write(tmp_path, {"recipe/x.yaml": "seed: 1\n"})
    (tmp_path / "recipe" / "x.yaml").chmod(0)
    assert "x.yaml: cannot be read" in told("recipe=x", own=tmp_path)[0]


def test_aliases_within_reason_are_right(tmp_path: Path) -> None:
    tree = read_tree(write(tmp_path, {"x.yaml": "a: &a {b: [1, 2]}\nc: [*a, *a]\nd: {<<: *a}\n"}) / "x.yaml")
    assert tree is not None
    assert read_tree(write(tmp_path, {"empty.yaml": ""}) / "empty.yaml") is None


def test_depth() -> None:
    assert depth(3) == 0
    assert depth([]) == depth({}) == 1
    assert depth([1, {"a": [2]}]) == 3
