"""What is put into a model, or in the place of a part of it: components, textual inversions, IP-Adapters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.contents import Overlay
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Embedding, IpAdapter
from compiler.model_source import ComponentSource, ModelSource
from compiler.origins import folder_files, ip_adapter_file, pipelines
from compiler.origins.other_component import other
from compiler.origins.weight_files import Rows
from runtimes.assemble import INDEX
from runtimes.ip_adapters import LOADER
from runtimes.pipeline_parts import make_part, role
from runtimes.text_encoders import pairs


def without(source: ModelSource, names: Iterable[str]) -> ModelSource:
    """The source without some of its components: null in its index."""
    names = set(names) & {component.name for component in source.components}
    if not names:
        return source
    return with_index(
        replace(source, components=tuple(c for c in source.components if c.name not in names)),
        {name: [None, None] for name in names},
    )


def with_index(source: ModelSource, entries: Mapping[str, Any]) -> ModelSource:
    index = json.loads(source.files.read(INDEX)) | dict(entries)
    files = Overlay(source.files, {INDEX: (json.dumps(index, indent=2) + "\n").encode()})
    return replace(source, files=files)


def with_components(source: ModelSource, components: Mapping[str, str | tuple[str, ...]]) -> ModelSource:
    """The source with other components in the places of its own, and with further ones where a pipeline of diffusers
    does the same with them.

    Args:
        components: name -> a folder, a file of weights, "none", or the folders of several models.

    Raises:
        UsageError: no pipeline takes such a component.
        LatentcError: a place holds no component.
    """
    for name, place in components.items():
        places = (place,) if isinstance(place, str) else place
        if name in source.pipeline_parameters() and places == ("none",):
            source = without(source, [name])
            continue
        source = _with_component(source, name, places)
    return source


def _with_component(source: ModelSource, name: str, places: tuple[str, ...]) -> ModelSource:
    own = next((c for c in source.components if c.name == name), None)
    kept = [c.name for c in source.components]
    candidates = pipelines.with_component(source.pipeline_class(), kept, source.config, name)
    if not candidates:
        raise UsageError(
            f"{source.pipeline} has no component '{name}' (it has: {', '.join(source.pipeline_parameters())}).",
            "Name one of these: --component NAME=FOLDER",
        )
    # A model of a list stands for none of the list's.
    pattern = None if own is None or own.members else (own.library, own.class_name, own.folder)
    parts = [other(name, Path(place), pattern) for place in places]
    library, class_name, folder, weights = parts[0]
    component = ComponentSource(name, library, class_name, folder, weights)
    if own is not None:
        _require_role(name, own, component)
    pipeline = source.pipeline_class()
    if candidates != (pipeline,):
        fitting = [c for c in candidates if pipelines.names_class(c, name, component.cls)]
        if not fitting:
            raise UsageError(
                f"--component {name}: no pipeline of diffusers that does what {source.pipeline} does takes a "
                f"{class_name}.",
                "Give a component for this kind of model.",
            )
        pipeline = fitting[0]
    if len(places) > 1:
        several = pipelines.list_class(pipeline, name)
        if several is None or any(weights is not None for *_, weights in parts):
            raise UsageError(
                f"--component {name} is given {len(places)} times; {pipeline.__name__} takes one.",
                "Give it once.",
            )
        library, class_name = "diffusers", several.__name__
        component = ComponentSource(
            name, library, class_name, folder, places=tuple(place for _, _, place, _ in parts)
        )
    if component.is_module and weights is None:
        for member in component.members or (component,):
            member.require_decoded()
            folder_files.weight_files(member.folder, name)
    rest = tuple(c for c in source.components if c.name != name)
    source = with_index(
        replace(source, components=(*rest, component), pipeline=pipeline.__name__),
        {name: [library, class_name], "_class_name": pipeline.__name__},
    )
    if folder != source.root / name:
        source = replace(source, files=Overlay(source.files, {}, {name: folder}))
    return source


def _require_role(name: str, own: ComponentSource, component: ComponentSource) -> None:
    """Refuses what does another work than the model's own component: a module in a scheduler's place.

    Raises:
        UsageError: it does.
    """
    wanted, actual = role(own.cls), role(component.cls)
    if wanted != actual:
        raise UsageError(
            f"--component {name}: {component.folder} holds a {actual} ({component.class_name}); "
            f"'{name}' is a {wanted}.",
            f"Give the folder of a {wanted}, like the model's own {own.class_name}.",
        )


def with_ip_adapters(source: ModelSource, adapters: tuple[IpAdapter, ...]) -> ModelSource:
    """The source with IP-Adapters in its denoiser, and with what reads their pictures.

    As in diffusers, the image encoder lies in the folder "image_encoder" beside the first file, unless the model has
    one, or is given one.

    Raises:
        LatentcError: a file is no IP-Adapter, the model takes none, or there is no image encoder.
    """
    if not adapters:
        return source
    files = tuple(ip_adapter_file.read(source.pipeline_class(), Path(adapter.file)) for adapter in adapters)
    denoiser = next((c for c in source.modules if hasattr(c.cls, LOADER)), None)
    if denoiser is None:
        raise LatentcError(f"--ip-adapter: no component of {source.pipeline} takes an IP-Adapter.")
    components = tuple(replace(c, ip_adapters=files) if c is denoiser else c for c in source.components)
    source = replace(source, components=components)
    if "image_encoder" not in {c.name for c in source.components}:
        folder = files[0].file.parent / "image_encoder"
        if not folder.is_dir():
            raise LatentcError(
                f"--ip-adapter: the model has no image encoder, and there is none beside the file ({folder}).",
                "Give that of the adapter: --component image_encoder=FOLDER",
            )
        source = _with_component(source, "image_encoder", (str(folder),))
    if "feature_extractor" not in {c.name for c in source.components}:
        source = _with_feature_extractor(source)
    return source


def _with_feature_extractor(source: ModelSource) -> ModelSource:
    """The source with the image encoder's own preprocessing, or with CLIP's at its size, as diffusers takes it."""
    from transformers import CLIPImageProcessor

    name = "feature_extractor"
    encoder = next(c for c in source.components if c.name == "image_encoder")
    settings = encoder.folder / "preprocessor_config.json"
    if settings.is_file():
        data = settings.read_bytes()
        class_name = json.loads(data).get("image_processor_type", CLIPImageProcessor.__name__)
    else:
        size = json.loads(encoder.config)["image_size"]
        class_name = CLIPImageProcessor.__name__
        with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
            CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
            data = Path(folder, settings.name).read_bytes()
    part = ComponentSource(name, "transformers", class_name, source.root / name)
    source = with_index(
        replace(source, components=(*source.components, part)), {name: ["transformers", class_name]}
    )
    return replace(source, files=Overlay(source.files, {f"{name}/{settings.name}": data}))


def with_spare_tokens(source: ModelSource, count: int) -> ModelSource:
    """The source with text encoders that take `count` vectors of further tokens as an input.

    Raises:
        UsageError: the pipeline loads no textual inversions.
    """
    if not count:
        return source
    if not hasattr(source.pipeline_class(), "load_textual_inversion"):
        raise UsageError(
            f"{source.pipeline} loads no textual inversions in diffusers.", "Leave --spare-tokens out."
        )
    spare: dict[str, ComponentSource] = {}
    for encoder, tokenizer, _ in _text_encoders(source):
        first = len(make_part(source.files, tokenizer.name, tokenizer.cls))
        spare[encoder.name] = replace(encoder, spare_tokens=(first, count))
    if not spare:
        raise UsageError(
            f"no text encoder of {source.pipeline} can learn tokens.", "Leave --spare-tokens out."
        )
    return replace(source, components=tuple(spare.get(c.name, c) for c in source.components))


def _text_encoders(source: ModelSource) -> Iterator[tuple[ComponentSource, ComponentSource, int]]:
    """The text encoders that have a table of tokens, each with its tokenizer and the table's width."""
    from compiler.origins import embeddings

    parts = {component.name: component for component in source.components}
    for name, tokenizer in pairs(parts):
        encoder = parts[name]
        size = embeddings.table_size(encoder.config) if encoder.is_module else None
        if size is not None:
            yield encoder, parts[tokenizer], size[1]


def with_embedding(source: ModelSource, embedding: Embedding) -> ModelSource:
    """The source with a textual inversion: in each tokenizer whose encoder's table is as wide as a tensor of it.

    Raises:
        LatentcError: it is no textual inversion, of another width, or its token exists.
    """
    from compiler.origins import embeddings

    token, vectors = embeddings.read(embedding)
    widths: dict[str, int] = {}
    saved: dict[str, bytes] = {}
    added: dict[str, ComponentSource] = {}
    for encoder, tokenizer, width in _text_encoders(source):
        name = encoder.name
        widths[name] = width
        for tensor in vectors:
            if tensor.shape[-1] == width and name not in added:
                count = tensor.shape[0] if len(tensor.shape) > 1 else 1
                files, start = embeddings.tokenizer_files(
                    source.files, tokenizer.name, tokenizer.cls, token, count
                )
                saved |= files
                added[name] = replace(encoder, rows=(*encoder.rows, Rows(tensor, start)))
    if not added:
        raise LatentcError(
            f"--embedding: {Path(embedding.file).name} is of width {vectors[0].shape[-1]}; the text encoders' tables "
            f"are of width {', '.join(f'{w} ({n})' for n, w in widths.items()) or 'none'}.",
            "It is of another model.",
        )
    components = tuple(added.get(component.name, component) for component in source.components)
    return replace(source, components=components, files=Overlay(source.files, saved))
