"""A compiled component: the module's own class without its weights, whose compiled methods run in sessions.

Pipelines ask their modules for more than `forward`: isinstance checks, `config`, attributes of submodules. A
module built on the meta device has all of that and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.contents import Contents, contents
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import ComponentRecord, MethodRecord
from artifacts.pinned import Pinned
from runtimes import placing_methods, spare_tokens
from runtimes.changes import CHANGES, HINT, Changes, changes_of, loaders, watched
from runtimes.compiled_method import CallRoute, CompiledMethod, Runner, Tiler
from runtimes.configs import IP_ADAPTERS_KEY, LIST_KEY, SPARE_TOKENS_KEY, cleaned, read_config
from runtimes.forecaster import Forecaster
from runtimes.ip_adapters import put_shapes
from runtimes.meter import Meter
from runtimes.module_state import Watch
from runtimes.pipeline_parts import making, private_copy
from runtimes.residual import put_residual
from runtimes.resource_limits import SPARE_WEIGHTS
from runtimes.tiles import Tiling
from runtimes.tiling_switch import SWITCH, TILING_METHODS, TilingSwitch
from runtimes.trusted_classes import is_list, list_of_models, module_class
from runtimes.writes import count_writes

if TYPE_CHECKING:
    import torch

# Methods that would put other weights into a module, beside those of adapters: a compiled one has none to change, and
# a pipeline whose LoRA silently does nothing is worse than an error.
WEIGHT_METHODS = ("resize_token_embeddings", "load_state_dict", "save_pretrained")

WEIGHTS_A_BYTE = 16
"""How many weights a shell may stand for, for each byte of the artifact, beside `SPARE_WEIGHTS`."""

_WATCH = "_latentc_watch"


@contextmanager
def undone_on_failure(shells: Iterable[Any]) -> Iterator[None]:
    """A call of the pipeline that fails leaves nothing set on its shells that was not set before."""
    shells = list(shells)
    watches: list[Watch] = [getattr(shell, _WATCH) for shell in shells]
    before = [watch.changed() for watch in watches]
    with ExitStack() as stack:
        for shell in shells:
            stack.enter_context(changes_of(shell).suspended())
        try:
            yield
        except BaseException:
            for watch, changed in zip(watches, before, strict=True):
                watch.put_back(changed)
            raise


def _none() -> None:
    return None


def build_shell(
    record: ComponentRecord,
    root: Path | Contents,
    runner: Runner,
    meter: Callable[[], Meter],
    forecaster: Callable[[], Forecaster | None] = _none,
    tiling: Callable[[], Tiling] = Tiling,
    tiler: Tiler | None = None,
) -> torch.nn.Module:
    """The shell of one component.

    Args:
        record: the component, from the manifest.
        root: the artifact's files, for `record.config` and `record.residual`.
        runner: runs graphs.
        meter: gives the meter of the `generate` that is under way.
        forecaster: gives what may answer calls in place of the runner; None where nothing does.
        tiling: gives how the call that is under way makes pictures in tiles.
        tiler: makes of it what fits the memory, and such calls; None: tiles are calls of the graph, and are blended.

    Raises:
        LatentcError: the class is not trusted or has no such method, or its config does not build it.
    """
    cls = module_class(record.class_path)
    files = contents(root)
    # A weight takes a bit of some graph's file at least. Graphs leave out parts of modules, so there is room.
    elements = WEIGHTS_A_BYTE * files.size + SPARE_WEIGHTS if isinstance(files, Pinned) else None
    paths = {path for m in record.methods if (path := m.method.rpartition(".")[0])}
    with making(cls, files.shown(record.config), elements, files.read(record.config)):
        python = bool(paths) or not record.methods  # Code of its own runs, on tensors of its own.
        module = (_without_memory if python else _on_meta)(cls, files, record.config)
    module.eval().requires_grad_(False)
    if record.residual is not None:
        with private_copy(files.read(record.residual), "residual.safetensors") as file:
            put_residual(module, file)
    module.__class__ = _shell_class(cls, record.name)
    split = _split(module, paths, record)
    _guard(module, record, split)
    changes = Changes(record.name, [method.state for method in record.methods])
    if not split:  # A module whose own Python runs sets on itself what it likes.
        watched(module, changes)
    module.__class__ = _alike(type(module), cls, changes)
    by_method: dict[str, list[MethodRecord]] = {}
    for method in record.methods:
        by_method.setdefault(method.method, []).append(method)
    owners = {name: _owner(module, name, record) for name in by_method}
    ours: dict[int, list[str]] = {id(module): [_WATCH, SWITCH]}
    for name, owner in owners.items():
        ours.setdefault(id(owner), []).append(name.rpartition(".")[2])
    watch = Watch(module, ours, count_writes(module))
    object.__setattr__(module, _WATCH, watch)
    switch = TilingSwitch()
    object.__setattr__(module, SWITCH, switch)
    route = CallRoute(record.name, runner, meter, forecaster, tiling, tiler, switch, watch)
    for name, records in by_method.items():
        owner = owners[name]
        owner_class = cls if owner is module else type(owner)
        # A class without this method is an error now, not at the first call.
        compiled = CompiledMethod(owner_class, owner, name, records, route)
        object.__setattr__(owner, name.rpartition(".")[2], compiled.function())
    changes.watch = watch
    return module


def _split(module: torch.nn.Module, paths: Collection[str], record: ComponentRecord) -> set[str]:
    """The paths of the modules whose own Python runs, between the graphs of what they call.

    They and those that they call look as the component itself does: on the CPU, and in fp32.
    """
    above = {"" if "." not in path else path.rpartition(".")[0] for path in paths}
    while more := {path.rpartition(".")[0] for path in above if path} - above:
        above |= more
    for path in sorted((above | set(paths)) - {""}):
        part = _owner(module, f"{path}.forward", record)
        if isinstance(getattr(type(part), "device", None), property):
            part.__class__ = _shell_class(type(part), record.name)
    return above


def _owner(module: torch.nn.Module, method: str, record: ComponentRecord) -> torch.nn.Module:
    try:
        return module.get_submodule(method.rpartition(".")[0])
    except AttributeError as error:
        raise LatentcError(
            f"the manifest names the method '{method}' of '{record.name}': {error}."
        ) from error


def _on_meta(cls: type, files: Contents, config: str) -> torch.nn.Module:
    """An instance of `cls` with its parameters, and all tensors that it makes, on the meta device."""
    import torch

    try:
        with torch.device("meta"):
            return _from_config(cls, files, config)
    except (NotImplementedError, RuntimeError):
        # A constructor that reads the values of tensors it makes (`.item()` of a linspace).
        return _without_memory(cls, files, config)


def _without_memory(cls: type, files: Contents, config: str) -> torch.nn.Module:
    """An instance of `cls` whose parameters are freed as soon as they are made; other tensors keep their values."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return _from_config(cls, files, config)


def _from_config(cls: Any, files: Contents, config: str) -> torch.nn.Module:
    import torch

    data, shown = files.read(config), files.shown(config)
    if getattr(cls, "config_class", None) is None:
        config_of = read_config(data, shown, files.verified)
        if is_list(cls):
            return list_of_models(cls, config_of.get(LIST_KEY, ()))  # type: ignore[no-any-return]
        ip_adapters = config_of.pop(IP_ADAPTERS_KEY, None)
        module: torch.nn.Module = cls.from_config(config_of)
        if ip_adapters is not None:
            put_shapes(module, ip_adapters)
        return module
    with private_copy(cleaned(data, shown, files.verified), "config.json") as file:
        parsed = cls.config_class.from_pretrained(str(file.parent), local_files_only=True)
    # "eager", also where a configuration does not say: nothing is chosen by what is installed here.
    encoder: torch.nn.Module = cls._from_config(parsed, dtype=torch.float32, attn_implementation="eager")
    spare = read_config(data, shown, files.verified).get(SPARE_TOKENS_KEY)
    if spare is not None:
        spare_tokens.put(encoder, *spare)
    return encoder


def _shell_class(cls: type, component: str) -> type:
    """A subclass of `cls` under the same name: on the CPU and in fp32 for whoever asks, and never moved."""
    import torch

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise UsageError(
            f"'{component}' is compiled: its weights cannot be changed or saved.",
            HINT,
        )

    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "device": property(lambda self: torch.device("cpu")),
        "dtype": property(lambda self: torch.float32),
        **dict.fromkeys(placing_methods.MOVES, stay),
        **{name: stay for name in placing_methods.OF_MODULES if hasattr(cls, name)},
        **{name: method for name, method in TILING_METHODS.items() if hasattr(cls, name)},
        **{name: refuse for name in (*WEIGHT_METHODS, *loaders(cls)) if hasattr(cls, name)},
    }
    return type(cls.__name__, (cls,), body)


def _alike(shell: Any, cls: type, changes: Changes) -> type:
    """A subclass of `shell` that equals `cls`: `from_pipe` takes components of exactly the classes it wants."""

    def equal(self: Any, other: object) -> bool:
        return self is other or other is cls

    meta: Any = type("Alike", (type(shell),), {"__eq__": equal, "__hash__": lambda self: hash(cls)})
    body = {"__module__": shell.__module__, "__qualname__": shell.__qualname__, CHANGES: changes}
    return meta(shell.__name__, (shell,), body)  # type: ignore[no-any-return]


def _guard(module: torch.nn.Module, record: ComponentRecord, split: Collection[str]) -> None:
    """Makes a submodule without weights say so when something that was not compiled calls it.

    Args:
        split: paths of the modules whose own Python runs; what they read of their weights is there.
    """

    def missing(inner: Any, args: Any) -> None:
        methods = ", ".join(sorted({m.method for m in record.methods}))
        raise LatentcError(
            f"the pipeline called a part of '{record.name}' ({type(inner).__name__}) that is not compiled "
            f"(compiled: {methods}).",
            "Compile the model with the --task that needs it.",
        )

    captured = {m.method.rpartition(".")[0] for m in record.methods if m.method.endswith("forward")}
    for name, inner in module.named_modules():
        if (
            name not in captured
            and name not in split
            and any(p.is_meta for p in inner.parameters(recurse=False))
        ):
            inner.register_forward_pre_hook(missing)
