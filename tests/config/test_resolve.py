"""Plain values key by key: what cannot be resolved hides nothing else, and references have an end."""

from __future__ import annotations

import time
from typing import Any

import pytest
from omegaconf import OmegaConf

from optim_cli.config.resolve import below, plain, source


def resolved(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values, and key -> mistake."""
    taken, mistakes = plain(OmegaConf.create(values))
    return taken, {x.key: x.what for x in mistakes}


def test_plain_types() -> None:
    values: dict[Any, Any] = {
        "a": 1,
        "b": [1, {"c": [None]}],
        "d": {"e": "${a}", "f": "x${a}"},
        1: 2,
        "g": None,
        "h": {},
    }
    taken, mistakes = resolved(values)
    assert taken == {"a": 1, "b": [1, {"c": [None]}], "d": {"e": 1, "f": "x1"}, "1": 2, "g": None, "h": {}}
    assert type(taken["b"]) is list
    assert type(taken["d"]) is dict
    assert not mistakes


def test_hydra_is_left_out() -> None:
    assert resolved({"hydra": {"a": "${no}"}, "b": "${hydra.c}"}) == (
        {},
        {"b": "'${hydra.c}' cannot be resolved: Interpolation key 'hydra.c' not found"},
    )


def test_each_is_told() -> None:
    taken, mistakes = resolved(
        {"a": "???", "b": {"c": ["${no}", 1, "???"], "d": 2}, "e": "${oc.env:NO_SUCH}"}
    )
    assert taken == {"b": {"c": [1], "d": 2}}
    assert list(mistakes) == ["a", "b.c[0]", "b.c[2]", "e"]
    assert mistakes["a"] == "missing; give a=VALUE"
    assert mistakes["b.c[0]"] == "'${no}' cannot be resolved: Interpolation key 'no' not found"


@pytest.mark.parametrize(
    "values",
    [
        {"a": "${a}"},
        {"a": "${b}", "b": "${a}"},
        {"a": {"x": "${b}"}, "b": {"y": "${a}"}},
        {"a": {"x": "${a}"}},
        {"a": ["${b}"], "b": ["${a}"]},
        # Each level has the one below ten times.
        {**{f"a{i}": {f"x{j}": f"${{a{i + 1}}}" for j in range(10)} for i in range(9)}, "a9": {"y": 1}},
    ],
)
def test_references_have_an_end(values: dict[str, Any]) -> None:
    start = time.process_time()
    taken, mistakes = resolved({**values, "right": 1})
    assert mistakes
    assert taken["right"] == 1
    assert time.process_time() - start < 60


def test_sources() -> None:
    config = OmegaConf.create(
        {
            "a": 1,
            "b": "${a}",
            "c": "${b}",
            "d": {"e": "${c}"},
            "f": "${d}",
            "g": "x${a}",
            "h": "${h}",
            "i": "${.a}",
        }
    )
    expected = {
        "a": "a",
        "b": "a",
        "c": "a",
        "d.e": "a",
        "f.e": "a",
        "f": "d",
        "g": "g",
        "h": "h",
        "no": "no",
    }
    assert {x: source(config, x) for x in expected} == expected
    assert source(config, "i") == ".a"


def test_below() -> None:
    config = OmegaConf.create({"a": {"b": "???", "c": None}, "d": [1, 2], "e": None, "f": "???", "g": "${a}"})
    assert below(config.a, "b")._is_missing()
    assert below(config.a, "c")._is_none()
    assert below(config.a, "no") is None
    assert below(config.d, "1") == 2
    for node, name in ((config.d, "2"), (config.d, "x"), (config.d, "-1"), (None, "x"), (3, "x")):
        assert below(node, name) is None
    for name in "efg":
        assert below(below(config, name), "b") is None
