"""Which parameters entries take: in real models by their module types, of random ones the first that fits."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim.param_groups import Structure, WrongGroups, split, words_of
from tests.optim.param_groups.real_models import REAL, VIT, mlp, resnet18, vit

real = pytest.mark.parametrize("name", sorted(REAL))

NORMS = (nn.BatchNorm2d, nn.LayerNorm)


def names_by_group(*args: Any, **options: Any) -> dict[str, list[str]]:
    return {group.name: list(group.parameters) for group in split(*args, **options)}


def own_names(model: nn.Module, *types: type[nn.Module]) -> list[str]:
    """Parameters that modules of some types hold themselves, in the model's order."""
    held = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, types)
        for own, _ in module.named_parameters(recurse=False)
    }
    return [name for name, _ in model.named_parameters() if name in held]


@real
def test_biases_and_norms_of_real_models(name: str) -> None:
    model, structure = REAL[name][0](), REAL[name][1]
    groups = names_by_group(model, {"none": {"kind": ["bias", "norm"]}}, structure)
    norms = own_names(model, *NORMS)
    biases = [x for x, _ in model.named_parameters() if x.endswith("bias")]
    expected = [x for x, _ in model.named_parameters() if x in {*norms, *biases}]
    assert groups == {
        "none": expected,
        "rest": [x for x, _ in model.named_parameters() if x not in expected],
    }
    assert bool(norms) == (name != "mlp")


@real
def test_heads_of_real_models(name: str) -> None:
    model, structure = REAL[name][0](), REAL[name][1]
    groups = names_by_group(model, {"body": {"not": {"kind": "head"}}, "head": {"kind": "head"}}, structure)
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    assert [*map(id, last.parameters())] == [id(model.get_parameter(x)) for x in groups["head"]]
    assert len(groups["body"]) + 2 == len([*model.parameters()])


@real
def test_layers_of_real_models(name: str) -> None:
    model, structure = REAL[name][0](), REAL[name][1]
    groups = split(model, {"all": {"params": "*", "layer_decay": 0.5, "lr_scale": 3.0}}, structure)
    layers = {"vit": 5, "resnet18": 6, "mlp": 4}[name]
    assert [x.name for x in groups] == [f"all.{i}" for i in range(layers)]
    assert [x.lr_scale for x in groups] == [3.0 * 0.5 ** (layers - 1 - i) for i in range(layers)]
    # The forward pass goes through them in this order.
    in_order = [parameter for group in groups for parameter in group.parameters]
    assert sorted(in_order) == sorted(x for x, _ in model.named_parameters())
    if name == "vit":
        for index, group in enumerate(groups[1:-1]):
            assert [*group.parameters] == [x for x in in_order if f"encoder_layer_{index}." in x]


def test_layers_where_the_group_of_an_expression_may_take_no_part() -> None:
    """As where it finds no digits."""
    structure = Structure(depth=[r"regex:(?:body\.(\d+)|head)\..*"])
    groups = names_by_group(mlp(), {"all": {"params": "*", "layer_decay": 0.5}}, structure)
    assert groups["all.0"] == ["head.weight", "head.bias"]
    assert groups["all.1"] == ["body.1.weight", "body.1.bias"]


def test_kinds_of_a_vision_transformer() -> None:
    model = vit()
    groups = names_by_group(model, {"embedding": {"kind": "embedding"}, "bias": {"kind": "bias"}}, VIT)
    assert groups["embedding"] == ["encoder.pos_embedding"]
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert {f"{attention}.in_proj_bias", f"{attention}.out_proj.bias"} < {*groups["bias"]}


def test_modules_by_name_path_and_base_take_what_is_below_them() -> None:
    model = resnet18()
    batch_norms = own_names(model, nn.BatchNorm2d)
    for wanted in (
        "BatchNorm2d",
        "torch.nn.BatchNorm2d",
        "torch.nn.modules.batchnorm.BatchNorm2d",
        "_BatchNorm",
    ):
        assert names_by_group(model, {"norms": {"modules": wanted}})["norms"] == batch_norms
    blocks = names_by_group(model, {"blocks": {"modules": "torchvision.models.resnet.BasicBlock"}})["blocks"]
    assert blocks == [x for x, _ in model.named_parameters() if x.startswith("layer")]
    with pytest.raises(WrongGroups, match=r"blocks: takes no parameter: .*did you mean BasicBlock\?"):
        split(model, {"blocks": {"modules": "torch.nn.BasicBlok"}})


def test_shared_parameters_count_in_all_their_places() -> None:
    model = nn.Sequential()
    model.tokens = nn.Embedding(5, 3)
    model.mix = nn.Linear(3, 3)
    model.head = nn.Linear(3, 5, bias=False)
    model.head.weight = model.tokens.weight
    for entry in ({"kind": "embedding"}, {"kind": "head"}, {"params": "head.*"}, {"modules": "Embedding"}):
        groups = names_by_group(model, {"tied": entry}, Structure(head="head.*"))
        assert groups == {"tied": ["tokens.weight"], "rest": ["mix.weight", "mix.bias"]}
    both = {"not": {"any": [{"kind": "embedding"}, {"params": "tokens.*"}]}}
    assert names_by_group(model, {"others": both}) == {
        "others": ["mix.weight", "mix.bias"],
        "rest": ["tokens.weight"],
    }


def test_norms_of_ones_own_are_known_by_their_names() -> None:
    class GainNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))
            self.inner = nn.Linear(3, 3)

    model = nn.Sequential(GainNorm(), nn.RMSNorm(3), nn.GroupNorm(1, 3))
    groups = names_by_group(model, {"norms": {"kind": "norm"}})
    assert groups["norms"] == ["0.gain", "1.weight", "2.weight", "2.bias"]


def test_parameters_that_need_no_gradient_are_left_out() -> None:
    model = mlp()
    model.head.requires_grad_(False)
    assert not any("head" in x for x in names_by_group(model, {})["rest"])
    with pytest.raises(WrongGroups, match="head: takes no parameter"):
        split(model, {"head": {"params": "head.*"}})


def reference(condition: dict[str, Any], name: str, parameter: nn.Parameter, owners: list[set[str]]) -> bool:
    """What a condition means, written out once more."""

    def several(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    said: dict[str, Callable[[Any], bool]] = {
        "params": lambda value: any(
            re.fullmatch(x[6:], name) is not None if x.startswith("regex:") else fnmatchcase(name, x)
            for x in several(value)
        ),
        "modules": lambda value: any(x in classes for x in several(value) for classes in owners),
        "ndim": lambda value: parameter.ndim in several(value),
        "kind": lambda value: any(
            {
                "bias": name.endswith("bias"),
                "norm": "LayerNorm" in owners[-1],
                "head": name.startswith("heads."),
            }[x]
            for x in several(value)
        ),
        "any": lambda value: any(reference(x, name, parameter, owners) for x in value),
        "all": lambda value: all(reference(x, name, parameter, owners) for x in value),
        "not": lambda value: not reference(value, name, parameter, owners),
    }
    return all(said[key](value) for key, value in condition.items() if key in said)


def random_condition(rng: random.Random, names: list[str], depth: int = 2) -> dict[str, Any]:
    def pattern() -> str:
        words = rng.choice(names).split(".")
        start = rng.randrange(len(words))
        glob = ".".join(words[: start + 1]) + "*" if rng.random() < 0.5 else "*" + ".".join(words[start:])
        return rng.choice([glob, rng.choice(names), "regex:.*" + re.escape(words[start]) + ".*"])

    def one_or_more(make: Callable[[], Any]) -> Any:
        return make() if rng.random() < 0.5 else [make() for _ in range(rng.randint(1, 3))]

    def nested() -> dict[str, Any]:
        return random_condition(rng, names, depth - 1)

    make: dict[str, Callable[[], Any]] = {
        "params": lambda: one_or_more(pattern),
        "modules": lambda: one_or_more(
            lambda: rng.choice(["Linear", "LayerNorm", "MultiheadAttention", "MLPBlock", "Conv2d", "Dropout"])
        ),
        "ndim": lambda: one_or_more(lambda: rng.randint(0, 4)),
        "kind": lambda: one_or_more(lambda: rng.choice(["bias", "norm", "head"])),
    }
    if depth:
        make |= {key: lambda: [nested() for _ in range(rng.randint(1, 3))] for key in ("any", "all")}
        make["not"] = nested
    return {key: make[key]() for key in rng.sample(sorted(make), rng.choice([1, 1, 2]))}


def test_random_entries_take_by_first_match_and_keep_the_order(seed: int) -> None:
    rng = random.Random(seed)
    model = vit(layers=2)
    parameters = dict(model.named_parameters())
    owners = {
        name: [
            {x.__name__ for x in type(model.get_submodule(".".join(name.split(".")[:i]))).__mro__}
            for i in range(name.count(".") + 1)
        ]
        for name in parameters
    }
    filled = 0
    for _ in range(150):
        entries = {
            f"entry {i}": random_condition(rng, [*parameters]) | {"optional": True}
            for i in range(rng.randint(1, 5))
        }
        expected: dict[str, list[str]] = {name: [] for name in (*entries, "rest")}
        for name, parameter in parameters.items():
            first = next(
                (e for e, c in entries.items() if reference(c, name, parameter, owners[name])), "rest"
            )
            expected[first].append(name)
        groups = split(model, entries, VIT)
        assert {x.name: [*x.parameters] for x in groups} == {x: y for x, y in expected.items() if y}, entries
        assert [x.name for x in groups] == [x for x, y in expected.items() if y]
        assert all(parameters[name] is p for x in groups for name, p in x.parameters.items())
        filled += len(groups) > 1
    assert filled > 30


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            {"a": {"params": "haed.*"}},
            {"a": r"takes no parameter: .*did you mean head\.\*\?; optional: true"},
        ),
        ({"a": {"params": "*"}, "b": {"kind": "bias"}}, {"b": "takes no parameter: a, before it, took all"}),
        ({"a": {"ndim": 7}}, {"a": r"it fits none of body\.1\.weight.* and 3 more; optional"}),
        ({"a": {"modules": "LSTM"}}, {"a": "no module is one; the model has .*Linear"}),
        ({"a": {"lr": 1.0}}, {"a": r"does not say what it takes; .*params: \"\*\" takes everything"}),
        ({"a": 3}, {"a": "3 is no entry; allowed: a mapping"}),
        ({"rest": {"params": "*"}}, {"rest": "choose another"}),
        ({"a": {"params": ["*", 3]}}, {"a.params": "3 is not allowed; allowed: a glob"}),
        ({"a": {"params": "regex:("}}, {"a.params": r"'regex:\(' is no regular expression: missing \)"}),
        (
            {"a": {"params": ["regex:a{99999999999}", f"regex:{'(' * 5000}{')' * 5000}"]}},
            {"a.params": "is no regular expression: the repetition number .*: maximum recursion depth"},
        ),
        ({"a": {"modules": []}}, {"a.modules": r"\[\] is not allowed"}),
        ({"a": {"ndim": "2"}}, {"a.ndim": "'2' is not allowed; allowed: a number of dimensions"}),
        ({"a": {"kind": ["bias", "nrm"]}}, {"a.kind": "'nrm' is not allowed; allowed: bias, norm"}),
        ({"a": {"any": {"ndim": 2}}}, {"a.any": "allowed: a list of conditions"}),
        (
            {"a": {"all": [{"ndm": 2}]}},
            {r"a.all[0].ndm": r"unknown key; did you mean ndim\? \(known", "a.all[0]": "does not say"},
        ),
        ({"a": {"not": {"ndim": 2, 3: 4}}}, {"a.not.3": r"unknown key \(known: params"}),
        ({"a": {"not": "bias"}}, {"a.not": "'bias' is not allowed; allowed: a condition"}),
        ({"a": {"ndim": 2, "lr": 1.0, "lr_scale": 2.0}}, {"a.lr_scale": "lr is given, too"}),
        ({"a": {"ndim": 2, "lr_scale": -1}}, {"a.lr_scale": "-1 is not allowed; allowed: a finite number"}),
        (
            {"a": {"ndim": 2, "lr_scale": float("inf")}},
            {"a.lr_scale": "inf is not allowed; allowed: a finite"},
        ),
        ({"a": {"ndim": 2, "lr_scale": 10**400}}, {"a.lr_scale": "000 is not allowed; allowed: a finite"}),
        ({"a": {"ndim": 2, "layer_decay": 1.5}}, {"a.layer_decay": "1.5 is not allowed"}),
        ({"a": {"ndim": 2, "freeze": 1}}, {"a.freeze": "1 is not allowed; allowed: true or false"}),
        ({"a": {"ndim": 2, "freeze": False, "unfreeze_at": 3}}, {"a.freeze": "unfreeze_at is given"}),
        ({"a": {"kind": "head"}}, {"a": "asks for the head, and the structure of the model names none"}),
        ({"a": {"not": {"kind": "head"}}}, {"a": "asks for the head"}),
        (
            {"a": {"ndim": 2, "layer_decay": 0.5}},
            {"a.layer_decay": "the structure of the model has no depth"},
        ),
        ({"a.0": {"ndim": 2}}, {"": "'a.0' is no name of an entry; allowed: one without dots"}),
        ({1: {"ndim": 2}}, {"": "1 is no name"}),
        (
            {"a": {"kind": "nrm"}, "b": {"params": "haed.*"}, "c": {"params": "head.*"}},
            {"a.kind": "'nrm'", "b": r"takes no parameter: .*did you mean head\.\*"},
        ),
        (
            {"a": {"kind": "nrm"}, "b": {"lr": 1.0}, "c": 3},
            {"a.kind": "'nrm'", "b": "does not say", "c": "3 is no entry"},
        ),
    ],
)
def test_mistakes_are_told_all_at_once(entries: dict[str, Any], told: dict[str, str]) -> None:
    with pytest.raises(WrongGroups) as refused:
        split(mlp(), entries)
    found: dict[str, str] = {}
    for key, what in refused.value.mistakes:
        found[key] = f"{found.get(key, '')} {what}".strip()
        assert f"{key}: {what}" in str(refused.value)
    assert found.keys() == told.keys()
    for key, what in told.items():
        assert re.search(what, found[key]), found[key]


def test_optional_entries_may_take_nothing_and_strict_leaves_no_rest() -> None:
    model = mlp()
    assert [*names_by_group(model, {"norms": {"kind": "norm", "optional": True}})] == ["rest"]
    with pytest.raises(WrongGroups, match=r"no entry takes body\.1\.bias.*and strict"):
        split(model, {"matrices": {"ndim": 2}}, strict=True)
    assert [*names_by_group(model, {"matrices": {"ndim": 2}, "others": {"ndim": 1}}, strict=True)] == [
        "matrices",
        "others",
    ]


def test_optional_layers_of_a_model_that_has_none() -> None:
    nothing = {"params": "nope", "optional": True, "layer_decay": 0.5}
    assert [*names_by_group(mlp(), {"a": nothing}, Structure(depth=["zzz"]))] == ["rest"]
    frozen = mlp().requires_grad_(False)
    assert not split(frozen, {"a": nothing | {"params": "*"}}, Structure(depth=["*"]))


def test_a_layer_that_the_depth_does_not_know_is_told() -> None:
    with pytest.raises(
        WrongGroups, match=r"a\.layer_decay: no layer in the depth of the model has head\.weight"
    ):
        split(mlp(), {"a": {"params": "*", "layer_decay": 0.5}}, Structure(depth=["body.*"]))


def test_conditions_in_words() -> None:
    condition = {
        "params": ["a.*", "b"],
        "not": {"kind": "bias"},
        "any": [{"ndim": 2}, {"ndim": 4, "kind": "head"}],
    }
    assert words_of(condition) == "params a.* or b, (ndim 2) or (ndim 4, kind head), not kind bias"


def test_a_structure_that_is_none_is_told() -> None:
    with pytest.raises(WrongGroups, match=r"structure\.depth\[1\]: 'regex:\(' is no regular expression"):
        split(mlp(), {"a": {"ndim": 2}}, Structure(depth=["head.*", "regex:("]))
