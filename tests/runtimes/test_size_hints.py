"""The next thing to do about a call whose sizes do not fit, by the axis that differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange, Manifest
from runtimes.generate_options import check_range
from runtimes.size_hints import refusal, size_hint
from runtimes.value_tree import Misfit
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

SMALL: dict[str, Any] = {"num_inference_steps": 2, "width": 32, "height": 32}


def embeds(batch: int = 1, tokens: int = tiny.TEXT_LENGTH, width: int = 8) -> dict[str, Any]:
    shape = (batch, tokens, width)
    return {"prompt_embeds": torch.ones(shape), "negative_prompt_embeds": torch.zeros(shape)}


def hint(compiled: Compiled, task: str = "text-to-image", *args: Any, **call: Any) -> str:
    with pytest.raises(LatentcError, match="is not compiled for this call") as caught:
        compiled.pipeline(task)(*args, **call)
    return caught.value.hint


COMPILE = "Compile it for that: latentc compile MODEL OUT"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (embeds(tokens=32), f"{COMPILE} --tokens 16..32"),
        (embeds(tokens=9), f"{COMPILE} --tokens 9..16"),
        (embeds(batch=5), f"{COMPILE} --batch MIN..MAX"),
        (embeds(batch=5, tokens=32), f"{COMPILE} --batch MIN..MAX --tokens 16..32"),
        ({"prompt": "a", "width": 128}, f"{COMPILE} --size MIN..MAX"),
        ({"prompt": ["a"] * 5}, f"{COMPILE} --batch MIN..MAX"),
        (
            {**embeds(batch=2), "latents": torch.zeros(1, 4, 16, 16)},
            "Give it arguments of one size: 'prompt_embeds' is [2, 16, 8], 'negative_prompt_embeds' is [2, 16, 8], "
            "'latents' is [1, 4, 16, 16].",
        ),
    ],
)
def test_a_call_is_told_the_option_that_declares_what_differs(
    compiled: Compiled, call: dict[str, Any], expected: str
) -> None:
    assert hint(compiled, **{**SMALL, **call}) == expected


@pytest.mark.parametrize("call", [embeds(width=4), embeds(tokens=32, width=4)])
def test_of_a_width_of_the_models_own_no_compile_is_spoken(compiled: Compiled, call: dict[str, Any]) -> None:
    said = hint(compiled, **SMALL, **call)
    assert (
        said.startswith("Give 'prompt_embeds' with 8 in place of 4 in its axis 2") and "latentc" not in said
    )


def test_latents_of_other_channels_are_the_callers(compiled: Compiled) -> None:
    said = hint(compiled, prompt="a", latents=torch.zeros(1, 6, 16, 16), **SMALL)
    assert said.startswith("Give 'latents' with 4 in place of 6 in its axis 1")


@pytest.mark.parametrize("mode", ["L", "P", "1"])
@pytest.mark.parametrize("several", [False, True])
def test_a_picture_of_another_mode_is_asked_for_in_the_models(
    compiled: Compiled, mode: str, several: bool
) -> None:
    picture = Image.new("RGB", (32, 32)).convert(mode)
    image = [picture] if several else picture
    said = hint(compiled, "image-to-image", "a", image=image, num_inference_steps=4)
    assert said == "Give 'image' as RGB: picture.convert(\"RGB\")"


class Flux:
    """A pipeline whose text has the length that it is told."""

    def __call__(
        self,
        prompt: Any = None,
        height: Any = None,
        width: Any = None,
        num_frames: int = 8,
        num_inference_steps: int = 28,
        latents: Any = None,
        prompt_embeds: Any = None,
        max_sequence_length: int = 512,
    ) -> None: ...

    def encode_prompt(
        self, prompt: Any, prompt_embeds: Any = None, max_sequence_length: int = 512
    ) -> None: ...


def said(given: dict[str, Any], *misfits: Misfit, **changes: Any) -> str:
    return size_hint([misfits], Flux(), given, tiny.manifest().model_copy(update=changes))


def only(side: int, frames: int) -> dict[str, DimRange]:
    return {n: DimRange(min=s, max=s) for n, s in (("width", side), ("height", side), ("frames", frames))}


def test_the_argument_that_decides_a_length_is_what_to_compile_with() -> None:
    asked = {"prompt": "a", "num_inference_steps": 28 - 448, "max_sequence_length": 64}
    ids = Misfit("input_ids", 1, 2, 512, 512, 64)
    joined = Misfit("encoder_hidden_states", 1, 3, 589, 589, 141)
    for misfit in (ids, joined):
        assert said(asked, misfit) == f"{COMPILE} --arg max_sequence_length=64"
    assert said({**asked, "max_sequence_length": 32}, ids) == ""
    compiled_so = {"arguments": {"max_sequence_length": "128"}}
    other = Misfit("input_ids", 1, 2, 128, 128, 64)
    assert said(asked, other, **compiled_so) == f"{COMPILE} --arg max_sequence_length=64"


def test_what_it_was_compiled_with_and_a_call_leaves_out_is_told() -> None:
    misfit = Misfit("input_ids", 1, 2, 128, 128, 512)
    told = said({"prompt": "a"}, misfit, arguments={"max_sequence_length": "128"})
    assert told == "Call it as it was compiled: max_sequence_length=128"


def test_a_declared_length_of_text_is_widened() -> None:
    given = {"prompt_embeds": torch.zeros(1, 300, 8)}
    misfit = Misfit("encoder_hidden_states", 1, 3, 77, 154, 300, "text")
    sizes = {**tiny.manifest().sizes, "tokens": DimRange(min=77, max=154)}
    assert said(given, misfit, sizes=sizes) == f"{COMPILE} --tokens 77..300"
    assert said({"prompt": "a"}, misfit, sizes=sizes) == ""


def test_a_number_that_is_fixed_for_the_only_size_is_declared_by_it() -> None:
    sizes = only(64, 8)
    wide = Misfit("sample", 3, 4, 32, 32, 64)
    assert said({"prompt": "a", "width": 128}, wide, sizes=sizes) == f"{COMPILE} --size MIN..MAX"
    packed = Misfit("hidden_states", 1, 3, 256, 256, 512)
    assert said({"prompt": "a", "width": 128}, packed, sizes=sizes) == f"{COMPILE} --size MIN..MAX"
    assert said({"prompt": "a"}, packed, sizes=sizes) == ""
    longer = Misfit("sample", 2, 5, 2, 2, 4)
    assert said({"num_frames": 16}, longer, sizes=sizes) == f"{COMPILE} --frames MIN..MAX"


def test_names_of_dimensions_with_numbers_and_pictures_in_a_row() -> None:
    for dim in ("height", "width_2", "tokens_3"):
        assert said({}, Misfit("x", 1, 3, 1, 2, 3, dim)) == f"{COMPILE} --size MIN..MAX"
    row = Misfit("x", 0, 4, 1, 8, 16, "frames")
    sizes = {"frames": DimRange(min=1, max=8)}
    assert said({"num_frames": 16}, row, sizes=sizes) == f"{COMPILE} --frames MIN..MAX"
    assert said({"num_frames": 8}, row, sizes=sizes) == f"{COMPILE} --batch MIN..MAX"


def test_the_graph_that_is_nearest_to_a_call_decides() -> None:
    far = [Misfit("x", 0, 4, 1, 2, 3, "batch"), Misfit("x", 2, 4, 1, 2, 3, "height")]
    manifest: Manifest = tiny.manifest()
    assert size_hint([far, far[1:]], Flux(), {}, manifest) == f"{COMPILE} --size MIN..MAX"
    assert size_hint([far, [Misfit("x", 1, 3, 5, 5, 6)]], Flux(), {}, manifest).endswith(
        "--batch MIN..MAX --size MIN..MAX"
    )
    assert size_hint([], Flux(), {}, manifest) == ""


@pytest.mark.parametrize(
    ("name", "option"), [("width", "size"), ("height", "size"), ("batch", "batch"), ("frames", "frames")]
)
def test_a_request_outside_of_the_ranges_is_told_the_option_of_that_range(name: str, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_range("a request for", 9, {name: DimRange(min=1, max=2)}, name)
    assert caught.value.hint == f"Compile it for more: latentc compile MODEL OUT --{option} MIN..MAX"


class FromText:
    def __call__(self, prompt: str = "") -> None:
        """Draws."""


class FromPicture:
    def __call__(self, prompt: str = "", image: Any = None, strength: float = 0.8) -> None:
        """Draws."""


def test_a_request_that_no_compile_helps_is_refused() -> None:
    sizes = {"width": DimRange(min=256, max=1024, step=64)}
    manifest = tiny.manifest().model_copy(update={"sizes": sizes})
    between = Misfit("sample", 3, 4, 32, 128, 65, "width_2", step=8)
    wrong = refusal([[between]], FromPicture(), manifest)
    assert wrong is not None and "a width of 256..1024 in steps of 64" in wrong[0]
    beyond = Misfit("sample", 3, 4, 32, 128, 136, "width_2", step=8)
    assert refusal([[beyond]], FromPicture(), manifest) is None
    none = Misfit("latent_sample", 0, 4, 1, 4, 0, "batch")
    wrong = refusal([[none]], FromPicture(), manifest)
    assert wrong is not None and "no step" in wrong[0] and "strength" in wrong[1]
    assert refusal([[none]], FromText(), manifest) is None
