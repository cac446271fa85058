"""A loss under test: its inputs, ordinary and hostile, and the few ways in which laws call it."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.claims import LOSS_CLAIMS, parse_claims
from jaxopt_lite.testing.compare import plain
from jaxopt_lite.testing.quick import quick_jit
from jaxopt_lite.testing.report import NotRun

BATCH, CLASSES = 6, 5
# From real numbers to where a first argument lives, and the numbers that are extreme there.
DOMAINS: dict[str, Callable[[Any], Any]] = {
    "real": lambda x: x,
    "probabilities": jax.nn.softmax,
    "log_probabilities": jax.nn.log_softmax,
    "positive": jnp.exp,
}
HOSTILE = {
    "real": [1e4, -1e4, 0.0, 50.0, -50.0, 1e-30, 3.0],
    "probabilities": [104.0, 0.0, -104.0, 0.0, 1.0],
    "log_probabilities": [1e4, -1e4, 0.0, 50.0, -50.0, 1e-30, 3.0],
    "positive": [0.0, -69.0, 0.0, -10.0, 9.0],
}


def loss_name(loss: Any) -> str:
    """The function's own name, through `functools.partial`."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", repr(loss))


def is_float(x: Any) -> bool:
    """Whether an input is differentiable."""
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


class LossCase:
    """A loss with what the laws need to know about it.

    ``inputs`` is a tuple of arrays ``(predictions, targets, ...)`` or a function ``key -> tuple``; integer
    arrays are class ids. Without it, [6, 5] predictions are tried with targets of the same shape (rows that sum
    to one), then with 6 class ids. ``oracle`` takes the same arguments as float64 NumPy arrays and returns the
    unreduced values. Derivatives are taken with respect to ``argnums``. Options go into the loss by
    `functools.partial`.

    >>> LossCase(lambda predictions, targets: (predictions - targets) ** 2, name="squares").name
    'squares'
    """

    kind = "loss"

    def __init__(
        self,
        loss: Callable[..., Any],
        *,
        inputs: Sequence[Any] | Callable[[Any], Sequence[Any]] | None = None,
        oracle: Callable[..., Any] | None = None,
        claims: Iterable[str] = (),
        argnums: tuple[int, ...] = (0,),
        expected_failures: Mapping[str, str] | None = None,
        name: str | None = None,
    ):
        if not callable(loss):
            raise TypeError(f"expected a loss function, got {type(loss).__name__}")
        self.loss, self.oracle, self.argnums = loss, oracle, argnums
        self.given = inputs
        self.claims = parse_claims(claims, LOSS_CLAIMS)
        self.expected_failures = dict(expected_failures or {})
        self.name = name or loss_name(loss)
        self.programs: dict[Any, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"LossCase({self.name})"

    @cached_property
    def inputs(self) -> tuple[Any, ...]:
        """Ordinary inputs: floating arrays as float32."""
        if self.given is not None:
            arrays = self.given(jax.random.key(0)) if callable(self.given) else self.given
            return tuple(jnp.asarray(a, jnp.float32) if is_float(a) else jnp.asarray(a) for a in arrays)
        return self._guess()

    def _guess(self) -> tuple[Any, ...]:
        rng = np.random.default_rng(0)
        targets = jax.nn.softmax(jnp.asarray(rng.normal(size=(BATCH, CLASSES)), jnp.float32))
        labels = jnp.asarray(np.arange(BATCH) % CLASSES, jnp.int32)
        first = self.in_domain(rng.normal(0.0, 1.5, (BATCH, CLASSES)))
        for call in (functools.partial(jax.eval_shape, self.loss), self.loss):
            for second in (targets, labels):
                with contextlib.suppress(Exception):
                    call(first, second)
                    return first, second
        raise TypeError(f"{self.name} takes neither two [6, 5] arrays nor logits and labels: give inputs=")

    @cached_property
    def domain(self) -> str:
        """Where the first argument lives."""
        return next((name for name in DOMAINS if name in self.claims), "real")

    def in_domain(self, values: Any) -> Any:
        """Real numbers mapped to where the first argument lives, as claimed."""
        return DOMAINS[self.domain](jnp.asarray(values, jnp.float32))

    def hostile(self) -> tuple[Any, ...]:
        """Inputs whose first argument is as extreme as its domain allows."""
        values = np.resize(np.array(HOSTILE[self.domain]), self.inputs[0].shape)
        return self.in_domain(values), *self.inputs[1:]

    def same_shaped(self) -> tuple[Any, ...]:
        """The inputs, where the first two are floating arrays of one shape; otherwise the law is not run."""
        first, *others = self.inputs
        if not others or not is_float(others[0]) or others[0].shape != first.shape:
            raise NotRun("needs predictions and targets of one shape")
        return self.inputs

    def at_target(self) -> tuple[Any, ...]:
        """The inputs with the predictions that the targets ask for."""
        _, second, *rest = self.same_shaped()
        logs = "log_probabilities" in self.claims and "log_targets" not in self.claims
        return jnp.log(second) if logs else second, second, *rest

    def one_hot(self) -> tuple[Any, ...]:
        """The inputs with targets 0 and 1 (or their logarithms), where they are between 0 and 1; otherwise not run."""
        first, second, *rest = self.same_shaped()
        values = np.exp(plain(second)) if "log_targets" in self.claims else plain(second)
        if values.min(initial=0.0) < 0 or values.max(initial=0.0) > 1:
            raise NotRun("needs targets between 0 and 1")
        hot = np.broadcast_to(np.arange(values.shape[-1]) == 1, values.shape).astype(np.float32)
        with np.errstate(divide="ignore"):
            hot = np.log(hot) if "log_targets" in self.claims else hot
        return first, jnp.asarray(hot), *rest

    def class_ids(self) -> tuple[Any, ...]:
        """The inputs, where the second holds class ids of the first's last axis; otherwise the law is not run."""
        if len(self.inputs) < 2 or not jnp.issubdtype(self.inputs[1].dtype, jnp.integer):
            raise NotRun("needs integer labels")
        if "couples_examples" in self.claims:
            raise NotRun("labels that compare examples may be any number")
        return self.inputs

    def needs(self, *claims: str) -> None:
        """Skip the law unless one of the claims is made."""
        if not any(c in self.claims for c in claims):
            raise NotRun("needs the claim " + " or ".join(claims))

    def needs_arguments(self, *names: str) -> None:
        """Skip the law unless the loss takes these keywords."""
        parameters = inspect.signature(self.loss).parameters
        missing = [n for n in names if n not in parameters]
        if missing:
            raise NotRun("needs the argument " + ", ".join(missing))

    @cached_property
    def result(self) -> jax.Array:
        """The unreduced value at the ordinary inputs, not compiled."""
        return self.loss(*self.inputs)

    @cached_property
    def traceable(self) -> bool:
        """Whether the loss can be traced."""
        try:
            jax.eval_shape(self.loss, *self.inputs)
        except Exception:
            return False
        return True

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function compiled; as it is where the loss cannot be traced (``jit_equals_eager`` says so)."""
        return quick_jit(function) if self.traceable else function

    def program(self, key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """A function compiled once for all laws."""
        if key not in self.programs:
            self.programs[key] = self.compiled(make())
        return self.programs[key]

    def value(self, *inputs: Any, **options: Any) -> jax.Array:
        """The loss, compiled."""
        arrays, words = _split(options)
        call = lambda inputs, arrays: self.loss(*inputs, **arrays, **words)
        return self.program(("value", *words.items()), lambda: call)(inputs, arrays)

    def per_example(self) -> jax.Array:
        """The result, where its first axis counts the examples; otherwise the law is not run."""
        if self.result.ndim == 0 or self.result.shape[0] != self.inputs[0].shape[0]:
            raise NotRun("needs one value an example")
        return self.result

    def pick(self, inputs: Sequence[Any], index: Any) -> list[Any]:
        """Every input that has the examples' axis, indexed along it."""
        batch = inputs[0].shape[0]
        rows = lambda x: jnp.asarray(np.asarray(x)[index])
        return [rows(x) if x.ndim and x.shape[0] == batch else x for x in inputs]

    def total(self, *inputs: Any, **options: Any) -> Any:
        """Sum of the values, for derivatives."""
        return jnp.sum(self.loss(*inputs, **options))

    def gradient(self, inputs: Sequence[Any], **options: Any) -> tuple[Any, ...]:
        """Derivatives of the total by the arguments ``argnums``, compiled."""
        arrays, words = _split(options)
        total = lambda arrays, *inputs: self.total(*inputs, **arrays, **words)
        slope = jax.grad(total, tuple(i + 1 for i in self.argnums))
        return self.program(("gradient", *words.items()), lambda: slope)(arrays, *inputs)

    def wide(self, inputs: Sequence[Any]) -> list[Any]:
        """Floating inputs as float64 NumPy arrays."""
        return [plain(x) if is_float(x) else np.asarray(x) for x in inputs]

    def reference(self, inputs: Sequence[Any]) -> np.ndarray:
        """The loss's own value computed in float64."""
        with jax.enable_x64(True):
            return plain(self.value(*map(jnp.asarray, self.wide(inputs))))


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that are arrays, and the words."""
    words = {name: value for name, value in options.items() if isinstance(value, str)}
    return {name: value for name, value in options.items() if name not in words}, words
