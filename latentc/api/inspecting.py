"""What an artifact or a model holds, and whether an artifact still is what was compiled: `inspect`, `verify`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.argument_types import typed
from artifacts.errors import UsageError
from artifacts.progress import Event, Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.artifact_signature import Signed
    from artifacts.evidence_records import Evidence
    from artifacts.manifest import Manifest
    from artifacts.verification import Finding as FileFinding
    from compiler.evidence.where import Finding
    from compiler.model_source import ComponentSource


@dataclass(frozen=True)
class ToolChange:
    """A package whose version here (None: not installed) is another than the one that compiled an artifact."""

    package: str
    compiled: str
    installed: str | None


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        root: the artifact's folder, absolute.
        manifest: what the artifact says of itself.
        findings: what is wrong with its files; empty when nothing is.
        toolchain: tools of other versions than those that compiled it, which is no fault.
        numerics: graph folder -> what was measured against PyTorch, for each type computed in; empty where that was not
            asked for, or files are wrong.
        where: the first nodes whose values leave the tolerance, in types that fail their graph; empty where that was
            not asked for, or no graph does.
    """

    root: Path
    manifest: Manifest
    findings: tuple[FileFinding, ...]
    toolchain: tuple[ToolChange, ...]
    numerics: Mapping[str, tuple[Evidence, ...]] = field(default_factory=dict)
    where: tuple[Finding, ...] = ()
    signed: Signed | None = None

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Graphs whose numbers were asked for and could not be compared in any type."""
        from latentc.evidence import is_measured

        return tuple(folder for folder, measured in self.numerics.items() if not is_measured(measured))

    @property
    def ok(self) -> bool:
        """Whether every file is what was compiled, and the numbers that were asked for were measured."""
        return not self.findings and not self.unmeasured


@typed
def verify(
    artifact: File,
    *,
    numerics: bool = False,
    compute: str = "auto",
    where: bool = False,
    loras: Sequence[File] = (),
    signature: File | None = None,
    public_key: File | None = None,
    progress: Progress = silent,
) -> Verification:
    """Checks an artifact against its manifest, as `latentc verify` does; reads every file once.

    Args:
        numerics: also compare each component with PyTorch again, where the files are as they were; needs the model
            that it was compiled from.
        compute: the only type to measure in; "auto" for fp32 and what runs here by default.
        where: also name the first nodes whose values leave the tolerance, where a graph does; needs polygraphy.
        loras: where the LoRAs are that were merged when it was compiled, for `numerics`; those in the model's folder,
            or beside it, need not be named.
        signature: also hold the artifact, where its files are as they were, to this signature; None for the one in it.
        public_key: the key (a PEM file) that it must be signed with; None where no signature is asked for.

    Raises:
        UsageError: the device does not have the type, numbers were not asked for, or a signature has no key.
        LatentcError: there is no artifact, a component is not PyTorch's, or the signature does not hold. Files that are
            wrong are findings.
    """
    from artifacts.verification import examine

    if signature is not None and public_key is None:
        raise UsageError("a signature is held to the key of whom you trust: it needs public_key=PUBLIC.pem.")

    if compute != "auto" and not numerics:
        raise UsageError("compute is what numbers are measured in: it needs numerics=True.")
    if where and not numerics:
        raise UsageError("where is asked of numbers that are measured: it needs numerics=True.")
    if loras and not numerics:
        raise UsageError("loras are what numbers are compared with: they need numerics=True.")
    with keywords.reporting(progress) as reported:
        opened, findings = examine(artifact, progress=reported)
        signed = None
        if public_key is not None and not findings:
            from artifacts.artifact_signature import check

            signed = check(opened, Path(public_key), None if signature is None else Path(signature))
        measured: Mapping[str, tuple[Evidence, ...]] = {}
        nodes: list[Finding] = []
        if numerics and not findings:
            from compiler.evidence.recheck import recheck

            more: dict[str, Any] = {"on_findings": nodes.extend} if where else {}
            if loras:
                more["loras"] = tuple(map(Path, loras))
            measured = recheck(opened, reported, compute, **more)
    manifest = opened.manifest
    changed = _changed_tools(manifest.toolchain)
    return Verification(opened.root, manifest, findings, changed, measured, tuple(nodes), signed)


def _changed_tools(recorded: Mapping[str, str]) -> tuple[ToolChange, ...]:
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    changes = []
    for package, was in recorded.items():
        try:
            now: str | None = python_version() if package == "python" else version(package)
        except PackageNotFoundError:
            now = None
        if now != was:
            changes.append(ToolChange(package, was, now))
    return tuple(changes)


@dataclass(frozen=True)
class ComponentSummary:
    """One component of a model; a tokenizer or a scheduler has no weights.

    Attributes:
        name: the pipeline's name for it ("unet").
        class_name: "diffusers.UNet2DConditionModel".
        parameters: of its weights; None where it has none.
        dtypes: how weights are stored ("f16") -> bytes.
        files: names of its weight files.
    """

    name: str
    class_name: str
    parameters: int | None = None
    dtypes: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of its weights."""
        return sum(self.dtypes.values())


@dataclass(frozen=True)
class ModelSummary:
    """What is known of a model from its index and the headers of its weight files.

    Attributes:
        id: as it was asked for.
        folder: where it lies.
        revision: of a hub id; else empty.
        pipeline: the diffusers class.
    """

    id: str
    folder: Path
    revision: str
    pipeline: str
    components: tuple[ComponentSummary, ...]


@typed
def inspect(artifact_or_model: File, *, progress: Progress = silent) -> Manifest | ModelSummary:
    """What is in an artifact, or in a model before it is compiled, as `latentc inspect` shows it. Reads no weight.

    Returns:
        The manifest of an artifact; of a model (a diffusers folder, a hub id or a built-in name) its components.

    Raises:
        LatentcError: it is neither, or the manifest does not hold.
    """
    from artifacts.manifest import MANIFEST_NAME
    from artifacts.manifest_reading import read_manifest

    root = Path(artifact_or_model)
    if os.path.lexists(root / MANIFEST_NAME):
        return read_manifest(root.absolute())
    with keywords.reporting(progress) as reported:
        reported(Event("reading headers", 0, None))
        return _model(str(artifact_or_model))


def _model(name: str) -> ModelSummary:
    from compiler.source import open_model

    source = open_model(name)
    modules = {component.name for component in source.modules}
    return ModelSummary(
        id=source.id,
        folder=source.root,
        revision=source.revision,
        pipeline=source.pipeline,
        components=tuple(_component(part, part.name in modules) for part in source.components),
    )


def _component(component: ComponentSource, module: bool) -> ComponentSummary:
    class_name = f"{component.library}.{component.class_name}"
    if not module:
        return ComponentSummary(component.name, class_name)
    dtypes: dict[str, int] = {}
    for tensor in component.stored.values():
        dtype = tensor.dtype.name.lower()
        dtypes[dtype] = dtypes.get(dtype, 0) + int(math.prod(tensor.shape) * tensor.dtype.itemsize)
    return ComponentSummary(
        component.name,
        class_name,
        parameters=sum(math.prod(tensor.shape) for tensor in component.stored.values()),
        dtypes=dtypes,
        files=tuple(file.name for file in component.weight_files),
    )
