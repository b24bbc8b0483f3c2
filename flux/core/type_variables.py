"""The type variables of public classes. Each has a default, so that `flux.Task` is a `flux.Task[Any]`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import TypeVar

    V = TypeVar("V", default=Any)
    V_co = TypeVar("V_co", default=Any, covariant=True)
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    V = TypeVar("V")  # defaults need Python 3.13
    V_co = TypeVar("V_co", covariant=True)
    R = TypeVar("R")
