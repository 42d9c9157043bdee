"""An artifact that draws, and whose LoRAs can be switched: `load` and `Pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, cast

from artifacts.argument_types import typed
from artifacts.foreseen import foreseen
from artifacts.manifest import WeightRecord
from artifacts.pinned import Pinned
from latentc.api import sources
from latentc.api.sources import Loras
from runtimes import pipeline
from runtimes.notebook import notebook_bars

if TYPE_CHECKING:
    from compiler.adaptable.switch import AdaptableArtifact

P = ParamSpec("P")


class Pipeline(pipeline.Pipeline):
    __doc__ = pipeline.Pipeline.__doc__
    _adaptable: AdaptableArtifact | None = None
    """Read when LoRAs are set for the first time."""

    @typed
    def set_loras(self, loras: Loras, partial: bool = False) -> tuple[WeightRecord, ...]:
        """Switches to these LoRAs, in the place of those that were set before; `{}` for none.

        Their differences are added to the artifact's constants, in memory, and the graphs are opened anew: a step takes
        as long as without. Weights in fewer bits are quantized again. The artifact was compiled with `--adaptable`.

        Args:
            loras: file -> weight ({"style.safetensors": 0.8}), or weight by component ({"style.safetensors": {"unet":
                0.8, "text_encoder": 0}}); or files, as of `latentc.compile`. A weight of 0 changes no bit.
            partial: leave tensors that find no weight in the model out; otherwise they are an error.

        Returns:
            A record for each weight that was quantized again, with its error (`artifacts.manifest.WeightRecord`).

        Raises:
            UsageError: the artifact is not adaptable, a weight is no finite number, a file is given twice, or there
                is no such component.
            LatentcError: a file cannot be read or is not of this model. The pipeline draws with what it had.
        """
        adapters = sources.adapters(loras) or ()
        with self._lock, foreseen(), notebook_bars(self._progress) as progress:
            from compiler.adaptable.switch import AdaptableArtifact, switched

            if self._adaptable is None:
                assert isinstance(self._files, Pinned)
                self._adaptable = AdaptableArtifact.of(self._files.root, self.manifest, self._files)
            if not adapters:
                self._graphs.replace({}, ())
                return ()
            replaced = switched(self._adaptable, adapters, partial, progress)
            self._graphs.replace(replaced.constants, replaced.adapters)
            return replaced.quantized


def _drawing(function: Callable[P, pipeline.Pipeline]) -> Callable[P, Pipeline]:
    """The same function, whose pipelines are this module's."""

    def load(*args: P.args, **kwargs: P.kwargs) -> Pipeline:
        return cast(Pipeline, function(*args, **{"kind": Pipeline, **kwargs}))  # type: ignore[arg-type]

    load.__doc__ = function.__doc__
    load.__wrapped__ = function  # type: ignore[attr-defined]
    return load


load = _drawing(pipeline.load)
Pipeline.from_pretrained = staticmethod(load)
