"""LoRAs put into a verified artifact's constants, without the model that it was compiled from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts import adaptable as records
from artifacts.contents import Folder
from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import file_record
from artifacts.manifest import Adapter, Manifest, ModelSpec, WeightRecord
from artifacts.pinned import Pinned
from artifacts.progress import Event, Progress, silent
from artifacts.temporary import private_folder
from compiler.adaptable.weight_constants import GraphConstants, Restored, rewritten
from compiler.capture import adapters as merging
from compiler.capture.weightless_modules import build
from compiler.model_source import ComponentSource, ModelSource
from compiler.origins.operation_results import evaluated
from compiler.source import index_source
from runtimes.configs import LIST_KEY
from runtimes.sessions import session_table as sessions
from runtimes.sessions.file_constants import Replaced, TakesConstants
from runtimes.trusted_classes import is_list, list_of_models
from targets.graph.weights import Origin


@dataclass(frozen=True)
class Switched:
    """What LoRAs make of an artifact's graphs.

    Attributes:
        adapters: what was merged, with the SHA-256 of each file.
        constants: graph folder -> constant -> its bytes; of the graphs that are changed.
        quantized: weights that were quantized again, with what that lost.
    """

    adapters: tuple[Adapter, ...]
    constants: Mapping[str, Replaced]
    quantized: tuple[WeightRecord, ...]


@dataclass(frozen=True, eq=False)
class _Unknown:
    """A weight that no constant tells; an origin that may not be read."""

    key: str
    shape: tuple[int, ...]
    dtype: ir.DataType = ir.DataType.FLOAT

    def read(self) -> np.ndarray:
        """Refuses."""
        raise LatentcError(f"the artifact does not hold the weight '{self.key}', which the LoRA needs.")


@dataclass(frozen=True)
class _Files:
    """Stands for the weight files of a component: the files of its graphs."""

    files: tuple[Path, ...]

    def tensors(self, cls: type, folder: Path) -> Mapping[str, Origin]:
        """Nothing: weights are told by constants."""
        return {}


def switched(
    artifact: AdaptableArtifact,
    adapters: tuple[Adapter, ...],
    partial: bool = False,
    progress: Progress = silent,
) -> Switched:
    """The constants of a verified artifact with LoRAs merged into them.

    Args:
        artifact: its files must be what was verified when they are read, and afterwards.
        partial: leave tensors of an adapter that find no weight out.

    Raises:
        UsageError: the artifact is not adaptable, or has no such component.
        LatentcError: an adapter cannot be read or is not of this model, or a file of the artifact has changed.
    """
    graphs, files = artifact.graphs, artifact.files
    for folder in {graph.folder for parts in graphs.values() for graph in parts}:
        files.check(folder)
    source = _source(artifact, ModelSpec(model=str(artifact.root), adapters=adapters, partial=partial))
    modules = artifact.modules
    if not modules:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        modules.update({component.name: _module(component, mode) for component in source.modules})
    weights = {name: _weights(module, graphs.get(name, ())) for name, module in modules.items()}
    made_of = merging.merged(source, weights, progress, modules)
    merged = made_of.weights
    constants: dict[str, Replaced] = {}
    quantized: list[WeightRecord] = []
    total = sum(len(parts) for parts in graphs.values())
    with private_folder() as scratch:
        for number, (component, graph) in enumerate((c, g) for c, parts in graphs.items() for g in parts):
            progress(Event("adding LoRAs", number, total))
            changed = {
                name: origin
                for name, origin in merged[component].items()
                if origin is not weights[component][name]
            }
            if fixed := sorted(changed.keys() & set(graph.adaptable.fixed)):
                raise LatentcError(
                    f"a LoRA changes '{fixed[0]}' of '{component}', which '{graph.folder}' holds in a form that cannot "
                    "be changed.",
                    "Merge it when you compile: latentc compile MODEL OUT --lora FILE",
                )
            affected = changed.keys() & graph.adaptable.weights.keys()
            if affected:
                replaced, records_of = rewritten(graph, _Evaluated(merged[component]), affected, scratch)
                constants[graph.folder] = replaced
                quantized += records_of
    for folder in {graph.folder for parts in graphs.values() for graph in parts}:
        files.check(folder)
    progress(Event("adding LoRAs", total, total))
    return Switched(tuple(map(_named, made_of.adapters)), constants, tuple(quantized))


class _Evaluated(Mapping[str, torch.Tensor]):
    """Weights by name, computed when they are asked for; each thread keeps the last few: constants share them."""

    KEPT = 2

    def __init__(self, origins: Mapping[str, Origin]) -> None:
        self._origins = origins
        self._threads = threading.local()

    def __getitem__(self, name: str) -> torch.Tensor:
        last: dict[str, torch.Tensor] = self._threads.__dict__
        if name not in last:
            while len(last) >= self.KEPT:
                del last[next(iter(last))]
            last[name] = evaluated(self._origins[name])
        return last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)


def _named(adapter: Adapter) -> Adapter:
    """The adapter by its file's name and content."""
    path = Path(adapter.file)
    return adapter.model_copy(update={"file": path.name, "sha256": file_record(path.parent, path).sha256})


@dataclass(frozen=True, eq=False)
class AdaptableArtifact:
    """A verified artifact whose LoRAs can be switched, by one thread at a time.

    Attributes:
        root: its folder.
        graphs: component -> its graphs' constants.
        modules: by component, without weights, once they are built: what reads LoRAs works on them.
    """

    root: Path
    manifest: Manifest
    files: Pinned
    graphs: Mapping[str, tuple[GraphConstants, ...]]
    modules: dict[str, torch.nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, manifest: Manifest, files: Pinned) -> AdaptableArtifact:
        """Reads how the constants are made.

        Raises:
            UsageError: the artifact was not compiled to be adaptable.
            LatentcError: a file has changed since it was verified, or does not say how constants are made.
        """
        require_adaptable(root, manifest)
        factory = cast(TakesConstants, sessions.get(manifest.target))
        folders = {graph.folder: graph for graph in manifest.graphs}
        result: dict[str, tuple[GraphConstants, ...]] = {}
        for component in manifest.components:
            parts = []
            for folder in dict.fromkeys(method.graph for method in component.methods):
                file = f"{folder}/{records.FILE}"
                adaptable = records.read(files.read(file), files.shown(file))
                files.check(folder)
                stored = factory.constants(root / folders[folder].model_file)
                parts.append(GraphConstants(folder, root / folder, adaptable, stored))
            result[component.name] = tuple(parts)
        return cls(root, manifest, files, result)


def require_adaptable(root: Path, manifest: Manifest) -> None:
    """Raises UsageError unless LoRAs can be switched in the artifact."""
    listed = {file.path for file in manifest.files}
    kept = all(f"{graph.folder}/{records.FILE}" in listed for graph in manifest.graphs)
    if not kept or not isinstance(sessions.get(manifest.target), TakesConstants):
        raise UsageError(
            f"{root.name} was not compiled to have LoRAs switched when it runs.",
            "Compile it again: latentc compile MODEL OUT --adaptable; or merge them: --lora FILE",
        )


def _source(artifact: AdaptableArtifact, spec: ModelSpec) -> ModelSource:
    """The artifact as a model: its components' classes and configurations, and no weights."""
    root, files = artifact.root, artifact.files
    source = index_source(spec.model, root)
    components = {component.name: component for component in artifact.manifest.components}
    parts: list[ComponentSource] = []
    for part in source.components:
        if not part.is_module:
            parts.append(part)
        elif part.name in components:
            record = components[part.name]
            own = tuple(root / path for m in record.methods for path in files.names(m.graph))
            folder = (root / record.config).parent
            parts.append(replace(part, folder=folder, elsewhere=_Files(own)))
    return replace(source, components=tuple(parts), files=files, spec=spec)


def _module(component: ComponentSource, mode: FakeTensorMode) -> torch.nn.Module:
    """The component's module without weights."""
    if not is_list(component.cls):
        return build(component, mode)
    config = json.loads(Folder(component.folder).read("config.json"))
    with torch.device("meta"):
        return list_of_models(component.cls, config[LIST_KEY])  # type: ignore[no-any-return]


def _weights(module: torch.nn.Module, graphs: tuple[GraphConstants, ...]) -> dict[str, Origin]:
    """Where each float parameter of a component comes from."""
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.is_floating_point()
    }
    told = {name for graph in graphs for name in graph.adaptable.weights}
    weights: dict[str, Origin] = {}
    for name, shape in shapes.items():
        weights[name] = Restored(name, shape, graphs) if name in told else _Unknown(name, shape)
    return weights
