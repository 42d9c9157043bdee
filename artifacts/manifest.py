"""`latentc.json`: what an artifact is, where it came from, what it declares and what was measured of it.

The types here are the one description that the compiler writes and that runtimes, `verify` and
`inspect` read. They are data only: nothing in a manifest is executed, and a class named in it is
imported only from the libraries in `TRUSTED_LIBRARIES`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

SCHEMA_VERSION = 3
DIGEST_SCHEMA = 3
"""The first schema version whose files carry a digest of themselves (`artifacts.manifest_digest`)."""
MANIFEST_NAME = "latentc.json"

# A manifest may name classes (of pipelines, modules and outputs) of these libraries and of no other.
TRUSTED_LIBRARIES = frozenset({"diffusers", "transformers"})


class Record(BaseModel):
    """Base of everything read from disk: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# --- how a Python call maps to a graph's inputs and outputs -------------------------------------


class TensorLeaf(Record):
    """The graph input or output called `name`. `number`: the caller passes a Python number, not a tensor."""

    kind: Literal["tensor"] = "tensor"
    name: str
    number: bool = False


class ComplexLeaf(Record):
    """A complex tensor, whose real and imaginary parts are the last axis, of 2, of the input or output `name`."""

    kind: Literal["complex"] = "complex"
    name: str


class ConstLeaf(Record):
    """A value baked into the graph; a call with another value does not fit this graph."""

    kind: Literal["const"] = "const"
    value: None | bool | int | float | str


class AnyLeaf(Record):
    """A value that the graph does not depend on (a generator, a callback): passed over, None when rebuilt."""

    kind: Literal["any"] = "any"


class SequenceNode(Record):
    """A list or a tuple."""

    kind: Literal["list", "tuple"]
    items: tuple[Tree, ...]


class MappingNode(Record):
    """A dict with string keys."""

    kind: Literal["dict"] = "dict"
    items: dict[str, Tree]


class ObjectNode(Record):
    """An object rebuilt by calling ``class_path(**items)``, e.g. ``diffusers...:AutoencoderKLOutput``."""

    kind: Literal["object"] = "object"
    class_path: str
    items: dict[str, Tree]


Tree = Annotated[
    Union[TensorLeaf, ComplexLeaf, ConstLeaf, AnyLeaf, SequenceNode, MappingNode, ObjectNode],
    Field(discriminator="kind"),
]


Figure = Annotated[float, Field(allow_inf_nan=False)]
"""A measured number. One that is not finite is no measurement and cannot be recorded as one."""

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A measured relative error."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Of elements or bytes."""


# --- what is in the artifact ---------------------------------------------------------------------


class FileRecord(Record):
    """One file: `path` is relative to the artifact, with forward slashes; `size` is in bytes."""

    path: str
    sha256: str
    size: Count


class DimRange(Record):
    """The declared range of a symbolic dimension, both ends included."""

    min: int
    max: int


class TensorSpec(Record):
    """A graph input or output. `shape` holds ints for fixed and names for symbolic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Evidence(Record):
    """What was measured of one graph in one type, or that nothing was.

    Attributes:
        compute: what it was computed in ("fp32", "fp16", "bf16"); empty where nothing was measured, and in manifests
            of schema version 1, which do not tell.
        device: what it was computed on, by the session's own name ("cpu").
        check: "quick" (one shape), "full" (minimum, maximum and a point off the grid), or "not measured".
        error: for each output, the worst ``||out - ref|| / ||ref||`` against PyTorch in fp32.
        tolerance: the limit that `error` was held to.
        reason: why it was not measured; empty when it was.
        broken: how the type fails the graph, which `compute="auto"` then computes in fp32; empty where it holds. An
            output that is not finite has no `error`.

    What was measured has an error or is broken; what was not has neither, so that nothing can be read as "error 0".
    """

    compute: str = ""
    device: str = ""
    check: Literal["quick", "full", "not measured"]
    error: dict[str, Share] = {}
    tolerance: Share | None = None
    reason: str = ""
    broken: str = ""

    @model_validator(mode="after")
    def _measured_or_not(self) -> Evidence:
        figures = bool(self.error or self.broken)
        if self.check == "not measured" and figures:
            raise ValueError("an error is told of what was not measured")
        if self.check != "not measured" and not figures:
            raise ValueError("it is said to be measured, and no error is told")
        return self


class WeightRecord(Record):
    """One quantized weight.

    Attributes:
        key: the stored tensor's name.
        scheme: with its options, as a recipe's rule would name it ("int4:group=64"; "none": it was spared).
        parameters: elements.
        bytes: on disk: values, scales, zero points and corrections.
        error: ``||restored - weight|| / ||weight||``; None for a weight that was spared, whose rounding to the graph's
            precision was not measured.
        note: why it is not the scheme that was asked for; empty when it is.
    """

    key: str
    scheme: str
    parameters: Count
    bytes: Count
    error: Share | None
    note: str = ""


Built = dict[str, JsonValue]
"""What a target says of the files it wrote, for its own session and for people."""


class GraphSpec(Record):
    """A graph's interface: all that a session needs to open and to call it.

    Attributes:
        folder: the folder in the artifact, e.g. "vae_decoder".
        model_file: the file that a session opens, relative to the artifact.
        dims: declared ranges of the symbolic dimensions used in `inputs` and `outputs`.
        precision: what weights are stored in, "fp32", "fp16" or "bf16"; of a graph that is typed itself also what it
            computes in.
        built: what the target says of the files: what they need to run, and what built them.
    """

    folder: str
    model_file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, DimRange]
    precision: str
    built: Built = {}


class GraphRecord(GraphSpec):
    """One compiled graph: a folder of vendor files, how it was made and what was measured of it.

    Attributes:
        rewrites: names of the exact rewrites that the graph got.
        kept_fp32: what stayed in fp32 in a lower-precision graph, and why (one line each).
        schemes: bytes written for each weight scheme ("float16": 1719...).
        digest: SHA-256 of the target-neutral graph's structure.
        weights: those that were quantized.
        evidence: one for each type that was measured; one that says why where none was.
    """

    rewrites: tuple[str, ...] = ()
    kept_fp32: tuple[str, ...] = ()
    parameters: Count
    schemes: dict[str, int]
    digest: str
    weights: tuple[WeightRecord, ...] = ()
    evidence: tuple[Evidence, ...]


class MethodRecord(Record):
    """One captured way of calling a component, answered by the graph whose folder is `graph`.

    `arguments` are by the method's own parameter names, defaults filled in. `state` is what the pipeline had set on
    the module for the call, by its path there ("mid_block.attn1.processor"); an object's items are its attributes. A
    call of a module on which something else is set does not fit. `other_result` is what comes back where the call's
    `return_dict` is the other of its two values; None where that is not known.
    """

    method: str
    arguments: dict[str, Tree]
    result: Tree
    graph: str
    state: dict[str, Tree] = {}
    other_result: Tree | None = None


class ComponentRecord(Record):
    """One module of the pipeline, replaced by a shell whose captured methods call sessions.

    Attributes:
        name: the pipeline's name for it ("unet").
        class_path: "diffusers.models...:UNet2DConditionModel".
        config: the config.json that the shell is built from, relative to the artifact.
        methods: tried in order; the first whose arguments fit a call answers it.
        residual: safetensors with the small tensors that the pipeline reads outside captured methods.
    """

    name: str
    class_path: str
    config: str
    methods: tuple[MethodRecord, ...]
    residual: str | None = None


class PictureEvidence(Record):
    """Pictures of a quantized model, computed in one type, beside PyTorch's in fp32, from the same seeds.

    Attributes:
        compute: what the graphs were computed in; those that the type breaks in fp32. Empty as in `Evidence`.
        prompts, steps, guidance, width, height: what was drawn; None where nothing was.
        psnr, worst_psnr: in dB, mean and worst of the pictures; 100 where they are equal.
        ssim, worst_ssim: structural similarity, 1 where they are equal.
        reason: why it was not measured; empty when it was.
    """

    compute: str = ""
    prompts: Count | None = None
    steps: Count | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    psnr: Figure | None = None
    worst_psnr: Figure | None = None
    ssim: Figure | None = None
    worst_ssim: Figure | None = None
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _nothing_drawn(cls, data: Any) -> Any:
        """Earlier manifests say 0 prompts of 0 steps where nothing was drawn."""
        if not isinstance(data, dict) or data.get("prompts") != 0:
            return data
        drawn = ("prompts", "steps", "guidance", "width", "height")
        return {name: value for name, value in data.items() if name not in drawn}


class PipelineEvidence(Record):
    """A small picture of a few steps, drawn by the artifact's pipeline and by PyTorch's from the same seed.

    Attributes:
        task: one of the artifact's.
        check: "not measured" where `reason` says why.
        compute, device: what the graphs were computed in, and where.
        width, height, steps: what was drawn.
        error: ``||picture - PyTorch's|| / ||PyTorch's||`` of the pipeline's own call.
        tolerance: the limit that `error` was held to.
        calls: how many calls of components were compared.
        loop: the largest such error of what `generate` gives to components and of its picture, where components give
            back what PyTorch's did; None where `reason` says why.
    """

    task: str
    check: Literal["quick", "full", "not measured"]
    compute: str = ""
    device: str = ""
    width: int = 0
    height: int = 0
    steps: int = 0
    error: Share | None = None
    tolerance: Share | None = None
    calls: int = 0
    loop: Share | None = None
    reason: str = ""


class LeftOut(Record):
    """A component of the model that the artifact does not have, its class, and why."""

    name: str
    class_name: str
    reason: str


class ForecastRun(Record):
    """Pictures with steps that are forecast beside the same artifact's with all calls made, from the same seeds.

    Attributes:
        scheduler: as `generate` takes it; empty for the model's own.
        prompts, steps, guidance, width, height: what was drawn.
        compute, device: what the graphs were computed in, and on.
        calls, calls_made: timesteps of all pictures, and those for which the denoiser was called.
        psnr, worst_psnr, ssim, worst_ssim: as in `PictureEvidence`.
        seconds, seconds_unaccelerated: medians of a picture's.
    """

    scheduler: str = ""
    prompts: int
    steps: int
    guidance: float | None = None
    width: int
    height: int
    compute: str
    device: str
    calls: int
    calls_made: int
    psnr: Figure
    worst_psnr: Figure
    ssim: Figure
    worst_ssim: Figure
    seconds: Share
    seconds_unaccelerated: Share


class Forecast(Record):
    """How far forecasts of a denoiser's outputs may be off, chosen by pictures.

    Attributes:
        tolerance: what ``accelerate="auto"`` is (`runtimes.forecast.Forecaster`).
        min_psnr: dB that the mean was held to; the worst picture to `worst_psnr_below` dB less.
        tuned_on, verified_on: SHA-256 of the prompts, one on each line; no prompt is in both.
        tuning, verification: what was measured on them with that tolerance, for each scheduler and number of steps.
    """

    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    min_psnr: Figure
    worst_psnr_below: Figure
    tuned_on: str
    verified_on: str
    tuning: tuple[ForecastRun, ...]
    verification: tuple[ForecastRun, ...]


class RecipeRule(Record):
    """Weights whose key matches the shell-like pattern `match` take `scheme`; "none" leaves them as they are."""

    match: str
    scheme: str
    options: dict[str, bool | int | str] = {}


class RecipeComponent(Record):
    """One component's weights: the first of `weights` that matches, otherwise `scheme`.

    `scheme` may be a precision: the component is then not quantized and stored in it.
    """

    scheme: str = "none"
    options: dict[str, bool | int | str] = {}
    weights: tuple[RecipeRule, ...] = ()


class Recipe(Record):
    """How a model is quantized, by component or by graph folder. With the source, it rebuilds the artifact."""

    version: Literal[1] = 1
    components: dict[str, RecipeComponent]


class Adapter(Record):
    """A file of differences (a LoRA and its kin) that is added to a model's weights.

    Attributes:
        file: its path.
        weight: what the differences are multiplied by.
        components: other weights by component ("text_encoder": 0.0).
        sha256: of the file that was merged; empty before that.
    """

    file: str
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    components: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    sha256: str = ""


class Embedding(Record):
    """A file with a textual inversion: what its token means. `token` is empty where the file names it."""

    file: str
    token: str = ""
    sha256: str = ""


class ModelSpec(Record):
    """What a model is made of, where that is more than its folder.

    Attributes:
        model: a diffusers folder, a single file, a built-in name or a hub id.
        config: of a single file: a folder with the configuration of each component; empty for what diffusers infers.
        components: a component's other folder or file, or "none" to leave it out, by name.
        adapters: merged into the weights, in this order.
        partial: whether tensors of an adapter that find no weight are left out, and not an error.
        embeddings: tokens that are added.
    """

    model: str
    config: str = ""
    components: dict[str, str] = {}
    adapters: tuple[Adapter, ...] = ()
    partial: bool = False
    embeddings: tuple[Embedding, ...] = ()


class Source(Record):
    """Where the model came from; `weights` holds every weight file that was read.

    `spec` says what it was made of where that is more than a folder; None for a folder.
    """

    id: str
    revision: str = ""
    weights: tuple[FileRecord, ...]
    spec: ModelSpec | None = None


class Manifest(Record):
    """The whole of `latentc.json`."""

    schema_version: Literal[2, 3] = 2
    """Version 1 had one record of evidence for each graph, and one of pictures, and did not say what they were
    computed in; `artifacts.reading` makes version 2 of it. Version 3 is version 2 with a digest: what is published is
    of version 3."""
    digest: str = ""
    """SHA-256 (`artifacts.manifest_digest`) of the manifest's file; empty before it is published, and in files of
    earlier versions."""
    source: Source
    pipelines: dict[str, str]
    """Task ("text-to-image") -> class path of the diffusers pipeline that does it."""
    target: str
    device: str
    options: dict[str, str | int | float | bool | None]
    arguments: dict[str, str] = {}
    """What `--arg` gave to the pipeline's call, as texts."""
    precision: str
    quantization: Recipe | None = None
    """What `--quantize` became for this model; None for nothing."""
    pictures: tuple[PictureEvidence, ...] = ()
    """What was measured of a quantized model's pictures, for each type; none where nothing was to be."""
    pipeline_evidence: tuple[PipelineEvidence, ...] = ()
    """What was measured of each task as a whole; none in artifacts from before there was such a check."""
    left_out: tuple[LeftOut, ...] = ()
    """Components of the model that no graph stands for."""
    forecast: Forecast | None = None
    """What `--accelerate auto` is, and what was measured of it; None where it was not tuned."""
    sizes: dict[str, DimRange]
    """Declared ranges of "height", "width" (pixels), "batch" (images or videos), of videos "frames", and, where it has
    one, "tokens" (of the text)."""
    components: tuple[ComponentRecord, ...]
    graphs: tuple[GraphRecord, ...]
    files: tuple[FileRecord, ...]
    """Every file of the artifact but the manifest itself."""
    toolchain: dict[str, str]
    created: str
