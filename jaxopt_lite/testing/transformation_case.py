"""A transformation under test: built once, its step compiled once per tree and shared by all laws."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.testing import trees
from jaxopt_lite.testing.claims import TRANSFORMATION_CLAIMS, parse_claims
from jaxopt_lite.testing.compare import expect_settled
from jaxopt_lite.testing.quick import quick_jit
from jaxopt_lite.testing.report import NotRun

DEFAULT_ARGUMENTS = {"learning_rate": 1e-2, "step_size": 1e-2}
LONG = 50
INNER = {
    "tx",
    "factory",
    "inner",
    "base_optimizer",
    "optimizer",
    "opt",
    "outer",
    "transformation",
    "transformations",
}


class Trajectory(NamedTuple):
    """Some steps: the updates of each, and the last state and parameters."""

    updates: list[Any]
    state: Any
    params: Any


def is_transformation(item: Any) -> bool:
    """Whether the item has ``init`` and ``update``."""
    return callable(getattr(item, "init", None)) and callable(getattr(item, "update", None))


def required(factory: Callable[..., Any]) -> list[str]:
    """Names of the arguments that have no default."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def build(factory: Callable[..., Any], **arguments: Any) -> Any:
    """Call a factory with its defaults; a learning rate without one is 0.01."""
    names = required(factory)
    filled = {n: DEFAULT_ARGUMENTS[n] for n in names if n in DEFAULT_ARGUMENTS} | arguments
    missing = [n for n in names if n not in filled]
    if missing:
        raise TypeError(f"{name_of(factory)} does not build with defaults: it needs {', '.join(missing)}")
    return factory(**filled)


def name_of(item: Any) -> str:
    """A readable, short name."""
    name = getattr(item, "__name__", None)
    text = name if isinstance(name, str) else repr(item)
    if is_transformation(item) and "function" in text:
        text = item.update.__qualname__.split(".<locals>")[0]
    return text if len(text) <= 80 else text[:77] + "..."


class TransformationCase:
    """A transformation (or the factory of one) with what the laws need to know about it.

    ``extra(value_fn, params)`` returns the extra arguments of ``update``; ``value_fn`` is a function of the
    parameters whose gradient at ``params`` is the gradient passed. Where ``update`` asks for some and none are
    given, it gets optax's usual ones (`loss_arguments`). ``oracle(params,
    gradients)`` takes a float64 NumPy tree and a list of them and returns the list of updates, all asked for at
    these same parameters. Claims: see `jaxopt_lite.testing.claims`.

    >>> TransformationCase(optax.sgd, claims={"linear", "odd"}).name
    'sgd'
    """

    kind = "transformation"

    def __init__(
        self,
        item: Any,
        *,
        params: Any = None,
        claims: Iterable[str] = (),
        extra: Callable[..., dict[str, Any]] | None = None,
        oracle: Callable[[Any, Sequence[Any]], Sequence[Any]] | None = None,
        expected_failures: Mapping[str, str] | None = None,
        name: str | None = None,
    ):
        if not callable(item) and not is_transformation(item):
            raise TypeError(f"expected a transformation or a factory of one, got {type(item).__name__}")
        self.item, self.given_extra, self.oracle = item, extra, oracle
        self.factory = None if is_transformation(item) else item
        self.params = trees.default_params() if params is None else params
        self.claims = parse_claims(claims, TRANSFORMATION_CLAIMS)
        self.expected_failures = dict(expected_failures or {})
        self.name = name or name_of(item)
        self.memory: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"TransformationCase({self.name})"

    @cached_property
    def tx(self) -> Any:
        """The transformation itself."""
        return build(self.factory) if self.factory else self.item

    @cached_property
    def extra(self) -> Callable[..., dict[str, Any]] | None:
        """What makes the extra arguments of ``update``: as given, or the first usual ones without which it refuses."""
        if self.given_extra is not None or self.remember("traces", lambda: self._traces(None)):
            return self.given_extra
        return next(filter(self._traces, (loss_arguments, curvature_arguments)), None)

    def sibling(self, tx: Any) -> "TransformationCase":
        """A transformation of the same kind, which takes the same extra arguments."""
        other = TransformationCase(tx, params=self.params, extra=self.extra)
        other.memory["traces"] = self.traceable
        return other

    def _traces(self, extra: Callable[..., dict[str, Any]] | None) -> bool:
        """Whether ``update`` can be traced with these extra arguments."""
        try:
            known = {} if extra is None else extra(lambda q: _dot(q, q), self.params)
            update = lambda g, s, p: self.tx.update(g, s, p, **known)
            jax.eval_shape(update, self.params, self.tx.init(self.params), self.params)
        except Exception:
            return False
        return True

    @cached_property
    def traceable(self) -> bool:
        """Whether ``update`` can be traced."""
        return self.extra is not self.given_extra or self.remember("traces", lambda: self._traces(self.extra))

    def update(self, grads: Any, state: Any, params: Any, value: Any = 1.0) -> tuple[Any, Any]:
        """``tx.update`` with its extra arguments; ``value`` is the loss at ``params``."""
        if self.extra is None:
            return self.tx.update(grads, state, params)
        moved = lambda q: jax.tree.map(jnp.subtract, q, params)
        model = lambda q: value + _dot(grads, moved(q)) + 0.5 * _dot(moved(q), moved(q))
        return self.tx.update(grads, state, params, **self.extra(model, params))

    def update_and_apply(self, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        """A whole training step: the new parameters and state."""
        updates, state = self.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @cached_property
    def step(self) -> Callable[..., tuple[Any, Any]]:
        """The compiled update; the plain one where it cannot be traced (``jit_equals_eager`` says so)."""
        if not self.traceable:
            return self.update
        compiled = quick_jit(self.update)
        return lambda grads, state, params, value=1.0: compiled(grads, state, params, np.float32(value))

    def shapes(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """Shapes and dtypes of an update, without compiling."""
        return jax.eval_shape(self.update, grads, state, params)

    def gradients(self, steps: int, params: Any = None, seed: int = 0) -> list[Any]:
        """Random gradients for so many steps, in the dtypes of the parameters."""
        params = self.params if params is None else params
        return [trees.gradients_like(params, 10 * seed + t) for t in range(steps)]

    def run(
        self,
        gradients: Sequence[Any],
        params: Any = None,
        state: Any = None,
        *,
        move: bool = True,
        step: Callable[..., tuple[Any, Any]] | None = None,
    ) -> Trajectory:
        """Step through the gradients; ``move`` applies the updates to the parameters on the way."""
        params = self.params if params is None else params
        state = self.tx.init(params) if state is None else state
        history = []
        for t, grads in enumerate(gradients):
            before = state
            updates, state = (step or self.step)(grads, state, params)
            if len(gradients) > LONG and t < 5:
                expect_settled(state, before, t)
            history.append(updates)
            params = trees.added(params, updates) if move else params
        return Trajectory(history, state, params)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Compute once for all laws."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def ordinary(self) -> Trajectory:
        """Three ordinary steps, shared by the laws that compare with them."""
        return self.remember("ordinary", lambda: self.run(self.gradients(3)))

    def eager(self) -> Trajectory:
        """The first two of these steps, not compiled."""
        return self.remember("eager", lambda: self.run(self.gradients(2), step=self.update))

    def needs(self, *claims: str) -> None:
        """Skip the law unless one of the claims is made."""
        if not any(c in self.claims for c in claims):
            raise NotRun("needs the claim " + " or ".join(claims))

    @cached_property
    def sign(self) -> float:
        """-1 for an optimizer, whose updates are added; +1 for a part of a chain, whose updates point uphill."""
        return 1.0 if "part" in self.claims or self._made_as_a_part() else -1.0

    def _made_as_a_part(self) -> bool:
        """Whether optax or jaxopt_lite made it by a factory that takes neither a learning rate nor an optimizer."""
        factory: Any = self.factory if _is_public(self.factory) else _factory_of(self.tx)
        if not _is_public(factory):
            return False
        if factory.__name__.startswith("scale_by_") and factory.__name__ != "scale_by_learning_rate":
            return True
        names = set(inspect.signature(factory).parameters)
        return not names & INNER and not any("learning_rate" in n or n in DEFAULT_ARGUMENTS for n in names)


def loss_arguments(value_fn: Callable[[Any], Any], params: Any) -> dict[str, Any]:
    """The extra arguments of optax's line searches and Polyak steps."""
    value, grad = jax.value_and_grad(value_fn)(params)
    return {"value": value, "grad": jax.tree.map(jnp.conj, grad), "value_fn": value_fn}


def curvature_arguments(value_fn: Callable[[Any], Any], params: Any) -> dict[str, Any]:
    """The extra argument of optax's estimators of curvature."""
    return {"obj_fn": value_fn}


def _is_public(factory: Any) -> bool:
    """Whether it is a factory of optax or jaxopt_lite."""
    return (getattr(factory, "__module__", None) or "").split(".")[0] in ("optax", "jaxopt_lite")


def _factory_of(tx: Any) -> Any:
    """The function that made a transformation: ours remember their call, optax's name it in ``update``."""
    if getattr(tx, "call", None) is not None:
        return tx.call.make
    update = tx.update
    name = getattr(update, "__qualname__", "").split(".<locals>")[0]
    return getattr(inspect.getmodule(update), name, None) if name != "chain" else None


def _dot(a: Any, b: Any) -> Any:
    return sum(jnp.sum((jnp.conj(x) * y).real) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
