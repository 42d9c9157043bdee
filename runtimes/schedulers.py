"""Another scheduler for one call: any of diffusers', by its class name and options, that the pipeline can use."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from artifacts.error_text import first_lines, value_text
from artifacts.errors import LatentcError, UsageError
from runtimes.generate_options import parse_value
from runtimes.pipeline_parts import MAX_TIMESTEPS
from runtimes.resource_limits import bounded

# Commas in brackets belong to a value, such as a list of betas.
_OPTION = re.compile(r"\s*([^=,\[\]]+?)\s*=\s*((?:\[[^\]]*\]|[^,\[\]])*)\s*(?:,|$)")
_OTHER_VALUES = "Give its options other values, or none: --scheduler CLASS"
_PYTHON = {"True": True, "False": False, "None": None}


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """``"EulerDiscreteScheduler:use_karras_sigmas=true,sigma_min=0.1"`` -> the class name and its options.

    A value is JSON where it is JSON, else the text itself.

    Raises:
        UsageError: not of that form, or one option twice.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    end = 0
    for match in _OPTION.finditer(rest):
        if match.start() != end:
            break
        end = match.end()
        if match[1] in options:
            raise UsageError(f"the scheduler's option '{match[1]}' is given twice.")
        options[match[1]] = _value(match[2])
    if not name.strip() or end != len(rest) or (colon and not options):
        raise UsageError(
            f"a scheduler is written CLASS or CLASS:OPTION=VALUE,...; found '{text}'.",
            "For instance: --scheduler DPMSolverMultistepScheduler:use_karras_sigmas=true",
        )
    return name.strip(), options


def _value(text: str) -> Any:
    return _PYTHON[text] if text in _PYTHON else parse_value(text, "--scheduler")


def make_scheduler(pipeline: Any, text: str) -> Any:
    """A scheduler as `text` says (see `parse`); what it does not say is as in the pipeline's own.

    Raises:
        UsageError: diffusers has no such scheduler, it has no such option or no such value of it, it needs a package
            that is not here, or the pipeline has no scheduler to replace.
    """
    name, options = parse(text)
    own = _own(pipeline)
    cls = _scheduler_class(name, own)
    _check_options(cls, options)
    try:
        with bounded(f"{name} with these options"):
            return cls.from_config(own.config, **options)
    except LatentcError as error:
        raise UsageError(error.message, _OTHER_VALUES) from error
    except Exception as error:  # Dozens of classes, whose constructors refuse options in as many ways.
        raise UsageError(
            f"{name} cannot be made with the configuration of {_name(own)}: {first_lines(error)}",
            _OTHER_VALUES,
        ) from error


def check_scheduler(value: Any) -> None:
    """Raises UsageError for what is no scheduler: none of diffusers', and nothing that makes steps as they do."""
    from diffusers import SchedulerMixin

    if isinstance(value, SchedulerMixin):
        return
    if isinstance(value, type) or not all(
        callable(getattr(value, name, None)) for name in ("step", "set_timesteps")
    ):
        raise UsageError(
            f"a scheduler is one of diffusers'; found {value_text(value)}.",
            "For instance: EulerDiscreteScheduler.from_config(pipe.scheduler.config); generate takes its name, too.",
        )


def _own(pipeline: Any) -> Any:
    own = getattr(pipeline, "scheduler", None)
    if own is None:
        raise UsageError(f"{type(pipeline).__name__} has no scheduler to replace.")
    return own


class Schedulers:
    """Schedulers for one pipeline's calls. The last that was asked for is kept as it was made, and copied: that takes a
    tenth of the time that making it does, which a picture of a small model shows."""

    def __init__(self) -> None:
        self._text = ""
        self._config: Any = None
        self._made: Any = None

    def make(self, pipeline: Any, scheduler: Any) -> Any:
        """As `make_scheduler`, of a text; of a scheduler itself, a copy.

        Raises:
            UsageError: as `make_scheduler`, or it is neither.
        """
        if not isinstance(scheduler, str):
            check_scheduler(scheduler)
            _own(pipeline)
            return copy.deepcopy(scheduler)
        text = scheduler
        config = getattr(getattr(pipeline, "scheduler", None), "config", None)
        # A configuration is frozen: one that has changed is another object.
        if text != self._text or config is None or config is not self._config:
            self._made = make_scheduler(pipeline, text)
            self._text, self._config = text, config
        return copy.deepcopy(self._made)


def _scheduler_class(name: str, own: Any) -> Any:
    import diffusers
    from diffusers import SchedulerMixin

    cls = getattr(diffusers, name, None)
    if missing := getattr(cls, "_backends", None):  # What stands for a class whose packages are not here.
        raise UsageError(
            f"'{name}' needs packages that are not here: {', '.join(missing)}.",
            f"Install them: pip install {' '.join(p for p in missing if p != 'torch')}",
        )
    if isinstance(cls, type) and issubclass(cls, SchedulerMixin) and hasattr(cls, "step"):
        return cls
    names = [n for n in dir(diffusers) if n.endswith("Scheduler")]
    near = difflib.get_close_matches(name, names, n=1)
    usual = ", ".join(sorted({c.__name__ for c in own.compatibles} | {_name(own)}))
    raise UsageError(
        f"diffusers {diffusers.__version__} has no scheduler '{name}' (in place of {_name(own)} there are: {usual}).",
        f"Did you mean '{near[0]}'?" if near else "",
    )


def _check_options(cls: type, options: Mapping[str, Any]) -> None:
    parameters = {
        n: p
        for n, p in inspect.signature(cls).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    for option, value in options.items():
        if option not in parameters:
            near = difflib.get_close_matches(option, parameters, n=1)
            raise UsageError(
                f"{cls.__name__} has no option '{option}' (it has: {', '.join(parameters)}).",
                f"Did you mean '{near[0]}'?" if near else "",
            )
        for figure in _figures(value):
            if abs(figure) > MAX_TIMESTEPS:
                raise UsageError(
                    f"the option '{option}' of {cls.__name__} is {figure}; it is at most {MAX_TIMESTEPS}."
                )
        default = parameters[option].default
        if value is None or default is None or default is inspect.Parameter.empty:
            continue
        # A text where a switch or a number belongs would count as "on", or fail deep inside a step.
        if isinstance(default, bool):
            right, kind = isinstance(value, bool), "true or false"
        elif isinstance(default, (int, float)):
            right, kind = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
        elif isinstance(default, str):
            right, kind = isinstance(value, str), "a text"
        else:
            continue
        if not right:
            raise UsageError(f"the option '{option}' of {cls.__name__} is {kind}; found {value!r}.")


def _figures(value: Any) -> Iterator[int]:
    """The whole numbers of a value: they size tables."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, int):
            yield inner
        elif isinstance(inner, (list, dict)):
            pending += inner if isinstance(inner, list) else inner.values()


@contextmanager
def blamed(pipeline: Any) -> Iterator[None]:
    """While it is open, what the pipeline's scheduler fails at is a UsageError: it does not fit the pipeline.

    Whether it does is not written down anywhere: the pipeline calls what it needs, and other errors pass as they are.
    """
    scheduler = pipeline.scheduler
    try:
        yield
    except LatentcError:
        raise
    except Exception as error:
        if not _of_scheduler(error, scheduler):
            raise
        raise UsageError(
            f"{_name(scheduler)} cannot be used by {type(pipeline).__name__} in this call: {first_lines(error)}"
        ) from error


AfterStep = Callable[[Any, Any, Any], None]
"""Is told a scheduler, the timestep of the step that it has made, and what that returned."""


_TOLD = "_latentc_after_step"
"""What an instance of a watched class tells: a tuple of plain functions, which copies of the instance share."""


@functools.cache
def _watched(cls: Any) -> type:
    """`cls` under its own name, whose `step` also tells what its instance has as `_TOLD`.

    A class, as pipelines and `generate` copy schedulers: it goes with the copies. One for all runs: each class is a
    cycle, and would keep what it tells until all of the process's objects are looked at.
    """
    inner: Any = getattr(cls, "step")  # noqa: B009

    @functools.wraps(inner)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        for tell in getattr(self, _TOLD, ()):
            tell(self, args[1] if len(args) > 1 else kwargs.get("timestep"), result)
        return result

    return type(cls.__name__, (cls,), {"__module__": cls.__module__, "step": step})


def schedulers_of(pipelines: Iterable[Any]) -> list[Any]:
    """The schedulers of pipelines, each once, that make steps."""
    from diffusers import SchedulerMixin

    values = {id(value): value for pipe in pipelines for value in vars(pipe).values()}
    return [
        value for value in values.values() if isinstance(value, SchedulerMixin) and hasattr(value, "step")
    ]


@contextmanager
def watching(schedulers: Iterable[Any], after: AfterStep) -> Iterator[None]:
    """While it is open, `after` is told of each step of the schedulers and of their copies, as who watches already."""

    def tell(scheduler: Any, timestep: Any, result: Any) -> None:
        after(scheduler, timestep, result)

    before: list[tuple[Any, Any, tuple[AfterStep, ...]]] = [
        (scheduler, type(scheduler), getattr(scheduler, _TOLD, ())) for scheduler in schedulers
    ]
    for scheduler, cls, told in before:
        setattr(scheduler, _TOLD, (*told, tell))
        scheduler.__class__ = cls if told else _watched(cls)
    try:
        yield
    finally:
        for scheduler, cls, told in before:
            scheduler.__class__ = cls
            if told:
                setattr(scheduler, _TOLD, told)
            else:
                delattr(scheduler, _TOLD)


def _of_scheduler(error: Exception, scheduler: Any) -> bool:
    """Whether an error was raised in the scheduler's code, or by the way that the pipeline used it."""
    # An attribute that is not there, or a method that is called with what it does not take.
    if getattr(error, "obj", None) is scheduler or _name(scheduler) in str(error):
        return True
    own = {
        cls.__module__ for cls in type(scheduler).__mro__ if cls.__module__.startswith("diffusers.schedulers")
    }
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") in own:
            return True
        trace = trace.tb_next
    return False


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__
