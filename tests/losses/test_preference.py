"""Preference losses against their formulas, at log-ratios of ±1e4 and at certainty; TRL's numbers; derivatives."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import losses
from tests.oracles import losses_more as oracle
from tests.users import Jitted

preference = Jitted(losses.preference)
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "preference_trl.json").read_text())
INF = jnp.inf
FOUR = ["dpo_loss", "ipo_loss"]
CASES = {
    "dpo": ("dpo_loss", 4, {"beta": 0.125}),
    "dpo_smoothed": ("dpo_loss", 4, {"beta": 0.125, "label_smoothing": 0.25}),
    "dpo_robust": ("dpo_loss", 4, {"beta": 0.125, "label_smoothing": 0.25, "variant": "robust"}),
    "dpo_hinge": ("dpo_loss", 4, {"beta": 0.125, "variant": "hinge"}),
    "ipo": ("ipo_loss", 4, {"beta": 0.125}),
    "simpo": ("simpo_loss", 2, {}),
    "cpo": ("cpo_loss", 2, {"beta": 0.125, "alpha": 0.75}),
    "bradley_terry": ("bradley_terry_loss", 2, {}),
    "bradley_terry_centred": ("bradley_terry_loss", 2, {"margin": 0.5, "centering": 0.25}),
}


def logps(count, seed=0, size=6):
    return [np.asarray(-5 * r, np.float32) for r in np.random.default_rng(seed).random((count, size))]


@pytest.mark.parametrize("case", CASES)
def test_exact_on_hostile_inputs(case):
    name, count, options = CASES[case]
    for dtype in oracle.DTYPES:
        oracle.assert_as_good_as_its_inputs(
            getattr(preference, name), getattr(oracle, name), oracle.grid(count), dtype, **options
        )


def test_orpo_exact_to_both_ends():
    ends = np.array([-(2.0**-24), -1e-3, -0.5, -np.log(2), -1.0, -30.0, -1e4])
    w, l = (a.ravel() for a in np.meshgrid(ends, ends))
    for dtype in oracle.DTYPES:
        oracle.assert_as_good_as_its_inputs(preference.orpo_loss, oracle.orpo_loss, [w, l], dtype, beta=0.125)


def test_orpo_at_certainty():
    w, l = jnp.array([0.0, -1.0, 0.0, 1e-7]), jnp.array([-1.0, 0.0, 0.0, -1.0])
    f = lambda w, l: preference.orpo_loss(w, l, beta=1.0)
    value, vjp = jax.vjp(f, w, l)
    odds = 1 / (np.e - 1)
    np.testing.assert_allclose(value, [0, INF, np.log(2), -1e-7], rtol=1e-6)  # the last: nll alone
    to_w, to_l = vjp(jnp.ones(4))
    np.testing.assert_allclose(to_w, [-1 - odds, -1 - 1 / (1 - np.exp(-1.0)), -1, -1 - odds], rtol=1e-5)
    np.testing.assert_array_equal(to_l, [0, INF, 0, 0])
    tangent = jax.jvp(f, (w, l), (jnp.ones(4), jnp.zeros(4)))[1]
    np.testing.assert_allclose(
        tangent[jnp.array([0, 2, 3])], to_w[jnp.array([0, 2, 3])], rtol=1e-6
    )  # 0·∞ at 1


def test_kto_exact_on_hostile_inputs():
    w, w_ref = oracle.grid(2)
    for good in (True, False):
        for dtype in oracle.DTYPES:
            oracle.assert_as_good_as_its_inputs(
                lambda w, r, g, **k: preference.kto_loss(w, r, g, **k),
                oracle.kto_loss,
                [w, w_ref, np.full(len(w), good)],
                dtype,
                kl=0.5,
                beta=0.125,
                desirable_weight=2.0,
                undesirable_weight=0.5,
            )


def test_kto_baseline_is_clamped_and_constant():
    w, r = logps(2)
    good = jnp.arange(6) % 2 == 0
    f = lambda kl: preference.kto_loss(w, r, good, kl=kl, reduction="sum")
    assert f(-3.0) == f(0.0) != f(3.0)
    assert jax.grad(f)(3.0) == 0


@pytest.mark.parametrize("case", CASES)
def test_infinite_log_probabilities_have_their_limits(case):
    name, count, options = CASES[case]
    loss = getattr(preference, name)
    rest = [jnp.zeros(2)] * (count - 2)
    f = lambda w, l: loss(w, l, *rest, **options)
    value = f(jnp.array([0.0, -INF]), jnp.array([-INF, 0.0]))  # rejected, then chosen, is impossible
    first = {"dpo_robust": -INF, "dpo_smoothed": INF, "ipo": INF, "bradley_terry_centred": INF}.get(case, 0)
    np.testing.assert_array_equal(value, [first, INF])


@pytest.mark.parametrize("case", [*CASES, "orpo", "kto"])
def test_derivatives(case):
    name, count, options = CASES.get(case, (f"{case}_loss", 2, {}))
    loss, args = getattr(preference, name), [jnp.asarray(a) for a in logps(count)]
    if case == "kto":
        args.append(jnp.arange(6) % 2 == 0)
        options = {"kl": 0.5}
    rest = args[2:] if case == "kto" else []
    oracle.assert_smooth(
        lambda *a: loss(*a, *rest, **options), *(a - 1 for a in args[: len(args) - len(rest)])
    )


def test_options_that_come_as_arrays():
    w, l = logps(2)
    nll = jnp.full(6, 2.0)
    np.testing.assert_allclose(
        preference.cpo_loss(w, l, chosen_nll=nll) - preference.cpo_loss(w, l), 2 + w, rtol=1e-5
    )
    np.testing.assert_allclose(
        preference.orpo_loss(w, l, chosen_nll=nll) - preference.orpo_loss(w, l), 2 + w, rtol=1e-5
    )
    margins = jnp.array([0.0, 1, 2, 3, 4, jnp.nan])
    where = jnp.arange(6) < 5
    f = lambda c: preference.bradley_terry_loss(c, l, margin=margins, where=where)
    single = [preference.bradley_terry_loss(w[i], l[i], margin=float(i)) for i in range(5)]
    np.testing.assert_allclose(f(w)[:5], single, rtol=1e-6)
    assert f(w)[5] == 0
    assert jax.grad(lambda c: f(c).sum())(w)[5] == 0
    np.testing.assert_allclose(
        jax.jit(lambda b: preference.simpo_loss(w, l, beta=b))(2.0), preference.simpo_loss(w, l), rtol=1e-6
    )
    assert (
        preference.cpo_loss(jnp.array([0.0]), jnp.array([-1.0]), alpha=0.0, chosen_nll=jnp.array([INF]))[0]
        < 1
    )
    assert preference.dpo_loss(*logps(4), beta=jnp.float16(0.5)).dtype == jnp.float32


def test_wrong_arguments_are_named():
    w, l, wr, lr = logps(4)
    fault = oracle.assert_names_the_fault
    fault("dpo_loss", "rejected_logps", lambda: preference.dpo_loss(w, l[:, None], wr, lr))
    fault("dpo_loss", "variant", lambda: preference.dpo_loss(w, l, wr, lr, variant="ipo"))
    fault("dpo_loss", "label_smoothing", lambda: preference.dpo_loss(w, l, wr, lr, label_smoothing=0.5))
    fault(
        "dpo_loss",
        "label_smoothing",
        lambda: preference.dpo_loss(w, l, wr, lr, variant="hinge", label_smoothing=0.1),
    )
    fault("dpo_loss", "beta", lambda: preference.dpo_loss(w, l, wr, lr, beta=jnp.ones(6)))
    fault("ipo_loss", "beta", lambda: preference.ipo_loss(w, l, wr, lr, beta=0.0))
    fault("cpo_loss", "chosen_nll", lambda: preference.cpo_loss(w, l, chosen_nll=jnp.ones(())))
    fault("kto_loss", "kl", lambda: preference.kto_loss(w, l, w < -1, kl=jnp.zeros(6)))
    fault("kto_loss", "desirable", lambda: preference.kto_loss(w, l, jnp.array(True), kl=0.0))
    fault("kto_loss", "desirable", lambda: preference.kto_loss(w, l, w, kl=0.0), TypeError)
    fault("bradley_terry_loss", "margin", lambda: preference.bradley_terry_loss(w, l, margin=jnp.ones(3)))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["name"])
def test_equal_to_trl(case):
    arrays = [np.array(GOLDEN["inputs"][k]) for k in case["inputs"]]
    options = dict(case["options"])
    if "desirable" in case:
        arrays.append(np.array(case["desirable"]))
    with jax.enable_x64(True):
        f = lambda *a: getattr(preference, case["loss"])(*a, *arrays[len(a) :], **options)
        value, vjp = jax.vjp(f, *(jnp.asarray(a) for a in arrays[:2]))
        np.testing.assert_allclose(value, case["values"], rtol=1e-12)
        for ours, theirs in zip(vjp(jnp.ones_like(value)), case["gradients"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)
