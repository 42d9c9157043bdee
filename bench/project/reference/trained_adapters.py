"""The trained adapters of `shapes`: where their files are, what each is asked and drawn for, and how it is judged.

`python -m bench.project.reference.train_adapters` made them, `python -m bench.project.adapter_evidence` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from bench.project.reference import adapter_judge, adapter_scenes
from bench.project.reference.adapter_judge import Verdict
from bench.project.reference.adapter_scenes import Request
from bench.reference import SHAPES_DIR
from bench.reference.shape_scenes import Caption, Placement, draw, split

ADAPTERS_DIR = SHAPES_DIR.parent / "adapters"


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """One adapter.

    Attributes:
        file: in `ADAPTERS_DIR`; of a ControlNet, its folder.
        ask: captions -> the requests among them that it can be asked.
        draw: what a caption's picture is to be, RGB, 64x64.
        judge: what of a picture is right.
        alone: the caption of which the model draws the same without the adapter, where there is one.
    """

    name: str
    kind: Literal["lora", "embedding", "controlnet"]
    file: str
    ask: Callable[[Sequence[Caption]], list[Request]]
    draw: Callable[[Caption, Placement], Image.Image]
    judge: Callable[[Image.Image, Caption], Verdict]
    alone: Callable[[Caption], Caption] | None = None

    @property
    def path(self) -> Path:
        return ADAPTERS_DIR / self.file

    def requests(self, count: int) -> list[Request]:
        """The first requests of the held-out captions, asked again from the first where there are not so many."""
        requests = self.ask(split()[1])
        return (requests * -(-count // len(requests)))[:count]

    def shares(self, images: Sequence[Image.Image], requests: Sequence[Request]) -> dict[str, float]:
        """Each attribute's share of pictures in which it is right, 0 to 1, in the order of `Verdict`.

        Raises:
            ValueError: there are not as many pictures as requests, or none.
        """
        verdicts = [
            self.judge(image, request.caption) for image, request in zip(images, requests, strict=True)
        ]
        if not verdicts:
            raise ValueError("no pictures to judge")
        return {name: sum(v[name] for v in verdicts) / len(verdicts) for name in verdicts[0]}


ADAPTERS: tuple[TrainedAdapter, ...] = (
    TrainedAdapter(
        "outline",
        "lora",
        "outline.safetensors",
        adapter_scenes.outlined,
        adapter_scenes.outline,
        adapter_judge.outline,
    ),
    TrainedAdapter(
        "gray",
        "lora",
        "gray.safetensors",
        adapter_scenes.in_gray,
        adapter_scenes.gray,
        adapter_judge.gray,
        alone=adapter_scenes.in_shades,
    ),
    TrainedAdapter(
        "vermilion",
        "embedding",
        "vermilion.safetensors",
        adapter_scenes.in_ninth_colour,
        adapter_scenes.ninth_colour,
        adapter_judge.ninth_colour,
    ),
    TrainedAdapter(
        "edges",
        "controlnet",
        "edges",
        adapter_scenes.along_edges,
        draw,
        adapter_judge.edges,
    ),
)
