"""The adapters that an artifact's weights were made of, found again: manifests name them by name and content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import Adapter, ModelSpec
from artifacts.progress import Progress, silent
from compiler.source import open_model


def located(spec: ModelSpec, files: Sequence[Path] = (), progress: Progress = silent) -> ModelSpec:
    """The specification with each adapter's path: of `files`, or beside the model, the one of its content.

    Raises:
        LatentcError: one is in none of these places.
    """
    if not spec.adapters:
        return spec
    folders = [open_model(spec.model_copy(update={"adapters": (), "embeddings": ()})).root]
    folders += [folders[0].parent, Path(spec.model).parent]
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            digests[path] = file_record(path.parent, path, progress).sha256
        return digests[path]

    def places(adapter: Adapter) -> Iterator[Path]:
        yield from files
        name = Path(adapter.file)  # Earlier manifests have the whole path.
        for folder in folders:
            yield folder / name
            yield folder / name.name

    paths = []
    for adapter in spec.adapters:
        path = next((p for p in places(adapter) if p.is_file() and digest(p) == adapter.sha256), None)
        if path is None:
            raise LatentcError(
                f"the LoRA {adapter.name}, which was merged into the weights, is not beside the model"
                f"{' and not among the files that were named' if files else ''} (SHA-256 {adapter.sha256[:16]}...).",
                f"Say where it is: latentc verify ARTIFACT --numerics --lora {quoted(f'PATH/{adapter.name}')}",
            )
        paths.append(adapter.model_copy(update={"file": str(path.absolute())}))
    return spec.model_copy(update={"adapters": tuple(paths)})
