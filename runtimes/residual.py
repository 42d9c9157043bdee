"""The few small tensors of a component that pipelines read outside compiled methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artifacts.errors import LatentcError
from artifacts.safetensors_header import read_header


def put_residual(module: Any, file: Path) -> None:
    """Puts the tensors of a safetensors file in place of those parameters and buffers of `module`.

    Raises:
        LatentcError: the file is malformed, or `module` has no such tensor or one of another shape.
    """
    import torch
    from safetensors import safe_open

    read_header(file)  # The safetensors library lets a doubled name pass.
    with safe_open(str(file), framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dict)
            path, _, leaf = name.rpartition(".")
            try:
                owner = module.get_submodule(path)
                old = getattr(owner, leaf)
            except AttributeError as error:
                raise LatentcError(f"{file}: the module has no tensor '{name}'.") from error
            new = tensors.get_tensor(name)
            if not isinstance(old, torch.Tensor) or old.shape != new.shape:
                raise LatentcError(
                    f"{file}: '{name}' is {list(new.shape)}; the module has {getattr(old, 'shape', old)}."
                )
            if leaf in owner._parameters:
                owner._parameters[leaf] = torch.nn.Parameter(new, requires_grad=False)
            elif leaf in owner._buffers:
                owner._buffers[leaf] = new
            else:
                object.__setattr__(owner, leaf, new)
