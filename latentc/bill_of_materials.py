"""An artifact's bill of materials: a CycloneDX ML-BOM made from its manifest, and held to CycloneDX's own schema."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.hub import is_hub_id

if TYPE_CHECKING:
    from artifacts.manifest import Manifest

INSTALL = 'pip install "latentc[bom]"'


def bill_of_materials(manifest: Manifest) -> str:
    """The bill, as JSON of CycloneDX 1.6. One manifest gives one text.

    It names the artifact with its files' SHA-256 and, as a model card, what was measured; the model that it was
    compiled from with the SHA-256 of its weights and its licence, where that was recorded; and the tools that compiled
    it.

    Raises:
        LatentcError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        text = json.dumps(_with_card(json.loads(_bom(manifest)), manifest), indent=2, sort_keys=True) + "\n"
        fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except ImportError as error:
        raise LatentcError(
            f"a bill of materials needs packages that are not installed ({error.name or 'cyclonedx'}).",
            INSTALL,
        ) from error
    if fault is not None:
        raise ValueError(f"not a bill of CycloneDX: {fault}")
    return text


def _bom(manifest: Manifest) -> str:
    """All but the model card, which the library has no type for."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    def files(records: Any, prefix: str) -> list[Component]:
        return [
            Component(
                name=record.path,
                type=ComponentType.FILE,
                bom_ref=f"{prefix}/{record.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.sha256)],
                properties=[Property(name="latentc:size", value=str(record.size))],
            )
            for record in records
        ]

    source = manifest.source
    artifact = Component(
        name=f"{source.id} for {manifest.target}",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="artifact",
        version=manifest.digest or None,
        components=files(manifest.files, "artifact"),
        properties=[
            Property(name=f"latentc:{name}", value=value)
            for name, value in {
                "target": manifest.target,
                "precision": manifest.precision,
                "quantized": "yes" if manifest.quantization else "no",
                "parent": manifest.parent,
                "licence": source.license or "not recorded",
            }.items()
            if value
        ],
    )
    model = Component(
        name=source.id,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        version=source.revision or None,
        purl=_hub_purl(source.id, source.revision),
        licenses=list(_licenses(source.license)),
        components=files(source.weights, "model"),
    )
    tools = [
        Component(
            name=name,
            type=ComponentType.APPLICATION if name == "python" else ComponentType.LIBRARY,
            bom_ref=f"tool/{name}",
            version=version,
        )
        for name, version in manifest.toolchain.items()
    ]
    bom = Bom(
        serial_number=uuid.uuid5(
            uuid.NAMESPACE_URL, f"latentc:{manifest.digest or manifest.model_dump_json()}"
        ),
        components=[model, *tools],
    )
    bom.metadata.component = artifact
    bom.metadata.timestamp = _time(manifest.created)
    bom.register_dependency(artifact, [model, *tools])
    return str(JsonV1Dot6(bom).output_as_string())


def _hub_purl(name: str, revision: str) -> Any:
    from packageurl import PackageURL

    if not is_hub_id(name) or not revision:
        return None
    owner, _, rest = name.partition("/")
    return PackageURL("huggingface", owner, rest, revision)


def _licenses(license: str) -> Iterator[Any]:
    """The licence by its SPDX identifier where it has one: the hub writes them in small letters."""
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    if license:
        identifier = fixup_id(license)
        yield DisjunctiveLicense(id=identifier) if identifier else DisjunctiveLicense(name=license)


def _time(created: str) -> datetime:
    try:
        # Python 3.10 does not know the letter.
        return datetime.fromisoformat(re.sub(r"Z$", "+00:00", created))
    except ValueError:
        return datetime.fromtimestamp(0, timezone.utc)


def _with_card(bom: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    bom["metadata"]["component"]["modelCard"] = {
        "modelParameters": {
            "task": ", ".join(manifest.pipelines),
            "architectureFamily": "diffusion",
            "modelArchitecture": next(iter(manifest.pipelines.values())).rpartition(":")[2],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest))},
    }
    return bom


def _metrics(manifest: Manifest) -> Iterator[dict[str, str]]:
    """What was measured, and nothing else: a graph that was not measured has no metric, and is named in none."""
    for graph in manifest.graphs:
        for evidence in graph.evidence:
            slice_ = (
                f"{graph.folder}, {evidence.compute or 'a type that is not told'} on {evidence.device or '?'}"
            )
            for output, error in evidence.error.items():
                yield {
                    "type": f"relative error to PyTorch in fp32, {evidence.check} check, output {output}",
                    "value": f"{error:.6g}",
                    "slice": slice_,
                }
            if evidence.broken:
                yield {"type": "fails, so it is computed in fp32", "value": evidence.broken, "slice": slice_}
    for pictures in manifest.pictures:
        drawn = f"{pictures.prompts} prompts, {pictures.steps} steps, {pictures.compute or 'a type that is not told'}"
        for name in ("psnr", "worst_psnr", "ssim", "worst_ssim"):
            if (value := getattr(pictures, name)) is not None:
                yield {
                    "type": f"{name.replace('_', ' ')} to PyTorch's pictures",
                    "value": f"{value:.6g}",
                    "slice": drawn,
                }
