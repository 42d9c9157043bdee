"""Files of IP-Adapters, read by the pipeline's own loader over tensors that record."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from artifacts.errors import LatentcError
from artifacts.named_files import no_file
from artifacts.safetensors_header import require_safetensors
from compiler.origins.recorded import Recorded, some
from compiler.origins.stored_file import stored_tensors
from targets.graph.weights import Origin, Stored


@dataclass(frozen=True, eq=False)
class IpAdapterFile:
    """One file; `tensors` are in diffusers' two groups, "image_proj" and "ip_adapter", by the names that its modules
    take."""

    file: Path
    tensors: Mapping[str, Mapping[str, Origin]]

    def state(self) -> dict[str, dict[str, Any]]:
        """The tensors as such that record."""
        return {
            group: {name: Recorded(origin) for name, origin in tensors.items()}
            for group, tensors in self.tensors.items()
        }

    def shapes(self) -> dict[str, dict[str, list[int]]]:
        """The tensors' shapes; JSON-compatible."""
        return {
            group: {name: list(origin.shape) for name, origin in tensors.items()}
            for group, tensors in self.tensors.items()
        }


def read(pipeline: type, file: Path) -> IpAdapterFile:
    """A file as the pipeline's `load_ip_adapter` reads it, headers only.

    Raises:
        LatentcError: it is no IP-Adapter, or holds more than diffusers' module takes; the pipeline takes none.
    """
    loader: Any = getattr(pipeline, "load_ip_adapter", None)
    if loader is None:
        raise LatentcError(f"--ip-adapter: diffusers loads no IP-Adapter into a {pipeline.__name__}.")
    if not file.is_file():
        raise LatentcError(*no_file("--ip-adapter", file))
    require_safetensors(file)
    if file.suffix != ".safetensors":
        raise LatentcError(f"--ip-adapter: {file} is no .safetensors file.", "Get it as safetensors.")
    stored = stored_tensors([file])
    states: list[Any] = []
    part = SimpleNamespace(
        _load_ip_adapter_weights=lambda weights, **options: states.append(weights),
        _load_ip_adapter_loras=lambda weights: {},
    )
    pretended = SimpleNamespace(unet=part, transformer=part, unet_name="unet", transformer_name="transformer")
    with _opening(sys.modules[inspect.unwrap(loader).__module__], stored):
        loader(
            pretended,
            pretrained_model_name_or_path_or_dict=str(file.parent),
            subfolder="",
            weight_name=file.name,
            local_files_only=True,
        )
    state = states[0][0] if isinstance(states[0], list) else states[0]
    tensors = {group: {n: t.origin for n, t in named.items()} for group, named in state.items()}
    if not all(tensors.values()):
        raise LatentcError(
            f"--ip-adapter: {file.name} is no IP-Adapter: it has tensors of {some(sorted(stored)) or 'nothing'}.",
            "Give the file of an IP-Adapter for this model, e.g. ip-adapter_sd15.safetensors",
        )
    return IpAdapterFile(file, tensors)


def require_all_used(adapters: tuple[IpAdapterFile, ...], used: set[Origin]) -> None:
    """Refuses a file some of whose tensors became part of no weight.

    Raises:
        LatentcError: names them.
    """
    for adapter in adapters:
        names = [
            n for tensors in adapter.tensors.values() for n, origin in tensors.items() if origin not in used
        ]
        if names:
            loras = any("lora" in name for name in names)
            raise LatentcError(
                f"--ip-adapter: {len(names)} tensors of {adapter.file.name} find no weight in this model: "
                f"{some(names)}.",
                "It holds a LoRA, too (a Face ID adapter), which is not taken: use another IP-Adapter."
                if loras
                else "It is of another model.",
            )


@contextmanager
def _opening(module: Any, stored: Mapping[str, Stored]) -> Iterator[None]:
    """While it is open, a loader that opens a file gets tensors that record."""

    class Opened:
        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def keys(self) -> list[str]:
            return list(stored)

        def get_tensor(self, key: str) -> Any:
            return Recorded(stored[key])

    with mock.patch.object(module, "safe_open", Opened):
        yield
