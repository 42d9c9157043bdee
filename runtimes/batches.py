"""The images of one `generate`: which prompt and seed each is drawn from, and which one call of the pipeline makes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from runtimes.generate_options import synonym

TEXTS = ("prompt", "negative_prompt")
"""Our options that hold texts."""

MOST = 10_000
"""Images of one call, which are all in memory when it returns."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Draw:
    """One image: the number of its prompt among those that were given, and its seed."""

    prompt: int
    seed: int


def draws(prompts: int, seed: int | Sequence[int], images: int) -> tuple[Draw, ...]:
    """The images of all prompts, one prompt after the other.

    Args:
        prompts: how many there are.
        seed: of the first image, and each further image has one more; or a sequence with that of each prompt's
            first image.
        images: of each prompt.

    Raises:
        UsageError: another number of seeds than of prompts, something that is no seed, or more than `MOST` images.
    """
    if images < 1:
        raise UsageError(f"at least one image must be made; found images = {images}.")
    if images * prompts > MOST:
        raise UsageError(
            f"one call makes at most {MOST:,} images; found {images} of {prompts} prompts.",
            "Call it again with another seed for more.",
        )
    firsts = [seed + i * images for i in range(prompts)] if isinstance(seed, int) else list(seed)
    if len(firsts) != prompts:
        raise UsageError(f"a list of seeds has one for each prompt; found {len(firsts)} for {prompts}.")
    for first in firsts:
        if not (isinstance(first, int) and 0 <= first <= MAX_SEED):
            raise UsageError(f"a seed is an integer of at least 0 and below 2**63; found {first}.")
        if first + images - 1 > MAX_SEED:
            raise UsageError(
                f"each of {images} images has one seed more than the one before it, and the last would have more than "
                f"there are: {first + images - 1}.",
                "Use a smaller seed.",
            )
    return tuple(Draw(i, first + image) for i, first in enumerate(firsts) for image in range(images))


def count(prompt: Any, others: Mapping[str, Any]) -> int | None:
    """How many prompts a list holds; None where `prompt` is no list.

    Args:
        others: texts that go with prompts, by the names of their options; a list has one for each prompt.

    Raises:
        UsageError: an empty list, something in it that is no text, or a list of another length.
    """
    if not isinstance(prompt, (list, tuple)):
        return None
    if not prompt or not all(isinstance(text, str) for text in prompt):
        raise UsageError(f"a list of prompts holds one text or more; found {list(prompt)!r}.")
    for name, value in others.items():
        if isinstance(value, (list, tuple)) and len(value) != len(prompt):
            raise UsageError(
                f"'{name}' is one text, or one for each prompt; found {len(value)} for {len(prompt)} prompts."
            )
    return len(prompt)


def takes_texts(parameter: inspect.Parameter) -> bool:
    """Whether a pipeline's parameter takes a text and a list of texts alike, by its annotation."""
    annotation = str(parameter.annotation).lower()
    return "str" in annotation and ("list" in annotation or "sequence" in annotation)


def texts_of(parameters: Mapping[str, inspect.Parameter]) -> frozenset[str]:
    """Our options, and the pipeline's own parameters, that take a text or one for each prompt."""
    own = {name for name, parameter in parameters.items() if takes_texts(parameter)}
    return frozenset(own | {option for option in TEXTS if synonym(option, parameters)})


def of_calls(
    images: Sequence[Draw], parameters: Mapping[str, inspect.Parameter], batch: DimRange
) -> list[tuple[Draw, ...]]:
    """The images of each call of a pipeline: as many as the artifact allows, the last call the rest.

    Images of several prompts are made by one call where the pipeline takes a list of prompts.

    Args:
        parameters: the parameters of the pipeline's call.
        batch: how many images the artifact was compiled to make at once.

    Raises:
        UsageError: no number of calls makes so many.
    """
    if "prompt" in parameters and not takes_texts(parameters["prompt"]):
        groups = [tuple(group) for _, group in itertools.groupby(images, key=lambda draw: draw.prompt)]
    else:
        groups = [tuple(images)]
    calls = []
    for group in groups:
        ends = itertools.accumulate(_sizes(len(group), parameters, batch), initial=0)
        calls += [group[start:end] for start, end in itertools.pairwise(ends)]
    return calls


def _sizes(images: int, parameters: Mapping[str, Any], batch: DimRange) -> list[int]:
    """How many images each call makes."""
    low, high = max(1, batch.min), max(1, batch.max)
    if low == 1 and synonym("images", parameters) is None:
        high = 1
    full, rest = divmod(images, high)
    if rest == 0 or rest >= low:
        return [high] * full + [rest] * bool(rest)
    calls = full + 1  # The rest is fewer than one call makes: it is taken from the others.
    if images < calls * low:
        at_once = f"{low}" if low == high else f"{low} to {high}"
        near = calls * low
        raise UsageError(
            f"the artifact was compiled to make {at_once} images at once; {images} cannot be made so.",
            f"Ask for {near}: --images {near}, or compile for fewer: latentc compile MODEL OUT --batch 1..{high}",
        )
    return [images // calls + (i < images % calls) for i in range(calls)]


def of_call(values: Mapping[str, Any], texts: Collection[str], prompts: Sequence[int]) -> dict[str, Any]:
    """What one call of a pipeline is given of `values`.

    Args:
        values: by name; under the names in `texts`, a list has one text for each prompt.
        prompts: the numbers of the prompts that the call's images are drawn from.

    Returns:
        The same with one text where all images have one prompt, else with a text for each image.
    """
    return dict(_of_call(values, texts, prompts))


def _of_call(
    values: Mapping[str, Any], texts: Collection[str], prompts: Sequence[int]
) -> Iterator[tuple[str, Any]]:
    several = len(set(prompts)) > 1
    for name, value in values.items():
        if name not in texts or value is None:
            yield name, value
            continue
        items = [value[i] if isinstance(value, (list, tuple)) else value for i in prompts]
        yield name, items if several else items[0]


@contextmanager
def torch_noise(seed: int) -> Iterator[None]:
    """Some pipelines draw noise from torch's own generator too (a picture's latents, sampled without any generator):
    while it is open, that noise follows `seed`, and what torch draws afterwards is as if nothing had been drawn."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
