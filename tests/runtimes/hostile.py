"""Artifacts as a stranger writes them, with right hashes; `main` loads them and says what each made Python do.

Run as a process of its own, since Python keeps an audit hook until it ends: ``python hostile.py ARTIFACT PLACE``.
Prints a JSON object: name of the case -> {"outcome": ..., "seen": [audit events that should not be]}.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.project.audit_watch import AuditWatch, note_classes
from tests.artifacts.manifest_files import manifest_file

JsonChange = Callable[[Any], None]


def rehash(root: Path, change: JsonChange | None = None) -> None:
    """Writes a manifest that lists every file as it is now."""
    file = root / "latentc.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["files"] = [
        {
            "path": path.relative_to(root).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(root.rglob("*"))
        if path.is_file() and path != file
    ]
    if change is not None:
        change(manifest)
    file.write_bytes(manifest_file(manifest))


class Loaded:
    """Unpickling one of these is seen."""

    def __reduce__(self) -> Any:
        return (print, ("a pickle was read",))


def pickled(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Loaded()))


def edited(path: str, **changes: Any) -> Callable[[Path, Path], None]:
    def change(root: Path, outside: Path) -> None:
        value = json.loads((root / path).read_text(encoding="utf-8"))
        for key, new in changes.items():
            value[key] = str(outside / new[1:]) if isinstance(new, str) and new.startswith("@") else new
        (root / path).write_text(json.dumps(value), encoding="utf-8")

    return change


def text(path: str, content: str) -> Callable[[Path, Path], None]:
    def change(root: Path, outside: Path) -> None:
        (root / path).write_text(content.replace("@", str(outside)), encoding="utf-8")

    return change


def nested_pipeline(root: Path, outside: Path) -> None:
    edited("model_index.json", feature_extractor=["diffusers", "DDIMPipeline"])(root, outside)
    inner = root / "feature_extractor"
    shutil.copytree(root / "scheduler", inner / "scheduler")
    pickled(inner / "unet/diffusion_pytorch_model.bin")
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (inner / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def pickles_beside_modules(root: Path, outside: Path) -> None:
    for name in ("unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin"):
        pickled(root / name)
    pickled(root / "text_encoder/pytorch_model.bin")


def connected(root: Path, outside: Path) -> None:
    (root / "README.md").write_text(f"---\nprior: ['{outside}']\n---\n", encoding="utf-8")


def linked(root: Path, outside: Path) -> None:
    (root / "tokenizer/linked.json").write_text("{}", encoding="utf-8")


def padded(root: Path, outside: Path) -> None:
    path = root / "tokenizer/tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 10**9,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    path.write_text(json.dumps(value), encoding="utf-8")


def nothing(root: Path, outside: Path) -> None:
    pass


def component(manifest: Any, name: str) -> Any:
    return next(c for c in manifest["components"] if c["name"] == name)


def pipeline(path: str) -> JsonChange:
    return lambda m: m.update(pipelines={"text-to-image": path})


def method(name: str) -> JsonChange:
    return lambda m: component(m, "unet")["methods"][0].update(method=name)


def class_path(path: str) -> JsonChange:
    return lambda m: component(m, "unet").update(class_path=path)


KANDINSKY = "diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_combined:KandinskyV22CombinedPipeline"

CASES: dict[str, tuple[Callable[[Path, Path], None], JsonChange | None]] = {
    # pipelines
    "the generic pipeline": (
        pickles_beside_modules,
        pipeline("diffusers.pipelines.pipeline_utils:DiffusionPipeline"),
    ),
    "a pipeline that finds its class itself": (nothing, pipeline("diffusers:AutoPipelineForText2Image")),
    "a combined pipeline and a README": (connected, pipeline(KANDINSKY)),
    "a pipeline of other parts": (nothing, pipeline("diffusers:DDIMPipeline")),
    "no pipeline": (nothing, lambda m: m.update(pipelines={})),
    "a class that diffusers imported": (nothing, pipeline("diffusers.pipelines.pipeline_utils:Path")),
    # the index
    "a pipeline as a feature extractor": (nested_pipeline, None),
    "the generic pipeline as a scheduler": (
        edited("model_index.json", scheduler=["diffusers", "DiffusionPipeline"]),
        None,
    ),
    "an ONNX model as a tokenizer": (
        edited("model_index.json", tokenizer=["diffusers", "OnnxRuntimeModel"]),
        None,
    ),
    "a module as a scheduler": (edited("model_index.json", scheduler=["diffusers", "UNet2DModel"]), None),
    "a class of the standard library": (edited("model_index.json", tokenizer=["pathlib", "Path"]), None),
    "a tokenizer that finds its class itself": (
        edited("model_index.json", tokenizer=["transformers", "AutoTokenizer"]),
        None,
    ),
    "the base of all schedulers": (
        edited("model_index.json", scheduler=["diffusers", "SchedulerMixin"]),
        None,
    ),
    "a module in place of a class": (edited("model_index.json", scheduler=["diffusers", "pipelines"]), None),
    "an index of a module": (edited("model_index.json", _class_name="pipelines"), None),
    "an index that is a list": (text("model_index.json", "[]"), None),
    "a path in place of a component": (edited("model_index.json", scheduler="@outside"), None),
    # configurations
    "a configuration that is a text": (text("unet/config.json", '"@/config.json"'), None),
    "a text encoder's configuration that is a text": (text("text_encoder/config.json", '"@"'), None),
    "a configuration that is a list": (text("text_encoder/config.json", "[1]"), None),
    "a scheduler's configuration that is a text": (text("scheduler/scheduler_config.json", '"@"'), None),
    "a configuration that is nothing": (text("vae_decoder/config.json", ""), None),
    "a configuration with a key twice": (text("unet/config.json", '{"a": 1, "a": 2}'), None),
    "a configuration nested deep": (text("unet/config.json", '{"a":' + "[" * 5000 + "]" * 5000 + "}"), None),
    "a class name that is a module": (
        edited("scheduler/scheduler_config.json", _class_name="pipelines"),
        None,
    ),
    "a class name that is a number": (edited("unet/config.json", _class_name=3), None),
    "a kernel": (edited("text_encoder/config.json", _attn_implementation="someone/kernel@main"), None),
    "a kernel, spelled without a dash": (edited("text_encoder/config.json", attn_implementation="a/b"), None),
    "a kernel of the hub under a name": (
        edited("text_encoder/config.json", attn_implementation="flash_attention_2"),
        None,
    ),
    "a kernel for a part": (
        edited("text_encoder/config.json", attn_implementation={"": "eager", "text_config": "a/b:c"}),
        None,
    ),
    "a kernel in a part": (
        edited("text_encoder/config.json", text_config={"_attn_implementation_internal": "a/b"}),
        None,
    ),
    "code of a repository": (
        edited("text_encoder/config.json", auto_map={"AutoModel": "someone/repository--model.Model"}),
        None,
    ),
    "a backbone of the hub": (edited("text_encoder/config.json", backbone="microsoft/resnet-50"), None),
    "another repository's tokenizer": (edited("text_encoder/config.json", tokenizer="@tokenizer"), None),
    "another configuration file": (
        edited("text_encoder/config.json", configuration_files=["../../outside/config.json"]),
        None,
    ),
    # tokenizers
    "a vocabulary elsewhere": (edited("tokenizer/tokenizer_config.json", vocab_file="@vocab.json"), None),
    "a tokenizer elsewhere": (
        edited(
            "tokenizer/tokenizer_config.json", tokenizer_file="@tokenizer.json", init_inputs=["/etc/hosts"]
        ),
        None,
    ),
    "a tokenizer's code": (
        edited("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenize.Tokenizer", None]}),
        None,
    ),
    "a tokenizer's configuration that is a text": (text("tokenizer/tokenizer_config.json", '"@"'), None),
    "a padding of 10**9 tokens": (edited("tokenizer/tokenizer_config.json", model_max_length=10**9), None),
    "a padding of less than nothing": (edited("tokenizer/tokenizer_config.json", model_max_length=-5), None),
    "a padding in the tokenizer itself": (padded, None),
    "10**9 timesteps": (edited("scheduler/scheduler_config.json", num_train_timesteps=10**9), None),
    "10**7 timesteps": (edited("scheduler/scheduler_config.json", num_train_timesteps=10**7), None),
    "a vocabulary of 10**9": (edited("text_encoder/config.json", vocab_size=10**9), None),
    "10**9 labels": (edited("text_encoder/config.json", num_labels=10**9), None),
    "10**7 layers": (edited("text_encoder/config.json", num_hidden_layers=10**7), None),
    "10**7 layers in a block": (edited("unet/config.json", layers_per_block=10**7), None),
    "10**9 channels": (edited("vae_decoder/config.json", latent_channels=10**9), None),
    "an empty tokenizer": (text("tokenizer/tokenizer.json", "{}"), None),
    # classes and methods
    "a module of another kind": (nothing, class_path("diffusers:DDIMScheduler")),
    "a module of PyTorch": (nothing, class_path("diffusers.models.modeling_utils:nn")),
    "a module without a configuration": (nothing, class_path("diffusers.models.resnet:ResnetBlock2D")),
    "a model that loads another one's tokenizer": (
        edited("unet/config.json", tokenizer="@tokenizer"),
        class_path("diffusers.pipelines.deprecated.blip_diffusion.modeling_blip2:Blip2QFormerModel"),
    ),
    "a module without its configuration": (
        nothing,
        lambda m: component(m, "unet").update(config="model_index.json"),
    ),
    "a method of Python's own": (nothing, method("__class__")),
    "a private method": (nothing, method("_apply")),
    "a method nowhere": (nothing, method("no.such.module")),
    "a method that is none": (nothing, method("config")),
    "a result that is a module": (
        nothing,
        lambda m: component(m, "unet")["methods"][0].update(
            result={"kind": "object", "class_path": "diffusers:UNet2DModel", "items": {}}
        ),
    ),
    # the files
    "a link to a file outside": (linked, None),
}


def main(artifact: Path, place: Path) -> None:
    """Loads `artifact`, which is right, and then one that is not for each of `CASES`."""
    outside = place / "outside"
    shutil.copytree(artifact, outside)
    roots = {}
    for number, (name, (change, manifest_change)) in enumerate(CASES.items()):
        roots[name] = root = place / f"case{number}"
        shutil.copytree(artifact, root)
        change(root, outside)
        rehash(root, manifest_change)
    unlisted = roots["a combined pipeline and a README"]
    rehash(unlisted, lambda m: m.update(files=[f for f in m["files"] if f["path"] != "README.md"]))
    link = roots["a link to a file outside"] / "tokenizer/linked.json"
    link.unlink()
    link.symlink_to(outside / "tokenizer/tokenizer_config.json")

    import diffusers

    from artifacts.errors import LatentcError
    from runtimes.pipeline import load

    load(artifact, cache=False).close()  # Imports what there is to import.
    assert diffusers.OnnxRuntimeModel is not None  # Its import looks at the system's name.
    temporary = place / "temporary"
    temporary.mkdir()
    os.chdir(temporary)
    tempfile.tempdir = str(temporary)
    audit = AuditWatch(list(roots.values()), temporary)
    note_classes(audit.note)
    results = {}
    for name, root in roots.items():
        with audit.watch() as seen:
            try:
                load(root, cache=False).close()
                outcome = "loaded"
            except LatentcError as error:
                outcome = f"refused: {error.message}"
            except BaseException as error:
                outcome = f"untyped: {type(error).__name__}: {error}"
        results[name] = {"outcome": outcome, "seen": seen}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
