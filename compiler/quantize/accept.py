"""What a target reads of what a scheme stores. Neither knows the other's name: a target says which formats it reads."""

from __future__ import annotations

import dataclasses
from typing import Any

from artifacts.errors import UsageError
from compiler.quantize import scheme_table
from compiler.quantize.scheme import NO_METHOD, Scheme, SchemeOptions
from targets.target_contract import Requirements, Target


def refusal(takes: Requirements, scheme: Scheme[Any], options: SchemeOptions) -> str:
    """Why a target cannot read what the scheme stores with these options; empty where it can."""
    form = scheme.format(options)
    name = scheme.restore.format(form.element, form.block is not None)
    if name not in takes.weight_formats:
        return f"it reads no {name} (it reads: {', '.join(sorted(takes.weight_formats)) or 'none'})"
    if form.negative_scales and not takes.negative_scales:
        return "it reads no negative scales"
    if scheme.activations(options) is not None and not takes.activations:
        return "it reads no quantized activations"
    return ""


def accepted(takes: Requirements) -> tuple[Scheme[Any], ...]:
    """The schemes that a target can read, in the options that it asks for."""
    schemes = (scheme_table.get(name) for name in scheme_table.names())
    return tuple(s for s in schemes if not refusal(takes, s, target_options(takes, s, s.default())))


def target_options(takes: Requirements, scheme: Scheme[Any], options: SchemeOptions) -> SchemeOptions:
    """The options, with those that a target asks of the scheme."""
    return options.replaced(**takes.scheme_options.get(scheme.name, {}))


def candidates(takes: Requirements) -> tuple[tuple[str, SchemeOptions], ...]:
    """All that a weight may become for a target, beside staying as it is: schemes by name, with their options."""
    return tuple(
        (scheme.name, options)
        for scheme in accepted(takes)
        for candidate in scheme.candidates
        if not refusal(takes, scheme, options := target_options(takes, scheme, candidate))
    )


def require(target: Target, name: str) -> None:
    """Nothing, where a target takes the scheme of that name.

    Raises:
        UsageError: it does not.
    """
    accepted_schemes, refused = accepted(target.requirements), scheme_table.get(name)
    if refused.name in {scheme.name for scheme in accepted_schemes}:
        return
    plain = [scheme for scheme in accepted_schemes if scheme.activations(scheme.default()) is None]
    nearest = min(plain, key=lambda scheme: abs(_bits(scheme) - _bits(refused)), default=None)
    raise UsageError(
        f"target '{target.name}' does not take {name} weights "
        f"(it takes: {', '.join(sorted(scheme.name for scheme in accepted_schemes)) or 'none'}).",
        f"Use --quantize {nearest.name}" if nearest is not None else "Leave --quantize out",
    )


def _bits(scheme: Scheme[Any]) -> int:
    return int(scheme.format(scheme.default()).element.bitwidth)


def fitted(target: Target, name: str, options: SchemeOptions) -> SchemeOptions:
    """The options with those that the target asks for.

    Raises:
        UsageError: the target does not take them.
    """
    takes, scheme, method = target.requirements, scheme_table.get(name), options.method
    if method not in (NO_METHOD, *takes.methods):
        raise UsageError(
            f"target '{target.name}' does not take {name} with method={method} "
            f"(it takes: {', '.join(sorted(takes.methods)) or 'none'}).",
            f"Use --quantize {name}, without a method",
        )
    values, default = dataclasses.asdict(options), dataclasses.asdict(scheme.default())
    for key, value in takes.scheme_options.get(name, {}).items():
        if values[key] not in (value, default[key]):
            raise UsageError(
                f"target '{target.name}' does not take {name} with {key}={values[key]} (it takes: {value}).",
                f"Leave '{key}' out",
            )
    settings = target_options(takes, scheme, options)
    if why := refusal(takes, scheme, settings):
        raise UsageError(
            f"target '{target.name}' does not take {scheme.label(settings)}: {why}.", f"Use --quantize {name}"
        )
    return settings
