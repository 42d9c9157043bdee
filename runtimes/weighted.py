"""Prompts whose words have weights ("a red++ circle", "a (large)1.3 circle"), as embeddings that `compel` makes.

compel has a way for each kind of text encoders. The one that is taken makes of a text without weights what the
pipeline itself makes of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from artifacts.error_text import one_line
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from runtimes.generate_options import parameters
from runtimes.text_encoders import encoders

if TYPE_CHECKING:
    import torch

EXTRA = "Run: pip install 'latentc[weighted]'"

SAME = 1e-3
"""Largest difference of compel's embedding of a text without weights from the pipeline's own, for the largest value."""

_PLAIN = "a cat on a mat"


class Weighting:
    """Embeddings of weighted prompts for one pipeline."""

    def __init__(self, pipe: Any, tokens: DimRange | None) -> None:
        """
        Args:
            pipe: diffusers' pipeline.
            tokens: the lengths of text that its denoiser takes; None for the pipeline's own alone.

        Raises:
            LatentcError: `compel` is not installed.
            UsageError: the pipeline takes no embeddings, or compel has no way for its text encoders.
        """
        if find_spec("compel") is None:
            raise LatentcError("weighted prompts need compel, which is not installed here.", EXTRA)
        self._known = parameters(pipe)
        own = own_embedding(pipe, _PLAIN) if "prompt_embeds" in self._known else None
        if own is None:
            raise UsageError(
                f"{type(pipe).__name__} takes no embeddings of its prompt, so its words have no weights."
            )
        self._zeros = bool(getattr(pipe.config, "force_zeros_for_empty_prompt", False))
        self._tokens = tokens or DimRange(min=own.shape[1], max=own.shape[1])
        for embed in _ways(pipe):
            try:
                embedded = embed([_PLAIN], [""]).embeds
            except Exception:  # of text encoders that it was not written for: any kind
                continue
            if embedded.shape == own.shape and (embedded - own).abs().max() <= SAME * own.abs().max():
                self._embed = embed
                return
        classes = (type(pipe.components[name]).__name__ for name in encoders(pipe.components))
        raise UsageError(
            f"compel cannot weigh the words of {type(pipe).__name__}'s prompts: none of its ways fits "
            f"{', '.join(classes)}."
        )

    def arguments(
        self, prompt: str | Sequence[str], negative: str | Sequence[str] | None
    ) -> dict[str, torch.Tensor | None]:
        """What the pipeline's call is given in place of its prompts, by the names of its parameters: embeddings
        [prompts, tokens, width], pooled ones, masks, and None for the prompts.

        Args:
            negative: one for all prompts, or one for each; None for an empty one.

        Raises:
            UsageError: a prompt is longer than the artifact takes, or compel cannot read it.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative] if isinstance(negative, str) else list(negative or [""])
        import torch

        try:
            with torch.no_grad():
                embedded = self._embed(
                    prompts, negatives if len(negatives) == len(prompts) else negatives * len(prompts)
                )
        except LatentcError:
            raise
        except Exception as error:  # the parser's, of several kinds
            raise UsageError(f"compel cannot read a prompt: {one_line(error)}") from error
        length = int(embedded.embeds.shape[1])
        if not self._tokens.min <= length <= self._tokens.max:
            raise UsageError(
                f"the artifact was compiled for texts of {_range(self._tokens)} tokens; the prompt takes {length}.",
                f"Compile it for more: latentc compile MODEL OUT --tokens {self._tokens.min}..{length}",
            )
        values = {
            "prompt_embeds": embedded.embeds,
            "negative_prompt_embeds": embedded.negative_embeds,
            "pooled_prompt_embeds": embedded.pooled_embeds,
            "negative_pooled_prompt_embeds": embedded.negative_pooled_embeds,
            "prompt_attention_mask": embedded.attention_mask,
            "negative_prompt_attention_mask": embedded.negative_attention_mask,
        }
        if negative is None and self._zeros:  # as the pipeline does where it is told none
            values |= {
                name: torch.zeros_like(value)
                for name, value in values.items()
                if name.startswith("negative") and name.endswith("_embeds") and value is not None
            }
        taken = {name: value for name, value in values.items() if value is not None and name in self._known}
        return taken | {name: None for name in ("prompt", "negative_prompt") if name in self._known}


def _range(span: DimRange) -> str:
    return f"{span.min}" if span.min == span.max else f"{span.min} to {span.max}"


def _ways(pipe: Any) -> Iterator[Callable[[list[str], list[str]], Any]]:
    """compel's classes for pipelines, each as a function of prompts and negative prompts."""
    import compel

    for name in sorted(name for name in dir(compel) if name.startswith("CompelFor")):
        try:
            wrapper: Any = getattr(compel, name)(pipe)
        except Exception:  # of a pipeline that has not the parts it wants
            continue
        for part in vars(wrapper).values():
            provider = getattr(part, "conditioning_provider", None)
            if provider is not None:
                # Words with weights below 1 are taken out of the text, rather than masked: graphs have no such mask.
                provider.downweight_mode = compel.DownweightMode.REMOVE
                provider.truncate_to_model_max_length = False
        yield partial(_called, wrapper)


def _called(wrapper: Any, prompts: list[str], negative: list[str]) -> Any:
    return wrapper(prompts, negative_prompt=negative)


def own_embedding(pipe: Any, text: str) -> torch.Tensor | None:
    """The pipeline's own embedding of a text, [1, tokens, width]; None where it has none."""
    import torch

    encode = getattr(pipe, "encode_prompt", None)
    if encode is None:
        return None
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(encode).parameters
    options: dict[str, Any] = {name: None for name, p in parameters.items() if p.default is p.empty}
    options |= {
        "prompt": [text],
        "device": torch.device("cpu"),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    with torch.no_grad():
        returned = encode(**{name: value for name, value in options.items() if name in parameters})
    items = returned if isinstance(returned, (list, tuple)) else (returned,)
    return next((item for item in items if isinstance(item, torch.Tensor) and item.ndim == 3), None)
