"""Names for families: a small registry that other installed packages can add to through an entry-point group."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from kan_core.errors import KANError

T = TypeVar("T")


class Registry(Generic[T]):
    """Factories by name, with lookup by a *spec* such as ``"bspline"`` or ``"bspline(grid_size=8, order=2)"``.

    Args:
        kind: What the entries are, for messages ("basis").
        group: Entry-point group whose entries are added, lazily, by their names.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._factories: dict[str, Callable[..., T]] = {}

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """What installed packages add; looked up once, for reading all metadata takes as long as a layer."""
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """A class or function decorator that adds a factory under `name`; a name can be taken once."""

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if self._factories.get(name, factory) is not factory:
                raise KANError(f"the {self.kind} name {name!r} is already registered, by {self._factories[name]!r}")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """All known names, those of installed entry points included, sorted."""
        return sorted({*self._factories, *self._entries})

    def factory(self, name: str) -> Callable[..., T]:
        """The factory called `name`.

        Raises:
            KANError: When there is none; the message lists the names that exist.
        """
        if name not in self._factories:
            if name not in self._entries:
                raise KANError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}")
            self._factories.setdefault(name, self._entries[name].load())
        return self._factories[name]

    def create(self, name: str, **kwargs: Any) -> T:
        """Call the factory called `name`.

        Raises:
            KANError: When the name is unknown, with those that are near, or the arguments do not fit.
        """
        if name not in self.names():
            near = difflib.get_close_matches(name, self.names(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise KANError(f"unknown {self.kind} {name!r}: {hint}choose one of {', '.join(self.names())}")
        try:
            return self.factory(name)(**kwargs)
        except TypeError as error:
            raise KANError(f"{self.kind} {name!r} refuses its arguments: {error}") from None

    def build(self, spec: str) -> T:
        """Call the factory that `spec` names with the literal arguments it carries.

        Raises:
            KANError: When the spec cannot be read, the name is unknown or an argument is refused.
        """
        name, arguments = parse_spec(spec, kind=self.kind)
        factory = self.factory(name)
        try:
            return factory(**arguments)
        except TypeError as error:
            raise KANError(f"{self.kind} {spec!r}: {error}") from None


def parse_spec(spec: str, kind: str = "spec") -> tuple[str, dict[str, Any]]:
    """Read ``"name"`` or ``"name(key=literal, ...)"``; nothing is evaluated but Python literals.

    Example:
        >>> parse_spec("bspline(grid_size=8, grid_range=(-2, 2))")
        ('bspline', {'grid_size': 8, 'grid_range': (-2, 2)})
    """
    try:
        if "(" not in spec:  # a plain name may hold dashes
            return spec.strip(), {}
        head, _, rest = spec.partition("(")
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return head.strip(), {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise KANError(
            f"cannot read the {kind} {spec!r}: write a name, or a name with literal arguments such as "
            "bspline(grid_size=8, grid_range=(-2, 2))"
        ) from None
