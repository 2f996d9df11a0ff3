"""Search methods as type checkers see them: an argument with its name, and settings as keywords.

A `ParamSpec` stands for the settings, so that they are declared once, in `Settings`. It can follow
a named argument only in the `__call__` of a protocol, hence one for each name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from mmsearch.search.settings import Settings, takes_settings

P = ParamSpec("P")
Argument_contra = TypeVar("Argument_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

Method = Callable[[Any, Argument_contra, Settings], Result_co]


class _ByQuery(Protocol[Argument_contra, P, Result_co]):
    def __call__(self, query: Argument_contra, *_: P.args, **settings: P.kwargs) -> Result_co: ...


class _ByAnyQuery(Protocol[Argument_contra, P, Result_co]):
    def __call__(
        self, query: Argument_contra | None = None, *_: P.args, **settings: P.kwargs
    ) -> Result_co: ...


class _ByQueries(Protocol[Argument_contra, P, Result_co]):
    def __call__(self, queries: Argument_contra, *_: P.args, **settings: P.kwargs) -> Result_co: ...


class _ByPath(Protocol[Argument_contra, P, Result_co]):
    def __call__(self, path: Argument_contra, *_: P.args, **settings: P.kwargs) -> Result_co: ...


if TYPE_CHECKING:

    def by_query(
        declaration: Callable[P, Settings],
    ) -> Callable[[Method[Argument_contra, Result_co]], _ByQuery[Argument_contra, P, Result_co]]:
        """`takes_settings` for a method of a `query`."""

    def by_any_query(
        declaration: Callable[P, Settings],
    ) -> Callable[
        [Method[Argument_contra | None, Result_co]], _ByAnyQuery[Argument_contra, P, Result_co]
    ]:
        """`takes_settings` for a method of a `query` that may be left out."""

    def by_queries(
        declaration: Callable[P, Settings],
    ) -> Callable[[Method[Argument_contra, Result_co]], _ByQueries[Argument_contra, P, Result_co]]:
        """`takes_settings` for a method of `queries`."""

    def by_path(
        declaration: Callable[P, Settings],
    ) -> Callable[[Method[Argument_contra, Result_co]], _ByPath[Argument_contra, P, Result_co]]:
        """`takes_settings` for a method of a `path`."""

else:
    by_query = by_any_query = by_queries = by_path = takes_settings
