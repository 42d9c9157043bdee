"""Artifacts and models as a stranger would write them to make the program run, read or fetch something.

Each is made of a few of the ways below, chosen at random; the manifest's hashes are right. Files that names lead to lie
in a folder "outside" beside the artifact: who opens one of them is seen (`bench.project.audit_watch`).
"""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.project.campaign_kinds import rehash

OUTSIDE = "outside"
"""The folder beside the artifact. In `TEXTS`, "@" stands for its path."""

KEYS = (
    # Of code, kernels and other repositories.
    "auto_map", "trust_remote_code", "custom_pipeline", "_attn_implementation", "attn_implementation",
    "_attn_implementation_internal", "attn_processor_type", "experts_implementation", "kernel_config", "use_kernels",
    "quantization_config", "backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_config",
    "text_config", "vision_config", "adapter_config", "peft_config", "_adapter_model_path", "base_model_name_or_path",
    # Of classes.
    "_class_name", "architectures", "model_type", "tokenizer_class", "processor_class", "image_processor_type",
    "feature_extractor_type", "slow_tokenizer_class", "_diffusers_version", "transformers_version", "__class__",
    "__reduce__", "__init__", "dtype", "torch_dtype", "act_fn", "hidden_act", "timestep_spacing", "solver_type",
    # Of files.
    "_name_or_path", "name_or_path", "pretrained_model_name_or_path", "cache_dir", "subfolder", "vocab_file",
    "merges_file", "tokenizer_file", "tokenizer", "init_inputs", "added_tokens_file", "special_tokens_map_file",
    "chat_template_file", "chat_template", "configuration_files", "spm_file", "weight_map", "gguf_file",
    "local_files_only",
    # Of sizes.
    "num_train_timesteps", "model_max_length", "vocab_size", "num_hidden_layers", "layers_per_block", "in_channels",
    "cross_attention_dim", "sample_size", "max_position_embeddings", "num_labels", "block_out_channels",
)  # fmt: skip
TEXTS: tuple[Any, ...] = (
    "@", "@/config.json", "@/vocab.json", "@/pytorch_model.bin", "../outside", "../../outside/config.json",
    "file://@/config.json", "someone/kernel@main", "a/b:c", "someone/repository", "someone/repository--model.Model",
    "flash_attention_2", "paged|sdpa", "kernels-community/flash-attn", "pipelines", "diffusers.pipelines", "os",
    "os.system", "builtins.eval", "AutoModel", "AutoTokenizer", "DiffusionPipeline", "OnnxRuntimeModel", "UNet2DModel",
    "StableDiffusionPipeline", "https://example.org/x", "/etc/passwd", "/dev/zero", "{{ ''.__class__.__mro__ }}",
    10**9, 10**7, -1, True, None, [], [10**7] * 4, ["@"], ["@/config.json", "/etc/hosts"],
    {"AutoModel": "someone/repository--model.Model", "AutoTokenizer": ["tokenize.Tokenizer", None]},
    {"": "someone/kernel"}, {"quant_method": "bitsandbytes"}, {"quant_method": "gptq", "bits": 4},
    {"_attn_implementation": "a/b"}, {"model_type": "clip", "auto_map": {"AutoConfig": "x.Y"}},
)  # fmt: skip
PLANTED = (
    "pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl", "adapter_model.bin",
    "modeling.py", "model.py", "tokenize.py", "pipeline.py", "__init__.py", "sitecustomize.py", "handler.py",
    "adapter_config.json", "config.json", "tokenizer.model", "spiece.model", "chat_template.jinja", "README.md",
    "model_index.json", "preprocessor_config.json", "processor_config.json", "generation_config.json", "libx.so",
    "model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json", "kernels.lock",
    "added_tokens.json",
)  # fmt: skip
BASES = (
    "diffusers:DiffusionPipeline", "diffusers:AutoPipelineForText2Image", "diffusers:OnnxRuntimeModel",
    "diffusers.pipelines.pipeline_utils:Path", "diffusers.models.modeling_utils:nn", "diffusers:DDIMPipeline",
    "diffusers.models.resnet:ResnetBlock2D", "transformers:AutoModel", "transformers:AutoTokenizer", "builtins:eval",
    "transformers:pipeline", "transformers:Trainer", "os:system", "pathlib:Path", "torch:load", "torch.nn:Linear",
    "diffusers.utils.dynamic_modules_utils:get_class_from_dynamic_module",
)  # fmt: skip
METHODS = (
    "__class__", "__init__", "_apply", "load_state_dict", "save_pretrained", "from_pretrained", "config", "to",
    "register_buffer", "forward.__globals__", "no.such.module", "load_adapter", "push_to_hub", "set_attn_processor",
)  # fmt: skip

Manifest = dict[str, Any]
Edit = Callable[[Manifest], object]


@dataclass(frozen=True)
class Written:
    """What a stranger wrote.

    Attributes:
        text: says it.
        edit: changes the manifest; None for no change.
        added: a file that the manifest lists from then on; empty for none.
    """

    text: str
    edit: Edit | None = None
    added: str = ""


class Canary:
    """A pickle of it looks up a class when it is read."""

    def __reduce__(self) -> Any:
        return (print, ("a pickle was read",))


def hostile(root: Path, rng: random.Random) -> str:
    """Makes a hostile artifact of the one in `root`; returns how."""
    outside = make_outside(root)
    changes = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        way = rng.choice((_key, _key, _key, _entry, _class, _method, _file, _file, _text, _graph, _graph))
        changes.append(way(root, outside, rng))
    added = [change.added for change in changes if change.added]
    rehash(root, added, lambda manifest: [change.edit(manifest) for change in changes if change.edit])
    return "; ".join(change.text for change in changes)[:600]


def hostile_model(root: Path, rng: random.Random) -> str:
    """As `hostile`, of a model's folder, which has neither hashes nor graphs."""
    outside = make_outside(root)
    changes = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        way = rng.choice((_key, _key, _key, _entry, _file, _text))
        changes.append(way(root, outside, rng).text)
    return "; ".join(changes)[:600]


def make_outside(root: Path) -> Path:
    """Makes the folder that names lead to."""
    outside = root.parent / OUTSIDE
    outside.mkdir()
    for name in (
        "config.json",
        "vocab.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "scheduler_config.json",
    ):
        source = next(iter(sorted(root.rglob(name))), None)
        (outside / name).write_bytes(b"{}" if source is None else source.read_bytes())
    (outside / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    return outside


def _key(root: Path, outside: Path, rng: random.Random) -> Written:
    """A configuration has a key that names code, a class, a file or a size."""
    file = rng.choice(_json_files(root))
    value = json.loads(file.read_text("utf-8"))
    holders = list(_objects(value)) or [{}]
    holder = holders[0] if rng.random() < 0.7 else rng.choice(holders)
    key = rng.choice([*KEYS, *holder])
    holder[key] = new = _placed(rng.choice(TEXTS), outside)
    file.write_text(json.dumps(value), encoding="utf-8")
    return Written(f"{file.relative_to(root)}: {key} = {json.dumps(new)}")


def _entry(root: Path, outside: Path, rng: random.Random) -> Written:
    """The index names another class for a component, or a component that the pipeline has not."""
    file = root / "model_index.json"
    if not _is_object(file):
        return Written("no index")
    index = json.loads(file.read_text("utf-8"))
    name = rng.choice([*(key for key, entry in index.items() if isinstance(entry, list)), "custom", "vae"])
    library = rng.choice(("diffusers", "transformers"))
    entry = rng.choice(
        (
            [library, rng.choice(_classes(library))],
            [
                "diffusers",
                rng.choice(("DiffusionPipeline", "OnnxRuntimeModel", "pipelines", "SchedulerMixin")),
            ],
            ["transformers", rng.choice(("AutoTokenizer", "AutoModel", "AutoProcessor", "pipeline"))],
            [rng.choice(("os", "pathlib", "builtins", "unet", "model", "stable_diffusion")), "Path"],
            _placed(rng.choice(TEXTS), outside),
        )
    )
    index[name] = entry
    file.write_text(json.dumps(index), encoding="utf-8")
    if name not in ("unet", "vae") and rng.random() < 0.5 and not (root / name).exists():
        shutil.copytree(root / "scheduler", root / name)
    return Written(f"model_index.json: {name} = {json.dumps(entry)}")


def _class(root: Path, outside: Path, rng: random.Random) -> Written:
    """The manifest names another class of a pipeline, a component or a result."""
    library = rng.choice(("diffusers", "transformers"))
    path = rng.choice((*BASES, *(f"{library}:{rng.choice(_classes(library))}" for _ in range(len(BASES)))))
    place = rng.choice(("pipeline", "component", "result"))

    def edit(manifest: Manifest) -> None:
        if place == "pipeline":
            manifest["pipelines"] = dict.fromkeys(manifest["pipelines"], path)
        elif place == "component":
            _any_component(manifest, rng)["class_path"] = path
        else:
            items = {"path": {"kind": "const", "value": "/etc/passwd"}}
            method = rng.choice(_any_component(manifest, rng)["methods"])
            method["result"] = {"kind": "object", "class_path": path, "items": items}

    return Written(f"{place} of class {path}", edit)


def _method(root: Path, outside: Path, rng: random.Random) -> Written:
    """The manifest names another method of a component."""
    name = rng.choice(METHODS)

    def edit(manifest: Manifest) -> None:
        rng.choice(_any_component(manifest, rng)["methods"])["method"] = name

    return Written(f"method {name}", edit)


def _any_component(manifest: Manifest, rng: random.Random) -> Any:
    return rng.choice([component for component in manifest["components"] if component["methods"]])


def _file(root: Path, outside: Path, rng: random.Random) -> Written:
    """A pickle, code or a configuration that names more lies beside the files."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    file = rng.choice([root, *folders]) / rng.choice(PLANTED)
    if file.suffix == ".py":
        data = f"open({str(outside / 'config.json')!r}).read()\n".encode()
    elif file.suffix == ".json":
        texts = {key: _placed(rng.choice(TEXTS), outside) for key in rng.sample(KEYS, 3)}
        data = json.dumps(texts | {"weight_map": {"a": "../../outside/pytorch_model.bin"}}).encode()
    elif file.suffix == ".md":
        data = f"---\nprior: ['{outside}']\nbase_model: someone/repository\n---\n".encode()
    else:
        data = pickle.dumps(Canary())
    if not file.exists():
        file.write_bytes(data)
    name = file.relative_to(root).as_posix()
    return Written(f"{name} beside", added=name if rng.random() < 0.8 else "")


def _text(root: Path, outside: Path, rng: random.Random) -> Written:
    """A configuration is no object."""
    file = rng.choice(_json_files(root))
    deep = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
    texts = (
        json.dumps(str(outside)),
        "[]",
        "",
        "null",
        "3",
        '{"a": 1, "a": 2}',
        deep,
        "\ufeff{}",
        "{\x00}",
        '"' * 9,
    )
    text = rng.choice(texts)
    file.write_text(text, encoding="utf-8")
    return Written(f"{file.relative_to(root)} is {text[:20]!r}")


def _graph(root: Path, outside: Path, rng: random.Random) -> Written:
    """A graph has an operator, or names a file, that no target of ours writes."""
    file = rng.choice(sorted({*root.rglob("*.onnx"), *root.rglob("openvino_model.xml")}))
    change = (
        _onnx_graph(file, outside, rng) if file.suffix == ".onnx" else _openvino_graph(file, outside, rng)
    )
    return Written(f"{file.relative_to(root)}: {change}")


def _onnx_graph(file: Path, outside: Path, rng: random.Random) -> str:
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    node = rng.choice(model.graph.node)
    kind = rng.choice(("domain", "operator", "place", "offset", "loop", "function", "shape"))
    stored = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if kind == "domain":
        node.domain = rng.choice(("com.example", "ai.onnx.contrib", "com.microsoft", "ai.onnx.ml", "os"))
        model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
    elif kind == "operator":
        node.op_type = rng.choice(("PyOp", "Loop", "If", "Scan", "Attention", "StringConcat", "Optional"))
    elif kind == "loop":
        body = onnx.helper.make_graph([], "body", [], [])
        node.attribute.append(onnx.helper.make_attribute("body", body))
    elif kind == "function":
        function = model.functions.add()
        function.name, function.domain = node.op_type, node.domain
    elif stored and kind in ("place", "offset"):
        entry = rng.choice(rng.choice(stored).external_data)
        entry.value = rng.choice(
            (
                f"{outside}/config.json",
                "../../outside/config.json",
                "/dev/zero",
                str(2**62),
                "-1",
                "",
                "latentc.json",
            )
        )
    else:
        tensor = rng.choice(model.graph.initializer)
        tensor.dims[:] = rng.choice(([2**40], [-1], [2**31, 2**31], [0], []))
    file.write_bytes(model.SerializeToString())
    return kind


def _openvino_graph(file: Path, outside: Path, rng: random.Random) -> str:
    text = file.read_text("utf-8")
    declaration = r"<\?xml[^>]*\?>"
    pattern, new = rng.choice(
        (
            (r'version="opset\d+"', 'version="extension"'),
            (r'version="opset\d+"', f'version="{outside}/libx.so"'),
            (r'type="\w+" version', 'type="Loop" version'),
            (r'type="\w+" version', 'type="TensorIterator" version'),
            (r'type="\w+" version', 'type="FrameworkNode" version'),
            (r'type="\w+" version', 'type="ReadValue" version'),
            (r'offset="\d+"', f'offset="{2**62}"'),
            (r'offset="\d+"', 'offset="-1"'),
            (r'size="\d+"', f'size="{2**62}"'),
            (r'shape="[\d, ]+"', 'shape="1099511627776"'),
            (declaration, f'<?xml version="1.0"?><!DOCTYPE n [<!ENTITY x SYSTEM "file://{outside}/config.json">]>'),
            (declaration, '<?xml version="1.0"?><!DOCTYPE n [<!ENTITY x "y"><!ENTITY z "&x;&x;&x;&x;">]>'),
            ("<layers>", f'<layers><layer id="9" type="Const" version="opset1"><data file="{outside}"/></layer>'),
        )
    )  # fmt: skip
    places = [match.span() for match in re.finditer(pattern, text)]
    if places:
        start, end = rng.choice(places)
        text = text[:start] + new + text[end:]
    file.write_text(text, encoding="utf-8")
    return new[:60]


def _json_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.json") if path.name != "latentc.json" and _is_object(path))


def _is_object(path: Path) -> bool:
    """Whether it still is what an earlier change can be added to."""
    try:
        return isinstance(json.loads(path.read_text("utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a JSON value, the outermost first."""
    pending = [value]
    while pending:
        inner = pending.pop(0)
        if isinstance(inner, dict):
            yield inner
            pending += inner.values()
        elif isinstance(inner, list):
            pending += inner[:100]


def _placed(value: Any, outside: Path) -> Any:
    """The value with the folder's path where an "@" begins a text."""
    place = outside.as_posix()
    return json.loads(json.dumps(value).replace('"@', f'"{place}').replace("//@", f"//{place}"))


@lru_cache
def _classes(library: str) -> tuple[str, ...]:
    """All that a library offers by a name of a class."""
    import importlib

    return tuple(sorted(name for name in dir(importlib.import_module(library)) if name[:1].isupper()))
