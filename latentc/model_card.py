"""A model card for an artifact, made from its manifest: what it is, what was measured, how to run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from artifacts.hub import is_hub_id
from artifacts.units import size
from latentc import evidence

if TYPE_CHECKING:
    from artifacts.manifest import Manifest

# Tasks that the hub has a name for; an artifact's other tasks are told in the text.
_HUB_TASKS = frozenset({"text-to-image", "image-to-image", "text-to-video", "image-to-video"})


def model_card(manifest: Manifest, name: str, *, signed: bool = False) -> str:
    """The card, in Markdown with the head that the hub reads.

    Args:
        name: ``owner/name``, where the artifact is put.
        signed: whether a signature goes along.
    """
    return "\n".join([*_head(manifest), "", *_text(manifest, name, signed)]) + "\n"


def _head(manifest: Manifest) -> Iterator[str]:
    source = manifest.source
    yield "---"
    # JSON's strings are YAML's, too.
    if source.license:
        yield f"license: {json.dumps(source.license)}"
    if is_hub_id(source.id):
        yield f"base_model: {json.dumps(source.id)}"
        if manifest.quantization is not None:
            yield "base_model_relation: quantized"
    yield "library_name: latentc"
    if task := next((task for task in manifest.pipelines if task in _HUB_TASKS), ""):
        yield f"pipeline_tag: {task}"
    yield "tags:"
    for tag in ("latentc", "diffusers", manifest.target):
        yield f"- {json.dumps(tag)}"
    yield "---"


def _text(manifest: Manifest, name: str, signed: bool) -> Iterator[str]:
    from bench import markdown_tables

    source = manifest.source
    pipeline = next(iter(manifest.pipelines.values())).rpartition(":")[2]
    yield f"# {_cell(name.partition('/')[2])}"
    yield ""
    yield (
        f"{_cell(source.id)}, a diffusers {pipeline}, compiled for {manifest.target} by "
        f"[latentc](https://pypi.org/project/latentc/) {manifest.toolchain.get('latentc', '')}".rstrip()
        + "."
    )
    yield ""
    facts = {
        "model": source.id + (f" at {source.revision}" if source.revision else ""),
        "licence": f"{source.license}, as the model's card names it" if source.license else "not recorded",
        "tasks": ", ".join(manifest.pipelines),
        "target": manifest.target,
        "weights": manifest.precision + (", quantized" if manifest.quantization else ""),
        "sizes": ", ".join(f"{side} {dim.text}" for side, dim in manifest.sizes.items()),
        "on disk": size(sum(file.size for file in manifest.files)),
        "toolchain": ", ".join(f"{tool} {version}" for tool, version in sorted(manifest.toolchain.items())),
        "manifest": f"SHA-256 digest {manifest.digest}" if manifest.digest else "has no digest",
    }
    yield markdown_tables.table(["", ""], [(name, _cell(fact)) for name, fact in facts.items()])
    yield ""
    yield "## What was measured"
    yield ""
    yield "The error of each graph is `||out - ref|| / ||ref||` beside PyTorch in fp32, the worst of its outputs."
    yield ""
    rows = [
        (_cell(graph.folder), graph.precision, _cell(evidence.lines(graph.evidence)))
        for graph in manifest.graphs
    ]
    yield markdown_tables.table(["graph", "weights", "error to PyTorch"], rows)
    for pictures in manifest.pictures:
        yield ""
        yield _cell(evidence.pictures_line(pictures))
    yield ""
    yield "## How to run it"
    yield ""
    yield "```sh"
    yield "pip install latentc"
    yield f'latentc generate {name} "PROMPT" -o out.png'
    yield "```"
    yield ""
    yield "From Python:"
    yield ""
    yield "```python"
    yield "import latentc"
    yield ""
    yield f"with latentc.load({name!r}) as pipeline:"
    yield '    pipeline.generate("PROMPT").images[0].save("out.png")'
    yield "```"
    yield ""
    yield "Each file is held to the SHA-256 that `latentc.json` has of it before it is opened."
    if signed:
        yield (
            "`latentc.sig` is a signature over all of them: with its maker's public key, "
            "`--require-signature PUBLIC.pem` runs nothing that it does not cover."
        )
    if source.weights:
        yield ""
        yield "## Made of"
        yield ""
        weights = [(_cell(file.path), f"`{file.sha256}`") for file in source.weights]
        yield markdown_tables.table(["weight file of the model", "SHA-256"], weights)


def _cell(text: str) -> str:
    """Text that is nothing but text in a table's cell."""
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    for mark in "\\`*_[]<>|#":
        plain = plain.replace(mark, f"\\{mark}")
    return plain.replace("\n", "<br>")
