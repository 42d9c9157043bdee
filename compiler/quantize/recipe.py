"""What `--quantize` says: a scheme for all, one for each component, or a recipe in a TOML file.

    int8                                     every component
    int4:group=32,asymmetric                 options behind a colon
    unet=int4,text_encoder=int8,vae=fp16     by component; what is not named stays as it is
    recipe.toml                              by component, and by pattern of weight names

A precision ("fp16") in place of a scheme leaves a component's weights in that precision.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from artifacts import named_files
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Recipe, RecipeComponent, RecipeRule
from artifacts.precisions import PRECISIONS
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.quantize import accept, scheme_table
from compiler.quantize.decide import NONE, Decision, decide
from compiler.quantize.find import MIN_ELEMENTS, Layout
from compiler.quantize.scheme import NO_METHOD, Scheme, SchemeOptions
from targets.graph.weights import Origin
from targets.target_contract import Target

ALL = "*"
"""The component's name that stands for all that are not named."""

EXAMPLES = "For instance: int8, int4:group=32, unet=int4,text_encoder=int8, or a recipe's .toml file"


def read(text: str) -> Recipe:
    """The recipe that a SPEC or a TOML file holds.

    Raises:
        UsageError: it is not of the form that this module describes.
        LatentcError: the file cannot be read.
    """
    if text == "auto":
        raise UsageError("auto is no scheme: it is measured with a budget.", "See: compiler.auto.compile")
    if text.lower().endswith(".toml"):
        return load(Path(text))
    components: dict[str, tuple[str, dict[str, Any]]] = {}
    options: dict[str, Any] | None = None
    keys: frozenset[str] = frozenset()
    for item in (part.strip() for part in text.split(",")):
        component, spec = _split(item)
        scheme, _, first = spec.partition(":")
        if options is not None and component in keys:  # "scales=fp16" is no component
            pairs = [item]
        elif _is_scheme(scheme) and component not in components:
            options, keys = {}, _keys(scheme.strip())
            components[component] = (scheme.strip(), options)
            pairs = [first] if first else []
        elif options is None or ":" in item or not item or _is_scheme(scheme):
            why = f"'{component}' is named twice" if _is_scheme(scheme) else f"'{item}' is not understood"
            choices = ", ".join((*scheme_table.names(), *PRECISIONS))
            raise UsageError(f"--quantize {text}: {why} (schemes: {choices}).", EXAMPLES)
        else:
            pairs = [item]
        for pair in pairs:
            key, is_value, value = pair.partition("=")
            options[key.strip()] = value.strip() if is_value else True
    return _checked(
        Recipe(components={n: RecipeComponent(scheme=s, options=o) for n, (s, o) in components.items()})
    )


def _split(item: str) -> tuple[str, str]:
    """ "unet=int4:group=32" -> "unet", "int4:group=32"; "int4:group=32" -> "*" and itself."""
    name, equals, rest = item.partition("=")
    if equals and ":" not in name and _is_scheme(rest.partition(":")[0]):
        return name.strip(), rest.strip()
    return ALL, item


def _keys(scheme: str) -> frozenset[str]:
    """The options of what `_is_scheme`."""
    if not _is_real(scheme):
        return frozenset()
    return frozenset(field.name for field in dataclasses.fields(scheme_table.get(scheme).options))


def _is_scheme(name: str) -> bool:
    return name.strip() in (*scheme_table.names(), *PRECISIONS, NONE)


def with_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with the method in every scheme that takes it and names none.

    Raises:
        UsageError: there is no such scheme in it.
    """
    takers = [
        name for name in scheme_table.names() if method in scheme_table.get(name).choices.get("method", ())
    ]

    def options(scheme: str, values: Mapping[str, Any]) -> dict[str, Any]:
        takes = scheme in takers and values["method"] == NO_METHOD
        return {**values, "method": method} if takes else dict(values)

    named = [s for c in recipe.components.values() for s in (c.scheme, *(r.scheme for r in c.weights))]
    if not set(takers) & set(named):
        named_schemes = ", ".join(dict.fromkeys(named))
        raise UsageError(
            f"--method {method} is a way to choose the values of {' or '.join(takers) or 'no scheme'}; "
            f"--quantize has none (it has: {named_schemes}).",
            f"For instance: --quantize unet={takers[0]} --method {method}"
            if takers
            else "Leave --method out",
        )
    return _checked(_mapped(recipe, options))


def _mapped(recipe: Recipe, options: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> Recipe:
    """The recipe with other options, made of each scheme and those it has."""
    components = {}
    for name, component in recipe.components.items():
        rules = tuple(
            rule.model_copy(update={"options": options(rule.scheme, rule.options)})
            for rule in component.weights
        )
        values = options(component.scheme, component.options)
        components[name] = component.model_copy(update={"options": values, "weights": rules})
    return recipe.model_copy(update={"components": components})


def load(file: Path) -> Recipe:
    """A recipe from its TOML file.

    Raises:
        LatentcError: there is no such file, or it is no recipe.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]

    try:
        data = tomllib.loads(named_files.read_text(file))
        return _checked(Recipe.model_validate(data))
    except OSError as error:
        raise LatentcError(f"cannot read the recipe {file}: {error.strerror}.") from error
    except UsageError as error:
        raise LatentcError(f"{file}: {error.message}", error.hint) from error
    except (ValidationError, ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise LatentcError(f"{file} is no recipe: {fault}.", "See: docs/quantization.md") from error


def dump(recipe: Recipe) -> str:
    """The recipe as TOML; `load` reads it back equal."""
    lines = ["# What `latentc compile --quantize` reads.", f"version = {recipe.version}"]
    for name, component in recipe.components.items():
        lines += ["", f"[components.{_key(name)}]", f"scheme = {_value(component.scheme)}"]
        if component.options:
            lines.append(f"options = {_inline(component.options)}")
        for rule in component.weights:
            lines += ["", f"[[components.{_key(name)}.weights]]", f"match = {_value(rule.match)}"]
            lines.append(f"scheme = {_value(rule.scheme)}")
            if rule.options:
                lines.append(f"options = {_inline(rule.options)}")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _value(name)


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _inline(options: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in options.items()) + " }"


def _checked(recipe: Recipe) -> Recipe:
    """The recipe with every option given and of its own type.

    Raises:
        UsageError: an unknown scheme, option or value.
    """
    components = {}
    for name, component in recipe.components.items():
        rules = tuple(
            RecipeRule(match=r.match, scheme=r.scheme, options=_options(r.scheme, r.options, False))
            for r in component.weights
        )
        options = _options(component.scheme, component.options, True)
        components[name] = RecipeComponent(scheme=component.scheme, options=options, weights=rules)
    return Recipe(components=components)


def _options(scheme: str, values: Mapping[str, object], precisions: bool) -> dict[str, Any]:
    if scheme == NONE or (precisions and scheme in PRECISIONS):
        if values:
            raise UsageError(f"'{scheme}' takes no options; found '{next(iter(values))}'.")
        return {}
    return dataclasses.asdict(scheme_table.options(scheme, values))


def resolve(recipe: Recipe, names: Mapping[str, Sequence[str]], target: Target) -> Recipe:
    """The recipe for a model: one entry for each component, in `names`' order.

    Args:
        names: component -> its graphs' folders ("vae" -> "vae_encoder", "vae_decoder"). A recipe may name
            either; a folder's own entry comes first.

    Raises:
        UsageError: the model has no such component, or the target does not take a scheme, an option of it or
            a precision.
    """
    valid_names = {*names, *(folder for folders in names.values() for folder in folders), ALL}
    for name in recipe.components:
        if name not in valid_names:
            available = ", ".join(sorted(valid_names - {ALL}))
            raise UsageError(
                f"--quantize names '{name}', which the model does not have (it has: {available})."
            )
    for component in recipe.components.values():
        for scheme in (component.scheme, *(rule.scheme for rule in component.weights)):
            _require(target, scheme)

    def fitted(scheme: str, values: Mapping[str, Any]) -> dict[str, Any]:
        if not _is_real(scheme):
            return dict(values)
        return dataclasses.asdict(accept.fitted(target, scheme, scheme_table.options(scheme, values)))

    recipe = _mapped(recipe, fitted)
    chosen = {}
    for name, folders in names.items():
        for folder in folders:
            entry = recipe.components.get(folder, recipe.components.get(name, recipe.components.get(ALL)))
            if entry is not None:
                chosen[folder] = entry
    return Recipe(components=chosen)


def quantization(spec: str | Recipe, captured: Capture, target: Target) -> Recipe | None:
    """What a request's `quantize` is for the model; None where nothing is quantized.

    Raises:
        UsageError, LatentcError: see `read` and `resolve`.
    """
    if not spec:
        return None
    names: dict[str, list[str]] = {}
    for method in captured.methods:
        names.setdefault(method.component, []).append(method.folder)
    return resolve(read(spec) if isinstance(spec, str) else _checked(spec), names, target)


def choice_of(recipe: Recipe | None, method: Method) -> Choice:
    """The method's part of a resolved recipe."""
    return Choice(None if recipe is None else recipe.components.get(method.folder))


def planned(choice: Choice) -> Callable[[Origin], int | None]:
    """What a stored tensor will take on disk, as far as its shape tells; None where it is not quantized."""

    def size(stored: Origin) -> int | None:
        if len(stored.shape) < 2 or math.prod(stored.shape) < MIN_ELEMENTS:
            return None
        layout = Layout("linear" if len(stored.shape) == 2 else "conv", stored.shape, 0)
        decision = choice.decide(stored.key, layout)
        return None if decision is None else decision.bytes(layout)

    return size


def _is_real(scheme: str) -> bool:
    """Whether it names a scheme, rather than a precision or nothing."""
    return scheme not in (*PRECISIONS, NONE)


def _require(target: Target, name: str) -> None:
    if _is_real(name):
        accept.require(target, name)
    elif name in PRECISIONS and name not in (takes := target.requirements.precisions):
        raise UsageError(
            f"target '{target.name}' does not take {name} precision (it takes: {', '.join(sorted(takes))}).",
            "Leave --quantize out",
        )


@dataclasses.dataclass(frozen=True)
class Choice:
    """One graph's part of a resolved recipe; None is a graph that is not quantized."""

    component: RecipeComponent | None

    @property
    def precision(self) -> str | None:
        """The precision that the recipe names in place of a scheme."""
        component = self.component
        return component.scheme if component is not None and component.scheme in PRECISIONS else None

    @property
    def label(self) -> str:
        """For people: "int4", "int4 and 2 rules", or nothing."""
        component = self.component
        if component is None:
            return ""
        scheme = component.scheme if _is_real(component.scheme) else ""
        rules = f"{len(component.weights)} rules" if component.weights else ""
        return " and ".join(filter(None, (scheme, rules)))

    @property
    def parts(self) -> tuple[tuple[Scheme[Any], SchemeOptions], ...]:
        """The schemes that it names, with their options."""
        component = self.component
        named: tuple[RecipeComponent | RecipeRule, ...] = (
            () if component is None else (component, *component.weights)
        )
        return tuple(
            (scheme_table.get(part.scheme), scheme_table.options(part.scheme, part.options))
            for part in named
            if _is_real(part.scheme)
        )

    @property
    def compressed(self) -> bool:
        """Whether weights are stored in fewer bits and the activations are not."""
        return any(scheme.activations(options) is None for scheme, options in self.parts)

    @property
    def methods(self) -> frozenset[str]:
        """What chooses values by the data (`compiler.quantize.method_table`)."""
        return frozenset(options.method for _, options in self.parts) - {NO_METHOD}

    @property
    def measured(self) -> tuple[str, ...]:
        """What of it has to be measured with the pipeline, for people: "int4 with method=awq"."""
        labels = [
            scheme.name if options.method == NO_METHOD else f"{scheme.name} with method={options.method}"
            for scheme, options in self.parts
            if options.method != NO_METHOD or scheme.activations(options) is not None
        ]
        return tuple(dict.fromkeys(labels))

    def __bool__(self) -> bool:
        return bool(self.label)

    def decide(self, key: str, layout: Layout) -> Decision | None:
        """What becomes of a weight: the first rule that matches its key, or else the component's scheme."""
        component = self.component
        if component is None:
            return None
        rule: RecipeRule | RecipeComponent = next(
            (r for r in component.weights if fnmatch.fnmatchcase(key, r.match)), component
        )
        if not _is_real(rule.scheme):
            return None
        return decide(rule.scheme, scheme_table.options(rule.scheme, rule.options), layout)
