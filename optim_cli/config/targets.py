"""What a config may call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass, isfunction, signature
from typing import Any, get_args, get_origin, get_type_hints

# Whose classes a config may name besides what `plugins` says.
LIBRARIES = ("optim_cli", "torch", "torchvision")
# Where functions are that a config may name: what is there computes, and touches no files.
FUNCTIONS = "optim_cli.optim"
# What a group's `_target_` must make: (module, class).
KINDS = {
    "model": ("torch.nn", "Module"),
    "dataset": ("optim_cli.datasets.dataset", "Dataset"),
    "optimizer": ("torch.optim", "Optimizer"),
    "scheduler": ("torch.optim.lr_scheduler", "LRScheduler"),
    "averaging": ("optim_cli.training.averaging", "Average"),
    "trainer": ("optim_cli.training.loop", "Trainer"),
}

# Keys of a group that are about what it makes, and are not given to its constructor.
ABOUT = {"model": ("structure",), "optimizer": ("param_groups", "strict")}


def plugins_of(config: Mapping[str, Any]) -> list[str]:
    """The packages that a config allows to be called; none where `plugins` is wrong."""
    plugins = config.get("plugins") or []
    right = isinstance(plugins, list) and all(isinstance(x, str) and x.isidentifier() for x in plugins)
    return plugins if right else []


def given_to(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """A group's node as what it names gets it."""
    return {key: value for key, value in node.items() if key not in ABOUT.get(group, ())}


def is_there(plugin: str) -> bool:
    """Whether Python finds a package; it is not imported."""
    _reach_here()
    # What is loaded need not say from where, as `__main__`.
    return plugin in sys.modules or find_spec(plugin) is not None


def _reach_here() -> None:
    """Let plugins lie in the current folder; it comes last, so that nothing there hides anything."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def kind_of(group: str) -> type:
    """The class that a group's `_target_` must make."""
    return _class(*KINDS[group])


def locate(target: Any, kinds: Collection[type], plugins: Collection[str] = ()) -> Callable[..., Any]:
    """The class or function that a `_target_` names, which makes one of `kinds`.

    Nothing outside the allowed packages is imported to find out.

    Args:
        kinds: classes, one of which must be made.
        plugins: packages that count besides optim_cli, torch and torchvision.

    Raises:
        ValueError: there is none, or it is none that a config may call.
        Exception: importing a plugin failed.
    """
    found = _imported(target, (*LIBRARIES, *plugins), plugins, lambda: _allowed(kinds, plugins))
    if not _makes_one_of(found, kinds, plugins):
        raise ValueError(f"{target!r} makes nothing that is allowed here; {_allowed(kinds, plugins)}")
    called: Callable[..., Any] = found
    return called


def locate_function(path: Any, plugins: Collection[str] = (), hint: Any = None) -> Callable[..., Any]:
    """The function, or class of a plugin, that a dotted name in a config means.

    Args:
        plugins: packages that count besides `optim_cli.optim`.
        hint: annotation of the parameter that takes it, which says with how many arguments it is called.

    Raises:
        ValueError: there is none, it is none that a config may have called, or it takes other arguments.
        Exception: importing a plugin failed.
    """
    allowed = f"allowed: the dotted name of a function in {', '.join((FUNCTIONS, *plugins))}"
    found = _imported(path, (FUNCTIONS.partition(".")[0], *plugins), plugins, lambda: allowed)
    origin = f"{getattr(found, '__module__', '')}."
    of_a_plugin = origin.startswith(tuple(f"{x}." for x in plugins))
    ours = isfunction(found) and origin.startswith(f"{FUNCTIONS}.")
    if not (ours or ((isfunction(found) or isclass(found)) and of_a_plugin)):
        raise ValueError(f"{path!r} is no function that may be called here; {allowed}")
    function: Callable[..., Any] = found
    arguments = _arguments(hint)
    if arguments is not None and not _takes(function, arguments):
        count = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
        takes = ", ".join(signature(function).parameters)
        raise ValueError(f"{path!r} is called with {count} here, and takes ({takes}); {allowed}")
    return function


def _arguments(hint: Any) -> list[Any] | None:
    """What a function in a parameter with this annotation is called with; None where that is left open."""
    parts = get_args(hint)
    if get_origin(hint) is Callable:
        return parts[0] if isinstance(parts[0], list) else None
    return next((x for x in map(_arguments, parts) if x is not None), None)


def _takes(function: Callable[..., Any], arguments: list[Any]) -> bool:
    try:
        signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # it has no signature that can be read
        return True
    return True


def takes_function(hint: Any) -> bool:
    """Whether a parameter with this annotation takes a function, so that a text in its place names one."""
    parts = get_args(hint)
    return str not in parts and (get_origin(hint) is Callable or any(map(takes_function, parts)))


def functions(value: Any, plugins: Collection[str] = (), hint: Any = None) -> Any:
    """A value with functions in place of their names; arguments and errors as of `locate_function`."""
    if isinstance(value, list):
        return [functions(x, plugins, hint) for x in value]
    return locate_function(value, plugins, hint) if isinstance(value, str) else value


def _imported(
    target: Any, packages: Collection[str], plugins: Collection[str], allowed: Callable[[], str]
) -> Any:
    """What a dotted name means in one of some packages; errors as of `locate`."""
    module, _, name = str(target).rpartition(".")
    package = module.partition(".")[0]
    if not isinstance(target, str) or package not in packages:
        known = not package or package in LIBRARIES
        remedy = "" if known else f"; plugins=[{package}] on the command line allows a package"
        raise ValueError(f"{target!r} may not be called; {allowed()}{remedy}")
    # What is private takes no care of who calls it: optim_cli.__main__ would start a run.
    if any(part.startswith("_") for part in target.split(".")):
        raise ValueError(f"{target!r} may not be called; {allowed()}")
    if package in plugins:
        _reach_here()
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        # What a plugin needs itself is another thing than the plugin.
        if package in plugins and not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{target!r} is not to be found ({error})") from None
    except AttributeError as error:
        raise ValueError(f"{target!r} is not to be found ({error})") from None


def nested_kinds(hint: Any, plugins: Collection[str] = ()) -> tuple[type, ...]:
    """Classes that a nested `_target_` may make for a parameter with this annotation.

    They are modules, datasets, and what constructors of ours or of a plugin take of their own kind.
    """
    bases = (_class("torch.nn", "Module"), _class("torch.utils.data", "Dataset"))
    parts = getattr(hint, "__args__", None) or (hint,)
    own = (LIBRARIES[0], *plugins)
    return tuple(
        x for x in parts if isclass(x) and (issubclass(x, bases) or x.__module__.partition(".")[0] in own)
    )


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a constructor's parameters, with their ranges; none where they cannot be read."""
    function = target.__init__ if isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers alone
        return {}


def _makes_one_of(found: Any, kinds: Collection[type], plugins: Collection[str]) -> bool:
    # Where it is defined counts, not through which module it is reached: modules import much else.
    origin = str(getattr(found, "__module__", "")).partition(".")[0]
    if origin not in (*LIBRARIES, *plugins) or not callable(found):
        return False
    if isclass(found):
        return issubclass(found, tuple(kinds))
    if not isfunction(found) or (origin not in ("optim_cli", *plugins) and not _listed(found)):
        return False
    made = hints_of(found).get("return")
    # A user's own function need not say what it returns; its result is looked at when it is there.
    return issubclass(made, tuple(kinds)) if isclass(made) else origin in plugins and made is None


def _listed(found: Any) -> bool:
    """Whether a function is one of torchvision's constructors of classification models.

    Those for other tasks fetch weights from the network unless they are told not to.
    """
    if not found.__module__.startswith("torchvision.models."):
        return False
    import torchvision.models

    names = torchvision.models.list_models(module=torchvision.models)
    return found.__name__ in names and torchvision.models.get_model_builder(found.__name__) is found


def _allowed(kinds: Collection[type], plugins: Collection[str]) -> str:
    made = " or ".join(f"{x.__module__.partition('.')[0]}'s {x.__name__}" for x in kinds)
    if not made:
        return "nothing may be called here"
    return f"allowed: what makes {made}, in {', '.join((*LIBRARIES, *plugins))}"


def _class(module: str, name: str) -> type:
    found: type = getattr(import_module(module), name)
    return found
