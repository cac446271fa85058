"""The textbook procedure as pure functions: mini-batches, one jitted step, and the loop around them.

for every epoch: for every mini-batch of a fresh permutation:
    ℓ, g = value and gradient of loss_fn(params, batch)
    u, state = tx.update(g, state, params)
    params = params + u
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxopt_lite import checkpoint
from jaxopt_lite.batches import check_batching, check_count, count_rows, minibatches, stream, take
from jaxopt_lite.compose import _require_transformation, apply_updates

__all__ = ["FitResult", "fit", "make_step", "minibatches"]

# Losses are fetched from the device once in so many steps, so that the host never waits for a single one.
FETCH_EVERY = 100


class FitResult(NamedTuple):
    """What ``fit`` returns."""

    params: Any  # the best parameters by validation loss; the last ones where nothing was validated
    state: Any  # the optimizer's state after the last step
    history: dict[str, np.ndarray]  # "step", "loss", "validation_loss", each [step]
    step: int  # optimizer steps taken
    stopped_early: bool  # the validation loss did not improve for ``patience`` evaluations


def make_step(
    loss_fn: Callable[[Any, Any], Any],
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    has_aux: bool = False,
    donate: bool = True,
) -> Callable[[Any, Any, Any], tuple]:
    """One jitted training step: ``step(params, state, batch) -> (params, state, value)``.

    Args:
      loss_fn: ``loss_fn(params, batch)`` returns a scalar, or ``(scalar, aux)`` with ``has_aux``.
      tx: any optax-protocol transformation, ours or not. ``update`` is offered the extra arguments ``value``,
        ``grad``, ``value_fn(params)``, ``obj_fn(params)`` and ``grad_fn(params)`` of this batch.
      accumulate: split the batch into so many micro-batches, handled one after the other inside one
        ``lax.scan``: memory for activations falls by that factor. The gradients are summed in float32 (or
        better) and their mean is given to ``tx`` in that dtype. For a loss that is a mean over rows this is
        the gradient of the whole batch; a mean over *unmasked* rows is weighed by micro-batch instead. Row r
        goes to micro-batch r mod ``accumulate``, so that a batch sharded by rows over devices stays where it
        is.
      has_aux: the step's third result becomes ``(value, aux)``; with ``accumulate`` > 1 every array of aux
        gets a leading axis ``[accumulate]``.
      donate: let XLA reuse the memory of ``params`` and ``state``: both are gone after the call. A ``state``
        that shares arrays with ``params`` (some of optax's do) must be copied first,
        ``jax.tree.map(jnp.copy, state)``.

    The step is traced once per shape of the batch.

    Raises:
      ValueError: ``accumulate`` below 1, or (when called) a batch that it does not divide.
      TypeError: ``tx`` is no transformation.

    >>> step = make_step(lambda w, x: jnp.mean((w * x - 2 * x) ** 2), optax.sgd(0.1))
    >>> w, state, value = step(jnp.array(0.0), optax.sgd(0.1).init(0.0), jnp.array([1.0, -1.0]))
    >>> float(value), round(float(w), 6)
    (4.0, 0.4)
    """
    check_count("make_step", "accumulate", accumulate)
    _check_transformation("make_step", tx)
    loss = loss_fn if has_aux else lambda params, batch: (loss_fn(params, batch), None)
    step = _step(loss, tx, accumulate)

    def with_value(params, state, batch):
        params, state, value, aux = step(params, state, batch)
        return params, state, ((value, aux) if has_aux else value)

    return jax.jit(with_value, donate_argnums=(0, 1) if donate else ())


def _check_transformation(name: str, tx: Any) -> None:
    if not (hasattr(tx, "init") and hasattr(tx, "update")):  # optax.MultiSteps has both, and is of no type
        _require_transformation(f"{name}: tx", tx)


def _step(loss: Callable, tx: Any, accumulate: int = 1) -> Callable:
    """The step before jit, for a loss that returns ``(value, aux)``."""
    tx = optax.with_extra_args_support(tx)
    evaluate, differentiate = _accumulated(loss, accumulate) if accumulate > 1 else _direct(loss)

    def step(params, state, batch):
        (value, aux), grads = differentiate(params, batch)
        # optax's line searches reject an extra argument that value_fn does not name.
        value_fn = lambda p, obj_fn=None, grad_fn=None: evaluate(p, batch)
        grad_fn = lambda p: differentiate(p, batch)[1]
        extra = {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": value_fn, "grad_fn": grad_fn}
        updates, state = tx.update(grads, state, params, **extra)
        return apply_updates(params, updates), state, value, aux

    return step


def _direct(loss: Callable) -> tuple[Callable, Callable]:
    return lambda params, batch: loss(params, batch)[0], jax.value_and_grad(loss, has_aux=True)


def _accumulated(loss: Callable, accumulate: int) -> tuple[Callable, Callable]:
    """Value, and value with gradient, of the mean over micro-batches."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    mean = lambda values: jnp.mean(values.astype(_wide(values)))

    def evaluate(params, batch):
        return mean(lax.map(lambda micro: loss(params, micro)[0], _split(batch, accumulate)))

    def differentiate(params, batch):
        def add(total, micro):
            (value, aux), grads = value_and_grad(params, micro)
            return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads), (value, aux)

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, _wide(p)), params)
        total, (values, aux) = lax.scan(add, zeros, _split(batch, accumulate))
        return (mean(values), aux), jax.tree.map(lambda t: t / accumulate, total)

    return evaluate, differentiate


def _wide(array: Any) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(array), jnp.float32)


def _split(batch: Any, accumulate: int) -> Any:
    rows = count_rows("make_step", "batch", batch)
    if rows % accumulate:
        raise ValueError(
            f"make_step: batch has {rows} rows, expected a multiple of accumulate, which is {accumulate}"
        )
    # Strided, not contiguous: a contiguous split would move the rows of a sharded batch between devices.
    one = lambda x: jnp.swapaxes(jnp.reshape(x, (rows // accumulate, accumulate, *x.shape[1:])), 0, 1)
    return jax.tree.map(one, batch)


def fit(
    loss_fn: Callable[[Any, Any], Any],
    params: Any,
    tx: optax.GradientTransformation,
    data: Any,
    *,
    key: jax.Array,
    batch_size: int,
    epochs: int,
    validation_data: Any = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    checkpoint_every: int = 100,
    has_aux: bool = False,
    progress: bool = False,
) -> FitResult:
    """Train until the epochs are done or the validation loss has stopped improving.

    Epoch e (from 0) takes the batches of ``minibatches(jax.random.fold_in(key, e), data, batch_size)``, the
    smaller remainder batch included (its shape is a second trace of the step). ``params`` are copied first, so
    the caller's arrays stay usable.

    Args:
      loss_fn: ``loss_fn(params, batch)``, a mean over the rows of the batch; with ``has_aux`` it returns
        ``(loss, aux)``, and aux is dropped.
      params, tx, data: as in ``make_step`` and ``minibatches``.
      key, batch_size, epochs: what decides the order of the batches, their rows, and how often all data are seen.
      validation_data: a tree like ``data``. Its loss is the mean over all its rows, taken in batches of
        ``batch_size``; the best parameters are those after the evaluation with the lowest. A NaN is never
        the lowest.
      evaluate_every: optimizer steps between evaluations, one epoch by default; the last step is evaluated too.
      patience: stop after so many evaluations in a row without improvement.
      checkpoint_dir: a directory for checkpoints, of this run alone (needs the extra ``checkpoint``). If it holds
        some, the run goes on from the last good one, to the same bits as if it had never stopped; a finished
        run returns at once. ``epochs`` and ``patience`` may have grown in between. For one process; several
        local devices are fine.
      checkpoint_every: optimizer steps between checkpoints; the last step is saved too.
      has_aux: as in ``make_step``.
      progress: show a tqdm bar.

    Returns:
      A ``FitResult``. ``history`` has one entry per step; ``validation_loss`` is NaN where none was taken.

    Raises:
      ValueError: data as in ``minibatches``; an option out of range, or one that needs ``validation_data``
        given without it; ``checkpoint_dir`` with a run of other arguments.
      ImportError: ``checkpoint_dir`` without orbax-checkpoint, ``progress`` without tqdm.

    >>> data = {"x": np.linspace(-1, 1, 32)}
    >>> loss = lambda w, batch: jnp.mean((w * batch["x"] - 2 * batch["x"]) ** 2)
    >>> result = fit(loss, 0.0, optax.sgd(0.5), data, key=jax.random.key(0), batch_size=8, epochs=20)
    >>> round(float(result.params), 3), result.step, result.history["loss"].shape
    (2.0, 80, (80,))
    """
    _check_transformation("fit", tx)
    per_epoch = -(-check_batching("fit", data, batch_size) // batch_size)
    _check_options(data, epochs, validation_data, evaluate_every, patience, checkpoint_every)
    evaluate_every = (evaluate_every or per_epoch) if validation_data is not None else None
    run = _Run.start(params, tx, keep_best=evaluate_every is not None)
    numbers = {"batch_size": batch_size, "evaluate_every": evaluate_every}
    identity = numbers | _identity(run, key, data, validation_data)
    if checkpoint_dir is not None:
        run.resume(checkpoint_dir, identity, epochs * per_epoch)

    loss = (lambda p, batch: loss_fn(p, batch)[0]) if has_aux else loss_fn
    step, value = _strong_step(loss, tx), jax.jit(loss)
    enough = math.inf if patience is None else patience
    with _bar(progress, epochs * per_epoch, run.step) as bar:
        for batch, last in stream(key, data, batch_size, run.step, epochs * per_epoch):
            if run.stale >= enough:
                break
            run.advance(*step(run.params, run.state, batch))
            if evaluate_every and (last or run.step % evaluate_every == 0):
                run.compare(_mean_loss(value, run.params, validation_data, batch_size))
            if checkpoint_dir is not None and (
                last or run.step % checkpoint_every == 0 or run.stale >= enough
            ):
                checkpoint.save(checkpoint_dir, run.step, run.packed(), identity)
            _show(bar, run)
    return run.result(stopped_early=run.stale >= enough)


@dataclasses.dataclass
class _Run:
    """How far a run has come: all that a checkpoint must hold."""

    params: Any
    state: Any
    best: Any  # None where nothing is validated
    best_loss: float = math.inf
    stale: int = 0  # evaluations since the best one
    loss: list[float] = dataclasses.field(default_factory=list)
    pending: list = dataclasses.field(default_factory=list)  # the newest losses, still on the device
    validation_loss: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, params: Any, tx: Any, keep_best: bool) -> "_Run":
        params = _owned(params)
        return cls(params, _owned(tx.init(params)), _owned(params) if keep_best else None)

    @property
    def step(self) -> int:
        return len(self.validation_loss)

    def advance(self, params: Any, state: Any, loss: jax.Array) -> None:
        self.params, self.state = params, state
        self.pending.append(loss)
        self.validation_loss.append(math.nan)
        if len(self.pending) == FETCH_EVERY:
            self.fetch()

    def fetch(self) -> None:
        self.loss += map(float, jax.device_get(self.pending))
        self.pending = []

    def compare(self, loss: float) -> None:
        self.fetch()
        self.validation_loss[-1] = loss
        self.stale += 1
        if loss < self.best_loss:  # never true of NaN
            self.best, self.best_loss, self.stale = _owned(self.params), loss, 0

    def packed(self) -> dict[str, Any]:
        self.fetch()
        numbers = {k: np.array(getattr(self, k)) for k in ("best_loss", "stale", "loss", "validation_loss")}
        return {"params": self.params, "state": self.state, "best": self.best, **numbers}

    def resume(self, directory: Any, identity: dict, total: int) -> None:
        found = checkpoint.restore(directory, self.packed(), identity)
        if found is None:
            return
        step, tree = found
        if step > total:
            raise ValueError(f"fit: checkpoint_dir holds a run of {step} steps, expected at most {total}")
        for name, value in tree.items():
            setattr(self, name, value.tolist() if isinstance(value, np.ndarray) else value)

    def result(self, stopped_early: bool) -> FitResult:
        self.fetch()
        floats = {"loss": self.loss, "validation_loss": self.validation_loss}
        history: dict[str, Any] = {name: np.array(values, np.float64) for name, values in floats.items()}
        history["step"] = np.arange(1, self.step + 1)
        params = self.best if self.best_loss < math.inf else self.params
        return FitResult(params, self.state, history, self.step, stopped_early)


def _owned(tree: Any) -> Any:
    """Copies that share no memory with anything, of strong type."""
    strong = lambda x: isinstance(x, jax.Array) and not getattr(x, "weak_type", False)
    return jax.tree.map(lambda x: jnp.copy(x) if strong(x) else jnp.array(x, jnp.result_type(x)), tree)


def _strong_step(loss: Callable, tx: Any) -> Callable:
    """The jitted step for a loss without aux, with a state of strong type.

    A checkpoint cannot hold a weak type, and a resumed run must compute in the same dtypes.
    """
    step = _step(lambda params, batch: (loss(params, batch), None), tx)
    strong = lambda x: lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x

    def without_aux(params, state, batch):
        params, state, value, _ = step(params, state, batch)
        return params, jax.tree.map(strong, state), value

    return jax.jit(without_aux, donate_argnums=(0, 1))


def _mean_loss(loss: Callable, params: Any, data: Any, batch_size: int) -> float:
    """The mean over all rows; every batch counts by its rows."""
    rows = count_rows("fit", "validation_data", data)
    parts = [np.arange(i, min(i + batch_size, rows)) for i in range(0, rows, batch_size)]
    losses = jax.device_get([loss(params, take(data, part)) for part in parts])
    return sum(float(value) * len(part) for value, part in zip(losses, parts, strict=True)) / rows


def _identity(run: _Run, key: Any, data: Any, validation_data: Any) -> dict[str, str]:
    """The key and every array's shape and dtype: a run must have them in common with its checkpoints."""
    trees = {"data": data, "validation_data": validation_data, "params": run.params, "state": run.state}
    key = f"{jax.random.key_impl(key)}{np.asarray(jax.random.key_data(key)).tolist()}"
    described = [checkpoint.describe(name, tree).items() for name, tree in trees.items()]
    return {"key": key, **dict(pair for pairs in described for pair in pairs)}


def _check_options(data, epochs, validation_data, evaluate_every, patience, checkpoint_every) -> None:
    check_count("fit", "epochs", epochs)
    check_count("fit", "checkpoint_every", checkpoint_every)
    for argument, value in (("evaluate_every", evaluate_every), ("patience", patience)):
        if value is not None:
            check_count("fit", argument, value)
            if validation_data is None:
                raise ValueError(
                    f"fit: {argument} is {value}, expected None, since there is no validation_data"
                )
    if validation_data is not None:
        count_rows("fit", "validation_data", validation_data)
        got, expected = str(jax.tree.structure(validation_data)), str(jax.tree.structure(data))
        if got != expected:
            raise ValueError(f"fit: validation_data has the tree {got}, expected {expected}, that of data")


def _bar(progress: bool, total: int, done: int) -> contextlib.AbstractContextManager:
    if not progress:
        return contextlib.nullcontext()
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("fit: progress=True needs tqdm: pip install tqdm") from error
    return tqdm(total=total, initial=done, unit="step")


def _show(bar: Any, run: _Run) -> None:
    if bar is None:
        return
    if not run.pending:  # the losses are on the host already
        bar.set_postfix(loss=run.loss[-1], best=run.best_loss, refresh=False)
    bar.update()
