"""An object that answers for the diffusers pipeline that it holds: what it does not have itself is that pipeline's."""

from __future__ import annotations

import functools
from typing import Any


class AsDiffusers:
    """Attributes and methods that the class does not have are those of ``self.diffusers``, once that is set.

    Names that begin with an underscore are set on the object itself.
    """

    def __getattr__(self, name: str) -> Any:
        pipe = self.__dict__.get("diffusers")
        if pipe is None or name.startswith("__"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        value = getattr(pipe, name)
        if getattr(value, "__self__", None) is not pipe:
            return value

        @functools.wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            return self if result is pipe else result

        return method

    def __setattr__(self, name: str, value: Any) -> None:
        """What diffusers' pipeline has and this class has not is set there (``pipe.vae = another``)."""
        pipe = self.__dict__.get("diffusers")
        own = name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)
        if own or pipe is None or not hasattr(pipe, name):
            super().__setattr__(name, value)
        else:
            setattr(pipe, name, value)
