"""Videos, frames and masks in a dry run: made up by what the pipeline's call says, or from the user's file."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from compiler.capture.arguments import Point, arguments, parse_arguments, retries
from compiler.capture.declared_sizes import SizeRange, points_inside
from compiler.capture.dry_run import CannotRun, DryRun
from compiler.capture.infer import _Axes
from compiler.capture.made_visuals import FRAMES, FromFile
from compiler.capture.recorder import NotRunnable

PICTURE = Image.Image | list[Image.Image]
POINT = Point(2, 16, 24, frames=5)


class Pipe:
    """Stands for a diffusers pipeline."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def set_progress_bar_config(self, **options: Any) -> None:
        pass


class Edits(Pipe):
    """Starts from a video, and says its length by it."""

    def __call__(self, video: list[PICTURE], prompt: str | list[str] | None = None) -> None: ...


class Controlled(Pipe):
    """Makes videos; its call fails without frames to follow."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int = 16,
        conditioning_frames: list[PICTURE] | None = None,
        mask: list[PICTURE] | None = None,
    ) -> None:
        if conditioning_frames is None:
            raise TypeError("'NoneType' object is not iterable")


class Poses(Pipe):
    """Wants what cannot be made up."""

    def __call__(self, prompt: str, camera: np.ndarray, layout: dict[str, Any] | None = None) -> None: ...


class Still(Pipe):
    """Makes pictures."""

    def __call__(self, prompt: str) -> None: ...


def call(pipe: Pipe, point: Point = POINT, extra: tuple[str, ...] = (), **given: Any) -> dict[str, Any]:
    return arguments(pipe, "text-to-image", point, extra, given)


def test_a_video_is_made_for_each_prompt_and_moves():
    clips = call(Edits())["video"]
    assert [len(clip) for clip in clips] == [5, 5]
    assert {frame.size for clip in clips for frame in clip} == {(24, 16)}
    assert not np.array_equal(clips[0][0], clips[0][1])
    alone = call(Edits(), Point(1, 16, 24))["video"]
    assert len(alone) == FRAMES and all(isinstance(frame, Image.Image) for frame in alone)


def test_the_number_of_frames_is_passed_by_the_pipelines_own_name():
    assert call(Controlled())["num_frames"] == 5
    assert "num_frames" not in call(Controlled(), Point(2, 16, 24))


def test_a_call_that_fails_is_tried_with_the_pipelines_videos_and_their_masks():
    tried = retries(Controlled())
    assert tried[0] == () and tried[-2:] == (("conditioning_frames",), ("conditioning_frames", "mask"))
    keywords = call(Controlled(), extra=tried[-1])
    assert [len(clip) for clip in keywords["conditioning_frames"]] == [len(clip) for clip in keywords["mask"]]
    assert keywords["mask"][0][0].mode == "L"
    Controlled()(**keywords)


class Upscales:
    def __call__(self, prompt: str, image: Image.Image, original_image: Image.Image | None = None) -> None:
        if original_image is None:
            raise ValueError("`original_image` has to be a picture")


def test_a_call_that_fails_is_tried_with_every_picture_that_it_takes():
    tried = retries(Upscales())
    assert tried[-1] == ("image", "original_image")
    assert isinstance(
        call(Upscales(), Point(1, 16, 24, form="no lists"), tried[-1])["original_image"], Image.Image
    )
    assert "original_image" not in call(Upscales())


class ControlsAndMasks:
    def __call__(
        self, prompt: str, control_image: PICTURE | None = None, control_mask: PICTURE | None = None
    ) -> None: ...


def test_a_call_that_fails_is_tried_with_pictures_and_their_masks():
    assert retries(ControlsAndMasks())[-1] == ("image", "control_image", "control_mask")
    keywords = call(ControlsAndMasks(), Point(1, 16, 24, form="no lists"), retries(ControlsAndMasks())[-1])
    assert keywords["control_mask"].mode == "L" and keywords["control_image"].mode == "RGB"


def test_a_file_takes_the_place_of_what_is_made_up(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for at in range(3):
        Image.new("RGB", (8, 8), (at, 0, 0)).save(folder / f"{at}.png")
    given = parse_arguments({"video": f"@{folder}"})
    clip = call(Edits(), Point(1, 16, 24, frames=5), **given)["video"]
    assert [frame.getpixel((0, 0))[0] for frame in clip] == [0, 1, 2, 0, 1]  # as many as the point has
    assert clip[0].size == (24, 16)
    assert len(call(Edits(), **given)["video"]) == 2
    mask = FromFile.of(Image.new("RGB", (8, 8), (255, 255, 255)))
    assert [m.mode for m in call(Controlled(), Point(1, 8, 8, frames=2), mask=mask)["mask"]] == ["L", "L"]


def test_a_prompt_in_json_stays_a_text_and_a_dict_a_dict(tmp_path):
    (tmp_path / "p.json").write_text('{"objects": ["a hat"]}')
    given = parse_arguments({"prompt": f"@{tmp_path / 'p.json'}", "layout": '{"a": 1}', "camera": "[1]"})
    keywords = call(Poses(), **given)
    assert keywords["prompt"] == ['{"objects": ["a hat"]}'] * 2
    assert keywords["layout"] == {"a": 1}


@pytest.mark.parametrize(
    ("pipe", "says"), [(Poses(), "--arg camera=VALUE"), (Edits(), None)], ids=["an array", "a video"]
)
def test_what_cannot_be_made_up_is_named_with_the_way_to_give_it(pipe, says):
    if says is None:
        assert call(pipe)
        return
    with pytest.raises(UsageError, match="requires the argument 'camera'") as caught:
        call(pipe)
    assert says in caught.value.hint and "@FILE" in caught.value.hint


class Refuses(Controlled):
    """Fails whatever it is given."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int = 16,
        conditioning_frames: list[PICTURE] | None = None,
    ) -> None:
        raise ValueError("no")


class NothingRecorded:
    """Stands for a recorder."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def recording(self, point: int) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def runner(**overrides: Any) -> Any:
    return DryRun(NothingRecorded(), overrides, lambda event: None)  # type: ignore[arg-type]


def test_a_call_that_fails_says_how_its_videos_are_given():
    with pytest.raises(
        LatentcError, match="Refuses cannot be run at 24x16, batch 2, 5 frames: ValueError: no"
    ) as caught:
        runner()._call(Refuses(), "text-to-image", POINT, 0)
    assert "--arg conditioning_frames=@clip.mp4 or @FOLDER" in caught.value.hint


class Quotes(Refuses):
    """Says which of its arguments it is without."""

    def __call__(
        self, prompt: str | None = None, style: str | None = None, image: PICTURE | None = None
    ) -> None:
        if image is None:
            raise TypeError("no image")
        raise ValueError("`style` has to be\nthe name of a style.")


def test_what_a_failed_call_names_comes_first_in_the_hint():
    pipe = Quotes()
    with pytest.raises(LatentcError, match="TypeError: no image") as caught:
        runner()._call(pipe, "text-to-image", POINT, 0)
    assert caught.value.hint.endswith(": --arg image=@photo.png")
    with pytest.raises(LatentcError, match="`style` has to be the name of a style") as caught:
        runner(image=None)._call(Named(), "text-to-image", POINT, 0)
    assert "it needs: --arg style=TEXT, or @FILE" in caught.value.hint and "\n" not in caught.value.message


class Named(Quotes):
    def __call__(
        self, prompt: str | None = None, style: str | None = None, image: PICTURE | None = None
    ) -> None:
        raise ValueError("`style` has to be\nthe name of a style.")


class Shared(Controlled):
    """One list of frames for all prompts: a list for each is what its model cannot do."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int = 16,
        conditioning_frames: list[PICTURE] | None = None,
    ) -> str:
        if conditioning_frames is None:
            raise TypeError("no frames")
        if isinstance(conditioning_frames[0], list):
            raise NotRunnable("'net.forward' cannot be run without its weights: shapes")
        return "drawn"


class Never(Shared):
    def __call__(self, prompt: str | None = None, last_image: PICTURE | None = None) -> str:
        self.tried = getattr(self, "tried", 0) + 1
        raise NotRunnable("'net.forward' cannot be run without its weights: no tiling")


def test_what_a_model_cannot_do_in_one_form_of_the_call_is_tried_in_another():
    assert runner()._call(Shared(), "text-to-image", POINT, 0) == "drawn"
    pipe = Never()
    with pytest.raises(NotRunnable, match="no tiling"):
        runner()._call(pipe, "text-to-image", POINT, 0)
    # Without and with a picture, in another form, and with the picture as a tensor.
    assert pipe.tried == 4


class FitsPictures(Pipe):
    """Draws pictures of a size of its own, which its model does not take, and tensors of theirs."""

    def __call__(self, prompt: str | None = None, control_image: PICTURE | None = None) -> str:
        if control_image is None:
            raise TypeError("no image")
        if not isinstance(control_image, torch.Tensor):
            raise NotRunnable("'net.forward' cannot be run without its weights: 1024 and 16")
        return f"drawn of {tuple(control_image.shape)}"


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_picture_whose_size_a_pipeline_does_not_keep_is_given_as_a_tensor(prompts):
    drawn = runner()._call(FitsPictures(), "text-to-image", Point(prompts, 16, 24), 0)
    assert drawn == f"drawn of ({prompts}, 3, 16, 24)"


def test_a_number_of_frames_that_a_model_cannot_take_is_named_with_what_to_change():
    long = replace(POINT, frames=40)
    with pytest.raises(NotRunnable, match=r"no tiling \(at 24x16, batch 2, 40 frames\)\.") as caught:
        runner()._call(Never(), "text-to-video", long, 0)
    assert "--frames" in caught.value.hint
    with pytest.raises(CannotRun, match="cannot be run at 24x16, batch 2, 40 frames: ValueError") as caught:
        runner()._call(Refuses(), "text-to-video", long, 0)
    assert "--frames" in caught.value.hint


SIZE = SizeRange(DimRange(min=24, max=24), DimRange(min=16, max=16))


def test_frames_that_nobody_declares_are_the_pipelines_own():
    assert runner().complete(Controlled(), SIZE, None) == (SIZE, DimRange(min=16, max=16))
    assert runner().complete(Edits(), SIZE, None) == (SIZE, DimRange(min=FRAMES, max=FRAMES))
    assert runner().complete(Still(), SIZE, None) == (SIZE, None)
    clip = FromFile((Image.new("RGB", (8, 8)),) * 3, moving=True)
    assert runner(video=clip).complete(Edits(), SIZE, None) == (SIZE, DimRange(min=3, max=3))
    assert runner(num_frames=6).complete(Controlled(), SIZE, None) == (SIZE, DimRange(min=6, max=6))
    with pytest.raises(UsageError, match="Still makes no videos"):
        runner().complete(Still(), SIZE, DimRange(min=5, max=5))


@pytest.mark.parametrize(
    ("span", "middle"), [((5, 9), 5 + 4), ((9, 25), 17), ((1, 81), 41), ((4, 6), 6), ((5, 5), 5)]
)
def test_frames_between_are_a_number_that_an_autoencoder_makes(span, middle):
    points = points_inside(SIZE, DimRange(min=1, max=1), DimRange(min=span[0], max=span[1]))
    assert [point.frames for point in points][:4] == [span[1], middle, span[1], span[0]]


def test_dimensions_that_follow_the_frames_are_named_so():
    points = list(points_inside(SIZE, DimRange(min=1, max=2), DimRange(min=9, max=25)))
    axes = _Axes(points)
    axes.add(("in", "sample", 2), [(point.frames - 1) // 8 + 1 for point in points])
    axes.add(("in", "sample", 0), [point.batch * (2 if point.guided else 1) for point in points])
    axes.add(("in", "rows", 0), [point.batch * (2 if point.guided else 1) * point.frames for point in points])
    assert axes.names["in", "sample", 2] == "frames"
    assert axes.names["in", "sample", 0] == "batch"
    assert axes.names["in", "rows", 0] == "frames_2"
    assert axes.ranges()["frames"] == DimRange(min=2, max=4)
