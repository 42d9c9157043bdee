"""Configurations that others wrote, read as data: what in them names code, files or other models does not get through.

transformers and diffusers act on some of a configuration's keys: they fetch an attention kernel and run it, load a
tokenizer from another folder, ask the hub for a backbone, import a repository's own Python. Each such key is in a
table here, with what becomes of it.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from artifacts import strict_json
from artifacts.errors import LatentcError

MAX_DEPTH = 64
"""Objects and lists in each other. Configurations of models have some five."""

MAX_CONFIG = 8 << 20
"""Bytes. Those with many labels have a million."""
MAX_FIGURE = 10**9
"""Of whole numbers: vocabularies have some 300,000, pictures some 10 million pixels, bases of rotations 10 million."""
UNLIMITED = 10**20
"""From here on a number stands for "no limit", as transformers writes it; nothing can be sized by it."""

KERNEL_KEYS = ("attn_implementation", "experts_implementation")
"""Ends of the keys that choose how a module computes (with "_internal" or "_autoset" after them, too)."""
KERNELS = frozenset({None, True, False, "eager", "sdpa", "flex_attention"})
"""What is part of PyTorch. Others are packages, or repositories of the hub that are fetched and run."""

CODE = frozenset({"auto_map", "custom_pipeline", "custom_pipelines"})
"""Keys that name a repository's own Python."""

ELSEWHERE = frozenset({"backbone", "tokenizer", "hf_hub_id", "repo_id", "text_model_id"})
"""Keys whose text names another model, which constructors load; so do all that end as `ELSEWHERE_END`."""
ELSEWHERE_END = "name_or_path"

NOTES = frozenset({"_name_or_path", "name_or_path", "_commit_hash", "init_inputs", "configuration_files"})
"""Keys that say where something once came from, or where its other half lies."""
PATH_ENDS = ("_file", "_files", "_path", "_dir")
"""Ends of the keys whose text is a path on the machine of who saved the configuration."""

LIST_KEY = "latentc_models"
"""Key of our own: the configurations of a component that is a list of models, in order."""

IP_ADAPTERS_KEY = "latentc_ip_adapters"
"""Key of our own: the shapes of the tensors of the IP-Adapters that a module was compiled with."""
SPARE_TOKENS_KEY = "latentc_spare_tokens"
"""Key of our own: the first id of the tokens that a text encoder was compiled to learn later, and their number."""

LABELS = frozenset({"id2label", "label2id"})
"""Keys whose texts are anything at all."""


def is_class_entry(value: object) -> bool:
    """Whether a value of an index (`model_index.json`) is `[library, class]`, and not `[None, None]`."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)


def is_config(path: str) -> bool:
    """Whether a file of a component holds settings, and no vocabulary."""
    name = PurePosixPath(path).name
    return name.endswith(".json") and ("config" in name or name == "special_tokens_map.json")


def read_config(data: bytes, source: str, verified: bool, largest: int = MAX_FIGURE) -> dict[str, Any]:
    """The settings in a file, without those that name something else.

    Args:
        source: the file, for errors.
        verified: whether its artifact's compiler has already left those out: what would be left out of a model's own
            configuration is an error then.
        largest: whole number that it may hold, but for those from `UNLIMITED` on.

    Raises:
        LatentcError: not a JSON object; a figure is too large; or it names a kernel, code or a model to load. The
            message names the key.
    """
    if len(data) > MAX_CONFIG:
        raise LatentcError(f"{source} has {len(data)} bytes; a configuration has at most {MAX_CONFIG}.")
    value = strict_json.loads(data, source, constants=True)
    if not isinstance(value, dict):
        raise LatentcError(f"{source} holds no JSON object, as a configuration does.")
    if "_class_name" in value:
        check_class_name(value["_class_name"], source)
    is_module = PurePosixPath(source.replace("\\", "/")).name == "config.json"
    result: dict[str, Any] = _Cleaner(source, verified, is_module, largest).cleaned(value, "", 0)
    return result


def cleaned(data: bytes, source: str, verified: bool, largest: int = MAX_FIGURE) -> bytes:
    """The file with what `read_config` makes of it; byte for byte the same where nothing is left out."""
    after = read_config(data, source, verified, largest)
    before = strict_json.loads(data, source, constants=True)
    return data if after == before else (json.dumps(after, indent=2) + "\n").encode()


def check_class_name(name: Any, source: str) -> None:
    """Whether a ``_class_name`` names a class, or nothing that is known here; `source` is the file, for errors.

    Raises:
        LatentcError: it names a module or another thing of diffusers, or is no name.
    """
    import diffusers

    if not isinstance(name, str):
        raise LatentcError(f"{source}: '_class_name' is {name!r}, not the name of a class.")
    try:
        cls = getattr(diffusers, name, type)  # Classes of other versions are passed over.
    except (ImportError, RuntimeError):
        return  # It is there, and a library that it needs is not.
    if not isinstance(cls, type):
        raise LatentcError(f"{source}: '_class_name' is {name!r}, which is not a class of diffusers.")


class _Cleaner:
    def __init__(self, source: str, verified: bool, is_module: bool, largest: int) -> None:
        self._source, self._verified, self._is_module = source, verified, is_module
        self._largest = largest

    def cleaned(self, value: Any, at: str, depth: int) -> Any:
        """`value` without what names something else; `at` is its key, for errors."""
        if depth > MAX_DEPTH:
            raise LatentcError(f"{self._source} is nested too deep.")
        if isinstance(value, list):
            return [self.cleaned(v, f"{at}[{i}]", depth + 1) for i, v in enumerate(value)]
        if isinstance(value, int) and self._largest < abs(value) < UNLIMITED:
            raise LatentcError(
                f"{self._source}: '{at}' is {value}; such a figure is at most {self._largest}.",
                "Compile the model again, from a source that you trust.",
            )
        if not isinstance(value, dict):
            return value
        result = {}
        for key, inner in value.items():
            where = f"{at}.{key}" if at else key
            if key in LABELS or not self._left_out(key, inner, where):
                result[key] = inner if key in LABELS else self.cleaned(inner, where, depth + 1)
        return result

    def _left_out(self, key: str, value: Any, where: str) -> bool:
        """Whether an entry is passed over.

        Raises:
            LatentcError: it may be neither passed over nor kept.
        """
        if key.removesuffix("_internal").removesuffix("_autoset").endswith(KERNEL_KEYS):
            self._check_kernel(value, where)
            return True
        if key in CODE and value:
            if self._verified:
                raise self._refused(where, value, "code of another repository")
            return True
        if key in NOTES:
            return True
        if (key in ELSEWHERE or key.endswith(ELSEWHERE_END)) and isinstance(value, str) and value:
            raise self._refused(where, value, "another model, which would be loaded")
        if key.endswith(PATH_ENDS) and isinstance(value, (str, list)):
            return True
        if self._is_module and isinstance(value, str) and _is_path(value):
            if self._verified:
                raise self._refused(where, value, "a path or another repository")
            return True
        return False

    def _check_kernel(self, value: Any, where: str) -> None:
        values = list(value.values()) if isinstance(value, dict) else [value]
        for name in values:
            if isinstance(name, dict):
                self._check_kernel(name, where)
            elif isinstance(name, list) or name not in KERNELS:
                raise self._refused(where, name, "an attention kernel that is not PyTorch's own")

    def _refused(self, where: str, value: Any, kind: str) -> LatentcError:
        if self._verified:
            return LatentcError(
                f"{self._source}: '{where}' is {_brief(value)}: {kind}. An artifact is data alone.",
                "Compile the model again, from a source that you trust.",
            )
        return LatentcError(
            f"{self._source}: '{where}' is {_brief(value)}: {kind}. latentc fetches and runs none.",
            f"Where the model works without it, remove '{where}' from that file.",
        )


def _is_path(text: str) -> bool:
    """Whether a text could name a file or a repository; special tokens ("</s>") do not."""
    return ("/" in text or "\\" in text) and not text.startswith("<")


def _brief(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
