"""Polygraphy's runners for the three ways to compute a graph, and its comparator: values beside their reference."""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.errors import LatentcError
from artifacts.manifest import Built
from artifacts.temporary import private_folder
from compiler.evidence.bisection import Measured
from compiler.evidence.metrics import comparable, relative_error
from runtimes.sessions.session_contract import GraphFormat, SessionFactory

if TYPE_CHECKING:
    from polygraphy.backend.base import BaseRunner

    Opens = Callable[[Sequence[str]], BaseRunner]
    """Makes a runner whose outputs are the graph's own and the values of these names."""

INSTALL = 'pip install "latentc[debug]"'

Feed = Mapping[str, np.ndarray]


def missing() -> str:
    """What to install for errors to be located; empty when it is here."""
    return "" if util.find_spec("polygraphy") is not None else INSTALL


def onnx_runtime(model_file: Path, values: frozenset[str]) -> Opens:
    """An ONNX file in ONNX Runtime, on the CPU, by Polygraphy's own runner.

    Args:
        values: those of the file that can be outputs.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner

    from runtimes.sessions.onnx_format import ONNX
    from runtimes.sessions.onnxruntime import SESSION, inference_session

    class FileRunner(OnnxrtRunner):
        def __init__(self, names: Sequence[str]) -> None:
            super().__init__(self._load, name="ONNX Runtime")
            self._names = [name for name in names if name in values]
            self._files = ExitStack()

        def _load(self) -> Any:
            marked = self._files.enter_context(_marked(ONNX, model_file, self._names))
            return inference_session(marked, "cpu", SESSION.target)

        def deactivate_impl(self) -> None:
            super().deactivate_impl()
            self._files.close()

    return FileRunner


def session(
    factory: SessionFactory,
    form: GraphFormat | None,
    model_file: Path,
    device: str,
    compute: str,
    built: Built,
    values: frozenset[str],
) -> Opens:
    """A target's own session, whatever it is.

    Args:
        form: how its file gets further outputs; None where that is not known.
        values: those of the file that can be outputs.
    """
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    class SessionRunner(BaseRunner):
        def __init__(self, names: Sequence[str]) -> None:
            super().__init__(name=factory.target)
            self._names = [name for name in names if name in values]
            self._files = ExitStack()

        def activate_impl(self) -> None:
            marked = self._files.enter_context(_marked(form, model_file, self._names))
            self._session = factory.open(marked, device, compute, None, built)

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for name, spec in self._session.inputs.items():
                shape = [size if isinstance(size, int) else None for size in spec.shape]
                metadata.add(name, dtype=np.dtype(spec.dtype), shape=shape)
            return metadata

        def infer_impl(self, feed_dict: Feed) -> OrderedDict[str, np.ndarray]:
            start = time.perf_counter()
            inputs = {name: np.asarray(feed_dict[name], order="C") for name in self._session.inputs}
            outputs = OrderedDict(self._session.run(inputs))
            self.inference_time = time.perf_counter() - start
            return outputs

        def deactivate_impl(self) -> None:
            self._session.close()
            del self._session
            self._files.close()

    return SessionRunner


def module(loaded: Callable[[], Any], outputs: Sequence[str], results: Mapping[str, str]) -> Opens:
    """A module in PyTorch, what its inner modules return by hooks.

    Args:
        loaded: makes a `compiler.capture.calls.MethodCall`; called when it is needed.
        outputs: names of the call's results, in their order.
        results: value -> path of the module that returns it.
    """
    import torch
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    from compiler.capture import trees

    class ModuleRunner(BaseRunner):
        def __init__(self, names: Sequence[str]) -> None:
            super().__init__(name="PyTorch")
            self._wanted = {results[name]: name for name in names if name in results}

        def activate_impl(self) -> None:
            self._returned: dict[str, list[Any]] = {}
            self._hooks = [
                inner.register_forward_hook(self._keep(path))
                for path, inner in loaded().module.named_modules()
                if path in self._wanted
            ]

        def _keep(self, path: str) -> Any:
            def hook(inner: Any, inputs: Any, result: Any) -> None:
                self._returned.setdefault(path, []).append(result)

            return hook

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for spec in loaded().method.inputs:
                metadata.add(spec.name, dtype=np.dtype(spec.dtype), shape=[None] * len(spec.shape))
            return metadata

        def infer_impl(self, feed_dict: Feed) -> OrderedDict[str, np.ndarray]:
            call = loaded()
            start = time.perf_counter()
            self._returned.clear()
            with torch.no_grad():
                tensors = [
                    torch.from_numpy(np.ascontiguousarray(feed_dict[s.name])) for s in call.method.inputs
                ]
                returned = OrderedDict(zip(outputs, map(_array, call(*tensors)), strict=True))
            for path, name in self._wanted.items():
                tensors = [leaf for result in self._returned.get(path, []) for leaf in trees.leaves(result)]
                if len(tensors) == 1:  # A module that is called twice, or returns two, has no one result.
                    returned[name] = _array(tensors[0])
            self.inference_time = time.perf_counter() - start
            return returned

        def deactivate_impl(self) -> None:
            for hook in self._hooks:
                hook.remove()
            self._returned.clear()

    return ModuleRunner


def _array(tensor: Any) -> np.ndarray:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    array: np.ndarray = wide.numpy()
    return array


@contextmanager
def _marked(form: GraphFormat | None, model_file: Path, names: Sequence[str]) -> Iterator[Path]:
    """The file with further outputs, as long as a session has it open. Its folder has the name of the graph's."""
    if form is None or not names:
        yield model_file
        return
    beside = model_file.parent.parent
    # A folder on the artifact's own disk holds links to its weights rather than copies.
    with private_folder(beside if _writable(beside) else None) as place:
        folder = place / model_file.parent.name
        folder.mkdir()
        yield form.with_outputs(model_file, names, folder)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def measuring(
    reference: Opens, other: Opens, feed: Feed, always: Sequence[str]
) -> Callable[[Sequence[str]], dict[str, Measured]]:
    """Measures values that both runners return, in one run of each.

    Args:
        always: the graph's own outputs, which both return whatever is asked for.
    """
    from polygraphy.comparator import Comparator
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    def measure(names: Sequence[str]) -> dict[str, Measured]:
        inner = [name for name in names if name not in always]
        measured: dict[str, Measured] = {}

        def compare(theirs: Any, ours: Any) -> OrderedDict[str, bool]:
            for name in names:
                if name in theirs and name in ours and _comparable(theirs[name], ours[name]):
                    measured[name] = _measured(theirs[name], ours[name])
            return OrderedDict((name, True) for name in measured)

        with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):
            try:
                results = Comparator.run([reference(inner), other(inner)], data_loader=[OrderedDict(feed)])
                Comparator.compare_accuracy(results, compare_func=compare)
            except PolygraphyException as error:
                raise LatentcError(f"the graph cannot be looked into: {error}") from error
        return measured

    return measure


def _comparable(theirs: np.ndarray, ours: np.ndarray) -> bool:
    same = theirs.shape == ours.shape and all("float" in array.dtype.name for array in (theirs, ours))
    return same and comparable(theirs)


def _measured(theirs: np.ndarray, ours: np.ndarray) -> Measured:
    with np.errstate(invalid="ignore", over="ignore"):
        peak = np.abs(theirs[np.isfinite(theirs)]).max(initial=0)
        return Measured(relative_error(ours, theirs), float(peak), bool(np.isfinite(ours).all()))
