"""Training: the step computes what the textbook says, and ``fit`` stops, remembers and returns the right things."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_lite import training
from jaxopt_lite.training import fit, make_step, minibatches

KEY = jax.random.key(0)


def quadratic(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def problem(rows=12, dtype=jnp.float32):
    """Whole numbers, so that float32 sums are exact in any order."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.integers(-3, 4, (rows, 2)), "y": rng.integers(-3, 4, rows)}
    batch = jax.tree.map(lambda leaf: leaf.astype(dtype), batch)
    return {"w": jnp.array([2.0, -1.0], dtype), "b": jnp.zeros((), dtype)}, batch


def counting(loss):
    """The loss, and a list that grows at every trace."""
    traces = []

    def counted(params, batch):
        traces.append(jax.tree.map(jnp.shape, batch))
        return loss(params, batch)

    return counted, traces


# ------------------------------------------------------------------------------------------------ make_step


def test_a_step_is_the_textbook_formula():
    """Against the gradient of the mean squared error written out in NumPy float64."""
    params, batch = problem()
    w, b = np.array([2.0, -1.0]), 0.0
    tx, losses = optax.sgd(0.05), []
    step, state = make_step(quadratic, tx), tx.init(params)
    for _ in range(5):
        residual = batch["x"].astype(np.float64) @ w + b - batch["y"]
        losses.append(np.mean(residual**2))
        w, b = w - 0.05 * 2 * batch["x"].T @ residual / 12, b - 0.05 * 2 * residual.mean()
        params, state, value = step(params, state, batch)
        np.testing.assert_allclose(value, losses[-1], rtol=1e-5)
    np.testing.assert_allclose(params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(params["b"], b, rtol=1e-5)


def test_one_trace_per_shape():
    params, batch = problem()
    loss, traces = counting(quadratic)
    tx = optax.adam(0.1)
    step, state = make_step(loss, tx), tx.init(params)
    for _ in range(4):
        params, state, _ = step(params, state, batch)
    assert len(traces) == 1
    step(params, state, jax.tree.map(lambda leaf: leaf[:5], batch))
    assert len(traces) == 2


@pytest.mark.parametrize("accumulate", [2, 4, 12])
def test_accumulated_gradient_is_the_large_batch_gradient(accumulate):
    params, batch = problem(rows=48)  # 48 rows of whole numbers, 2/48 a row: exact but for that one division
    whole = jax.value_and_grad(quadratic)(params, batch)
    parts = training._accumulated(lambda p, b: (quadratic(p, b), None), accumulate)[1](params, batch)
    (value, _), grads = parts
    np.testing.assert_array_max_ulp(value, whole[0], 4)
    for got, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(got), np.asarray(expected), 4)


def test_accumulation_in_float32_for_16_bit_parameters():
    """512 gradients of 1 sum to 256 in bfloat16, whose steps are 2 there."""
    seen = []

    def update(updates, state, params=None):
        seen.append(updates)
        return jax.tree.map(jnp.negative, updates), state

    tx = optax.GradientTransformation(lambda params: (), update)
    loss = lambda p, batch: jnp.mean(p * batch)
    step = make_step(loss, tx, accumulate=512)
    params, _, value = step(jnp.bfloat16(3.0), (), np.ones(512, jnp.bfloat16))
    assert seen[0].dtype == jnp.float32
    assert params.dtype == jnp.bfloat16
    assert (float(params), float(value), value.dtype) == (2.0, 3.0, jnp.float32)


def test_accumulate_must_divide_the_batch():
    params, batch = problem(rows=10)
    step = make_step(quadratic, optax.sgd(0.1), accumulate=4)
    message = "make_step: batch has 10 rows, expected a multiple of accumulate, which is 4"
    with pytest.raises(ValueError, match=message):
        step(params, optax.sgd(0.1).init(params), batch)
    with pytest.raises(ValueError, match="make_step: accumulate is 0, expected an integer of at least 1"):
        make_step(quadratic, optax.sgd(0.1), accumulate=0)


def test_aux_comes_back_and_is_stacked_by_micro_batch():
    params, batch = problem(rows=6)
    loss = lambda p, b: (quadratic(p, b), {"rows": b["y"], "mean": jnp.mean(b["y"])})
    tx = optax.sgd(0.1)
    step = make_step(loss, tx, has_aux=True, donate=False)
    new, _, (value, aux) = step(params, tx.init(params), batch)
    np.testing.assert_allclose(value, quadratic(params, batch))
    np.testing.assert_array_equal(aux["rows"], batch["y"])
    step = make_step(loss, tx, has_aux=True, accumulate=3, donate=False)
    accumulated, _, (value, aux) = step(params, tx.init(params), batch)
    np.testing.assert_allclose(value, quadratic(params, batch), rtol=1e-6)
    np.testing.assert_allclose(accumulated["w"], new["w"], rtol=1e-6)
    np.testing.assert_array_equal(aux["rows"], np.stack([batch["y"][i::3] for i in range(3)]))
    assert aux["mean"].shape == (3,)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_donation(accumulate):
    tx = optax.adam(0.1)
    ends = []
    for donate in (True, False):
        params, batch = problem()
        state = tx.init(params)
        step = make_step(quadratic, tx, donate=donate, accumulate=accumulate)
        new, new_state, _ = step(params, state, batch)
        gone = [leaf.is_deleted() for leaf in jax.tree.leaves((params, state))]
        assert gone == [donate] * len(gone)
        ends.append(step(new, new_state, batch)[0])
    np.testing.assert_array_equal(ends[0]["w"], ends[1]["w"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_update_is_offered_the_loss_and_its_gradient(accumulate):
    """What line searches, plateaus, sharpness-aware and Hessian-based transformations ask for."""
    params, batch = problem()
    offered = {}

    def update(updates, state, params, *, value, grad, value_fn, obj_fn, grad_fn, **extra):
        offered.update(value=value, value_fn=value_fn(params), obj_fn=obj_fn(params))
        offered.update(
            grad=grad, grad_fn=grad_fn(params), moved=value_fn(jax.tree.map(lambda p: p + 1, params))
        )
        return updates, dict(offered)

    tx = optax.GradientTransformationExtraArgs(lambda params: {}, update)
    _, got, _ = make_step(quadratic, tx, accumulate=accumulate, donate=False)(params, {}, batch)
    value, grads = jax.value_and_grad(quadratic)(params, batch)
    for name in ("value", "value_fn", "obj_fn"):
        np.testing.assert_allclose(got[name], value, rtol=1e-6)
    for name in ("grad", "grad_fn"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got[name], grads)
    np.testing.assert_allclose(
        got["moved"], quadratic(jax.tree.map(lambda p: p + 1, params), batch), rtol=1e-6
    )


def test_transformations_of_optax_that_read_extra_arguments_or_have_another_type():
    params, batch = problem()
    for tx in (optax.lbfgs(), optax.MultiSteps(optax.sgd(0.1), 2), optax.polyak_sgd(max_learning_rate=0.1)):
        step, state = make_step(quadratic, tx, donate=False), tx.init(params)
        end, state, first = step(params, state, batch)
        end, _, _ = step(end, state, batch)
        assert quadratic(end, batch) < first


def test_what_is_no_transformation_is_named():
    with pytest.raises(TypeError, match=r"make_step: tx is the function 'sgd', .* call it"):
        make_step(quadratic, optax.sgd)
    params, batch = problem()
    with pytest.raises(TypeError, match=r"fit: tx is 0.1"):
        fit(quadratic, params, 0.1, batch, key=KEY, batch_size=4, epochs=1)


# ------------------------------------------------------------------------------------------------ fit


def test_fit_is_the_loop_written_out():
    params, data = problem(rows=11)
    tx = optax.adam(0.1)
    before = jax.tree.map(np.array, params)
    result = fit(quadratic, params, tx, data, key=KEY, batch_size=4, epochs=3, validation_data=data)
    jax.tree.map(np.testing.assert_array_equal, params, before)  # neither donated nor changed

    step, state, losses, validation = make_step(quadratic, tx), tx.init(params), [], []
    for epoch in range(3):
        for batch in minibatches(jax.random.fold_in(KEY, epoch), data, 4):
            params, state, value = step(params, state, batch)
            losses.append(value)
        validation += [np.nan, np.nan, quadratic(params, data)]
    jax.tree.map(np.testing.assert_array_equal, result.state, state)
    np.testing.assert_array_equal(result.history["step"], np.arange(1, 10))
    np.testing.assert_array_equal(result.history["loss"], losses)
    np.testing.assert_allclose(result.history["validation_loss"], validation, rtol=1e-6)
    assert validation[-1] == np.nanmin(validation)
    jax.tree.map(np.testing.assert_array_equal, result.params, params)
    assert (result.step, result.stopped_early) == (9, False)


def scripted(script, **options):
    """``fit`` whose parameter counts its steps, and whose validation loss after step n is ``script[n - 1]``."""
    table = jnp.array([jnp.nan, *script])

    def loss(count, batch):
        now = jax.lax.stop_gradient(count).astype(int)
        return jnp.mean(jnp.where(batch, table[now], -count))

    options = {"evaluate_every": 1, "epochs": len(script), "batch_size": 2} | options
    data = {"data": np.zeros(2, bool), "validation_data": np.ones(3, bool)}
    result = fit(loss, np.float32(0), optax.sgd(1.0), **data, key=KEY, **options)
    return float(result.params), result.step, result.stopped_early, result.history["validation_loss"].tolist()


nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("script", "patience", "best", "steps", "stopped"),
    [
        ([5, 4, 3, 2, 1], 1, 5, 5, False),
        ([5, 4, 6, 7, 1], 2, 2, 4, True),
        ([5, 4, 6, 7, 1], 3, 5, 5, False),
        ([5, 5, 5, 5, 5], 3, 1, 4, True),  # equal is no improvement
        ([5, 4, 6, 3, 7, 8], 2, 4, 6, True),  # the count begins anew; it runs out in the last step
        ([5, nan, 4, nan, nan, 1], 2, 3, 5, True),  # NaN is never best
        ([nan, nan, 3, 4], 3, 3, 4, False),
        ([nan, nan, nan], 3, 3, 3, True),  # never a best one: the last parameters
        ([inf, 2, -inf, 1], None, 3, 4, False),
    ],
)
def test_early_stopping_follows_the_script(script, patience, best, steps, stopped):
    got = scripted(script, patience=patience)
    assert got[:3] == (best, steps, stopped)
    np.testing.assert_array_equal(got[3], script[:steps])


def test_evaluations_count_steps_and_the_last_step_is_evaluated():
    script = [9, 8, 7, 6, 5, 4, 3]
    best, _, _, validation = scripted(script, evaluate_every=3)
    np.testing.assert_array_equal(validation, [nan, nan, 7, nan, nan, 4, 3])
    assert best == 7
    assert scripted(script, evaluate_every=100)[3][-1] == 3


def test_a_validation_remainder_weighs_by_its_rows():
    data = {"x": np.arange(6.0, dtype=np.float32)}
    validation = {"x": np.array([1.0, 2.0, 4.0, 8.0, 100.0], np.float32)}
    loss = lambda w, batch: w * jnp.mean(batch["x"])
    options = {"key": KEY, "epochs": 1, "validation_data": validation}
    result = fit(loss, 1.0, optax.sgd(0.0), data, batch_size=4, **options)
    assert result.history["validation_loss"].tolist()[-1] == 23.0
    result = fit(loss, 1.0, optax.sgd(0.0), data, batch_size=6, **options)  # fewer rows than one batch
    assert result.history["validation_loss"].tolist() == [23.0]


def test_aux_is_dropped_and_the_step_is_traced_once_per_shape():
    params, data = problem(rows=8)
    loss, traces = counting(lambda p, b: (quadratic(p, b), b["x"]))
    fit(loss, params, optax.adam(0.1), data, key=KEY, batch_size=4, epochs=3, has_aux=True)
    assert len(traces) == 1
    fit(loss, params, optax.adam(0.1), data, key=KEY, batch_size=3, epochs=2, has_aux=True)
    assert len(traces) == 3


def test_a_state_that_shares_arrays_with_the_parameters_or_is_weakly_typed():
    """As optax's prodigy and dog do; a donated array may be handed over only once."""
    params, data = problem()
    seen = []

    def update(updates, state, params=None):
        seen.append(state["weak"].weak_type)
        return updates, {**state, "first": state["again"], "weak": jnp.asarray(1.0)}

    init = lambda params: {"first": params, "again": params, "weak": jnp.asarray(1.0)}
    tx = optax.chain(optax.sgd(0.1), optax.GradientTransformation(init, update))
    result = fit(quadratic, params, tx, data, key=KEY, batch_size=6, epochs=2)
    assert seen == [False]  # one trace, with the types that a checkpoint can hold
    np.testing.assert_array_equal(result.state[1]["first"]["w"], params["w"])


def test_losses_are_not_fetched_one_by_one(monkeypatch):
    monkeypatch.setattr(training, "FETCH_EVERY", 8)
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda x: (fetched.append(len(x)), [np.asarray(v) for v in x])[1])
    params, data = problem()
    result = fit(quadratic, params, optax.sgd(0.01), data, key=KEY, batch_size=4, epochs=6)
    assert fetched == [8, 8, 2]
    assert np.isfinite(result.history["loss"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 13}, "batch_size is 13, expected at most 12, the rows of data"),
        ({"epochs": 0}, "epochs is 0, expected an integer of at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0, expected an integer of at least 1"),
        ({"patience": 2}, "patience is 2, expected None, since there is no validation_data"),
        ({"evaluate_every": 2}, "evaluate_every is 2, expected None, since there is no validation_data"),
        (
            {"validation_data": {"x": np.ones((3, 2)), "y": np.ones(2)}},
            "validation_data['y'] has 2 rows, expected 3",
        ),
        (
            {"validation_data": {"x": np.ones((3, 2))}},
            "validation_data has the tree PyTreeDef({'x': *}), expected",
        ),
        ({"validation_data": {"x": np.ones((3, 2))}, "patience": 0}, "patience is 0, expected an integer"),
    ],
)
def test_options_out_of_range(options, message):
    params, data = problem()
    with pytest.raises(ValueError, match="^fit: " + re.escape(message)):
        fit(quadratic, params, optax.sgd(0.1), data, **{"key": KEY, "batch_size": 4, "epochs": 1} | options)


def test_progress(capsys, monkeypatch):
    params, data = problem()
    options = {"key": KEY, "batch_size": 4, "epochs": 2}
    fit(quadratic, params, optax.sgd(0.1), data, **options)
    assert capsys.readouterr() == ("", "")
    fit(quadratic, params, optax.sgd(0.1), data, **options, validation_data=data, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "6/6" in shown.err
    assert "loss=" in shown.err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        fit(quadratic, params, optax.sgd(0.1), data, **options, progress=True)
