"""What a compile is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.manifest import Adapter, DimRange, Embedding, IpAdapter, ModelSpec, Recipe
from compiler.capture.declared_sizes import SizeRange

SINGLE = DimRange(min=1, max=1)

PRECISION = "fp16"
"""In which weights are stored where nothing else is asked for."""

CHECKS = ("quick", "full", "none")


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what, and where to.

    Attributes:
        model: a diffusers folder, a single file, a built-in name or a hub id.
        out: the artifact's folder; it appears when all is done.
        target: a name in `targets.target_table`.
        precision: of the weights: "fp32", "fp16" or "bf16".
        tasks: what the artifact does; empty for what the model's own pipeline does.
        size: declared ranges of the picture, in pixels; None for the model's own size.
        batch: declared range of pictures a call.
        frames: declared range of a video's frames; None for as many as the pipeline makes when it is not told.
        tokens: declared range of the text's length, for embeddings of weighted or long prompts; None for the pipeline's
            own length alone.
        check: "quick" (one shape), "full" (ends and inside of every range) or "none".
        options: the target's own, by name.
        arguments: more arguments of the pipeline's call, as texts.
        pictures: prompts whose pictures are compared with PyTorch's where weights are quantized; 0 for none.
        patience: seconds that drawing them may take; a model for which it is more is not measured.
        references: a folder where PyTorch's pictures are kept for the next compile that compares the same ones.
        quantize: how weights are quantized, as `compiler.quantize.recipe` reads it; empty for not at all.
        calibration: prompts that activations, and int4 with a method, are measured on; empty for the model's own.
        rewrites: names of exact rewrites that the graphs get (`compiler.road`), with commas between them, or
            "none"; empty for those that are on for the target.
        approximate: names of approximations that the graphs get (`compiler.passes.approximations`), with commas between
            them; empty for none.
        force: replace an artifact that is at `out`.
        config: of a single file: the folder with its configuration; empty for what diffusers infers.
        components: other components by name: a folder, a file of weights, or "none"; for a list of models, folders.
        loras: adapters that are merged into the weights, in this order.
        lora_partial: leave tensors of an adapter that find no weight out.
        embeddings: textual inversions whose tokens are added.
        ip_adapters: put into the denoiser.
        spare_tokens: how many vectors of textual inversions can be loaded when the artifact runs.
        adaptable: keep what switching LoRAs takes when the artifact runs.
    """

    model: str
    out: Path
    target: str
    precision: str = PRECISION
    tasks: tuple[str, ...] = ()
    size: SizeRange | None = None
    batch: DimRange = SINGLE
    frames: DimRange | None = None
    tokens: DimRange | None = None
    check: str = "quick"
    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    quantize: str | Recipe = ""
    pictures: int = 8
    patience: float = 900.0
    references: Path | None = None
    calibration: tuple[str, ...] = ()
    rewrites: str = ""
    approximate: str = ""
    force: bool = False
    config: str = ""
    components: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    loras: tuple[Adapter, ...] = ()
    lora_partial: bool = False
    embeddings: tuple[Embedding, ...] = ()
    ip_adapters: tuple[IpAdapter, ...] = ()
    spare_tokens: int = 0
    adaptable: bool = False

    @property
    def spec(self) -> ModelSpec:
        """What the model is made of; files by their whole paths, as other processes read them, too."""
        return ModelSpec(
            model=self.model,
            config=self.config,
            components=dict(self.components),
            adapters=self.loras,
            partial=self.lora_partial,
            embeddings=self.embeddings,
            ip_adapters=self.ip_adapters,
            spare_tokens=self.spare_tokens,
        )
