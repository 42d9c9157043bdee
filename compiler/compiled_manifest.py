"""The manifest of a compile, from the capture and the records of the finished graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artifacts.creation_time import created_now
from artifacts.hashing import record_path
from artifacts.manifest import (
    Adapter,
    ComponentRecord,
    DimRange,
    FileRecord,
    GraphRecord,
    Manifest,
    MethodRecord,
    ModelSpec,
    Recipe,
    Source,
)
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.compile_request import CompileRequest
from compiler.lowering.graph_job import RESIDUAL, toolchain
from compiler.model_source import ModelSource
from compiler.quantize.recipe import choice_of
from targets.target_contract import Target


def compiled_manifest(
    request: CompileRequest,
    target: Target,
    options: Any,
    source: ModelSource,
    captured: Capture,
    recipe: Recipe | None,
    sources: Mapping[str, tuple[FileRecord, ...]],
    graphs: Mapping[str, tuple[GraphRecord, bool]],
    files: tuple[FileRecord, ...],
) -> Manifest:
    components: dict[str, list[Method]] = {}
    for method in captured.methods:
        components.setdefault(method.component, []).append(method)
    return Manifest(
        source=Source(
            id=request.model,
            revision=source.revision,
            license=source.license,
            weights=_weight_records(source, sources),
            spec=_recorded(source, captured.adapters, sources),
        ),
        pipelines=captured.pipelines,
        target=target.name,
        device="auto",
        options=dataclasses.asdict(options),
        arguments=dict(request.arguments),
        precision=request.precision,
        quantization=recipe,
        left_out=captured.left_out,
        sizes=in_steps(
            {"height": captured.size.height, "width": captured.size.width, "batch": captured.batch}
            | ({} if captured.frames is None else {"frames": captured.frames})
            | ({} if captured.tokens is None else {"tokens": captured.tokens}),
            [record.dims for record, _ in graphs.values()],
        ),
        components=tuple(
            ComponentRecord(
                name=name,
                class_path=captured.classes[name],
                config=f"{methods[0].folder}/config.json",
                methods=tuple(
                    MethodRecord(
                        method=m.method,
                        arguments=m.arguments,
                        result=m.result,
                        graph=m.folder,
                        state=m.state,
                        other_result=m.other_result,
                        settings=dict(m.settings),
                    )
                    for m in methods
                ),
                residual=f"{methods[0].folder}/{RESIDUAL}" if graphs[methods[0].folder][1] else None,
            )
            for name, methods in components.items()
        )
        + tuple(
            ComponentRecord(
                name=name,
                class_path=captured.classes[name],
                config=f"{name}/config.json",
                methods=(),
                residual=f"{name}/{RESIDUAL}" if captured.residuals.get(name) else None,
            )
            for name in captured.uncalled
        ),
        graphs=tuple(record for record, _ in graphs.values()),
        files=files,
        toolchain=toolchain(target, *(choice_of(recipe, method) for method in captured.methods)),
        created=created_now(),
    )


def in_steps(sizes: Mapping[str, DimRange], graphs: Iterable[Mapping[str, DimRange]]) -> dict[str, DimRange]:
    """An artifact's sizes in the steps that all of its graphs take.

    Args:
        graphs: the dimensions of each. One that follows a size has that size's name and the same ends in a unit of its
            own, such as a latent's.
    """
    steps = dict.fromkeys(sizes, 1)
    for dims in graphs:
        for dim, span in dims.items():
            size = sizes.get(name := dim.partition("_")[0])
            if size is None or span.step == 1 or span.max == span.min:
                continue
            unit, rest = divmod(size.max - size.min, span.max - span.min)
            if unit and not rest:
                steps[name] = math.lcm(steps[name], unit * span.step)
    return {name: size.model_copy(update={"step": steps[name]}) for name, size in sizes.items()}


def _weight_records(
    source: ModelSource, sources: Mapping[str, tuple[FileRecord, ...]]
) -> tuple[FileRecord, ...]:
    """The weight files of the model. Adapters are told with what was made of them (`ModelSpec.adapters`)."""
    adapters = {record_path(source.root, Path(adapter.file)) for adapter in source.spec.adapters}
    records = dict.fromkeys(record for records in sources.values() for record in records)
    return tuple(record for record in records if record.path not in adapters)


def _recorded(
    source: ModelSource, adapters: tuple[Adapter, ...], sources: Mapping[str, tuple[FileRecord, ...]]
) -> ModelSpec | None:
    """What the model was made of, its adapters and embeddings with their hashes; None for a folder."""
    if source.is_folder:
        return None
    hashes = {record.path: record.sha256 for records in sources.values() for record in records}

    def hashed(item: Any) -> Any:
        return item.model_copy(update={"sha256": hashes[record_path(source.root, Path(item.file))]})

    def named(adapter: Adapter) -> Adapter:
        """By its path in the model's folder, or by its name alone."""
        file = Path(adapter.file)
        inside = file.is_relative_to(source.root)
        path = file.relative_to(source.root).as_posix() if inside else file.name
        return adapter.model_copy(update={"file": path})

    return source.spec.model_copy(
        update={
            "adapters": tuple(named(hashed(adapter)) for adapter in adapters),
            "embeddings": tuple(map(hashed, source.spec.embeddings)),
            "ip_adapters": tuple(map(hashed, source.spec.ip_adapters)),
        }
    )
