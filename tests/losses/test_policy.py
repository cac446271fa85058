"""Policy losses against their formulas and TRL's GRPO; overflowing ratios, masks, equal rewards; derivatives."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_lite import losses
from tests.oracles import losses_more as oracle
from tests.users import Jitted

policy = Jitted(losses.policy)
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "policy_trl.json").read_text())
INF = jnp.inf
RNG = np.random.default_rng(0)
NEW = -2 * RNG.random((4, 6))
OLD = NEW + 0.5 * RNG.standard_normal((4, 6))
REFERENCE = NEW + 0.5 * RNG.standard_normal((4, 6))
A = np.array([1.5, -0.5, 0.25, -2.0])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0] * 6, [0, 1, 1, 0, 1, 0]], bool)
SURROGATES = [{}, {"clip_low": 0.25, "clip_high": 0.5}, {"clip_low": 0.25, "dual_clip": 3.0}]


@pytest.mark.parametrize("options", SURROGATES, ids=str)
@pytest.mark.parametrize("advantage", [1.0, -1e4, 2.0**-14])
def test_surrogate_exact_on_hostile_ratios(options, advantage):
    new, old = oracle.grid(2)
    small = np.abs(new - old) < 60  # beyond, float32 overflows: below
    arrays = [new[small], old[small], np.full(small.sum(), advantage)]
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        oracle.assert_as_good_as_its_inputs(
            policy.clipped_surrogate_loss, oracle.clipped_surrogate_loss, arrays, dtype, **options
        )


@pytest.mark.parametrize("options", SURROGATES, ids=str)
def test_overflowing_ratios(options):
    new, old = jnp.array([1e4, 1e4, 1e4, -1e4, -1e4, -1e4]), jnp.zeros(6)
    a = jnp.array([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])
    f = lambda x: policy.clipped_surrogate_loss(x, old, a, **options)
    value, vjp = jax.vjp(f, new)
    high, low = 1 + options.get("clip_high", options.get("clip_low", 0.2)), 1 - options.get("clip_low", 0.2)
    worst = options.get("dual_clip", INF)
    np.testing.assert_allclose(value, [-high, 0, worst, 0, 0, low], rtol=1e-6)
    slope = [0, 0, 0 if "dual_clip" in options else INF, 0, 0, 0]
    np.testing.assert_array_equal(vjp(jnp.ones(6))[0], slope)
    np.testing.assert_array_equal(jax.jvp(f, (new,), (jnp.ones(6),))[1], slope)


def test_k3_exact_from_nothing_to_overflow():
    new, reference = oracle.grid(2)
    small = np.abs(new - reference) < 60
    near = np.array([1e-30, -1e-12, 1e-7, 0.9999, 1.0001, -0.9999, -1.0001, 0.3])
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        for pair in ([new[small], reference[small]], [near, 0 * near], [0 * near, near]):
            oracle.assert_as_good_as_its_inputs(policy.k3_kl, oracle.k3_kl, pair, dtype)
    far, vjp = jax.vjp(lambda x: policy.k3_kl(x, jnp.zeros(4)), jnp.array([-1e4, -INF, 1e4, INF]))
    np.testing.assert_array_equal(far, [INF, INF, 1e4 - 1, INF])
    np.testing.assert_array_equal(vjp(jnp.ones(4))[0], [-INF, -INF, 1, 1])


def test_value_clip_exact():
    grid = [g.astype(np.float64) for g in oracle.grid(3)]
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        oracle.assert_as_good_as_its_inputs(
            policy.value_clip_loss, oracle.value_clip_loss, grid, dtype, differentiate=(0, 1, 2), clip=0.25
        )


def test_entropy():
    rows = np.array([[0, 0, 0.0], [30, 0, -30], [1e4, -1e4, 1e4], [1, 2, 3]])
    want, (slope,) = oracle.evaluate(oracle.policy_entropy, rows)
    for dtype in oracle.DTYPES:
        with jax.enable_x64(dtype == jnp.float64):
            value, vjp = jax.vjp(policy.policy_entropy, jnp.asarray(rows, dtype))
            eps = float(jnp.finfo(value.dtype).eps)
            np.testing.assert_allclose(value, want, rtol=4 * eps, atol=4 * eps)
            (gradient,) = vjp(jnp.ones_like(value))
            assert gradient.dtype == dtype
            np.testing.assert_allclose(
                np.asarray(gradient, np.float64), slope, atol=4 * float(jnp.finfo(dtype).eps)
            )
    barred = jnp.array([[0.0, -INF, 0.0], [-INF, 5.0, -INF]])
    value, vjp = jax.vjp(policy.policy_entropy, barred)
    np.testing.assert_allclose(value, [np.log(2), 0], rtol=1e-6)
    np.testing.assert_array_equal(vjp(jnp.ones(2))[0], 0)
    np.testing.assert_allclose(policy.policy_entropy(rows.T, axis=0), policy.policy_entropy(rows), rtol=1e-6)


def test_derivatives():
    token = [np.asarray(a[0], np.float32) for a in (NEW, OLD)]
    cases = {
        policy.clipped_surrogate_loss: (*token, np.asarray([1, -1, 0.5, -0.25, 2, -1], np.float32)),
        policy.k3_kl: token,
        policy.value_clip_loss: (*token, np.ones(6, np.float32)),
        policy.policy_entropy: (np.asarray(NEW, np.float32),),
    }
    for loss, args in cases.items():
        oracle.assert_smooth(loss, *args)
    oracle.assert_smooth(policy.group_advantages, NEW)
    for variant in policy.VARIANTS[:4]:  # the gradient of cispo is none of its value
        f = lambda *xs, v=variant: policy.grpo_loss(
            *xs[:3], mask=MASK, variant=v, clip_high=0.3, reference_logps=xs[3], kl_weight=0.5
        )
        oracle.assert_smooth(f, NEW, OLD, A, REFERENCE)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['variant']}-{c['kl_weight']}")
def test_grpo_equal_to_trl(case):
    numbers = {k: np.array(GOLDEN[k]) for k in ("old_logps", "reference_logps", "advantages", "mask")}
    old, reference, advantages, mask = numbers.values()
    options = {"variant": case["variant"], "kl_weight": case["kl_weight"], "clip_high": 0.28, "max_length": 8}
    with jax.enable_x64(True):
        f = lambda x: policy.grpo_loss(x, old, advantages, mask=mask, reference_logps=reference, **options)
        value, gradient = jax.value_and_grad(f)(jnp.array(GOLDEN["logps"]))
        np.testing.assert_allclose(value, case["loss"], rtol=1e-12)
        np.testing.assert_allclose(gradient, case["gradient"], rtol=1e-10, atol=1e-15)


def test_entropy_and_advantages_equal_to_torch():
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            policy.policy_entropy(jnp.array(GOLDEN["logits"])), GOLDEN["entropy"], rtol=1e-13
        )
        got = policy.group_advantages(jnp.array(GOLDEN["rewards"]))
        np.testing.assert_allclose(got, GOLDEN["group_advantages"], rtol=1e-12)


@pytest.mark.parametrize("variant", policy.VARIANTS)
def test_grpo_exact_and_blind_to_what_is_masked(variant):
    want = oracle.grpo_loss(NEW, OLD, A, MASK, variant, 0.1, 0.3, REFERENCE, 0.5, 8)
    hide = lambda x: jnp.asarray(np.where(MASK, x, np.nan), jnp.float32)
    a = jnp.asarray(A, jnp.float32).at[2].set(jnp.nan)  # the sequence without tokens
    options = {"variant": variant, "clip_low": 0.1, "clip_high": 0.3, "kl_weight": 0.5, "max_length": 8}
    f = jax.jit(
        jax.value_and_grad(
            lambda x, mask: policy.grpo_loss(
                x, hide(OLD), a, mask=mask, reference_logps=hide(REFERENCE), **options
            )
        )
    )
    value, gradient = f(hide(NEW), MASK)
    np.testing.assert_allclose(value, want, rtol=2e-6)
    assert (gradient[~MASK] == 0).all()
    assert (np.isfinite(gradient) & (gradient != 0))[MASK].any()
    value, gradient = f(hide(NEW), np.zeros_like(MASK))
    assert value == 0
    assert (gradient == 0).all()
    half = policy.grpo_loss(
        hide(NEW).astype(jnp.bfloat16),
        hide(OLD),
        a,
        mask=MASK.astype(np.int32),
        reference_logps=hide(REFERENCE),
        **options,
    )
    assert half.dtype == jnp.float32
    batch = lambda *xs: policy.grpo_loss(*xs[:3], mask=xs[3], variant=variant)
    stacked = [jnp.stack([jnp.asarray(x), jnp.asarray(x)[::-1]]) for x in (NEW, OLD, A, MASK)]
    np.testing.assert_allclose(
        jax.vmap(batch)(*stacked), [batch(*(s[i] for s in stacked)) for i in (0, 1)], rtol=1e-5
    )


@pytest.mark.parametrize("variant", policy.VARIANTS)
def test_grpo_at_impossible_ratios(variant):
    new = jnp.array([[1e4, -1e4], [1e4, -1e4], [0.0, -INF]])
    f = lambda x, a: policy.grpo_loss(x, jnp.zeros((3, 2)), a, mask=jnp.ones((3, 2), bool), variant=variant)
    for a in ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]):
        value, gradient = jax.value_and_grad(f)(new, jnp.array(a))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert a[0] or value == 0


def test_cispo_passes_gradient_to_the_log_probability_alone():
    f = lambda x: policy.grpo_loss(
        x,
        jnp.zeros((1, 2)),
        jnp.array([2.0]),
        mask=jnp.ones((1, 2)),
        variant="cispo",
        clip_low=0.1,
        clip_high=0.5,
    )
    gradient = jax.grad(f)(jnp.log(jnp.array([[4.0, 0.25]])))
    np.testing.assert_allclose(gradient, [[-1.5, -0.25]], rtol=1e-6)


def test_group_advantages():
    rewards = RNG.random((3, 5))
    for scale in (1.0, 1e-25, 1e20):
        got = policy.group_advantages(jnp.asarray(rewards * scale, jnp.float32), eps=1e-30)
        np.testing.assert_allclose(got, oracle.group_advantages(rewards, eps=0.0), rtol=1e-4)
    np.testing.assert_allclose(policy.group_advantages(rewards), oracle.group_advantages(rewards), rtol=1e-5)
    centred = policy.group_advantages(rewards, scale=False)
    np.testing.assert_allclose(centred, rewards - rewards.mean(1, keepdims=True), atol=1e-6)
    equal = jnp.broadcast_to(jnp.array([[0.1], [0.3], [1e20]]), (3, 7))
    for eps in (1e-4, 0.0):
        value, vjp = jax.vjp(lambda r, e=eps: policy.group_advantages(r, eps=e), equal)
        assert (value == 0).all()
        assert np.isfinite(vjp(jnp.ones((3, 7)).at[:, 0].set(2.0))[0]).all()
    single, vjp = jax.vjp(policy.group_advantages, jnp.array([[3.0], [5.0]]))
    np.testing.assert_array_equal(single, 0)
    np.testing.assert_array_equal(vjp(single)[0], 0)
    assert policy.group_advantages(jnp.zeros((2, 0))).shape == (2, 0)
    assert policy.group_advantages(jnp.array([[0, 1]])).dtype == jnp.float32
    by_group = jax.vmap(policy.group_advantages)(rewards)
    np.testing.assert_allclose(by_group, policy.group_advantages(rewards), rtol=1e-6)


def test_wrong_arguments_are_named():
    fault, grpo = oracle.assert_names_the_fault, policy.grpo_loss
    fault("grpo_loss", "logps", lambda: grpo(NEW[0], OLD[0], A, mask=MASK[0]))
    fault("grpo_loss", "old_logps", lambda: grpo(NEW, OLD[:1], A, mask=MASK))
    fault("grpo_loss", "advantages", lambda: grpo(NEW, OLD, NEW, mask=MASK))
    fault("grpo_loss", "mask", lambda: grpo(NEW, OLD, A, mask=MASK[:, 0]))
    fault("grpo_loss", "variant", lambda: grpo(NEW, OLD, A, mask=MASK, variant="ppo"))
    fault("grpo_loss", "reference_logps", lambda: grpo(NEW, OLD, A, mask=MASK, kl_weight=0.1))
    fault(
        "grpo_loss", "reference_logps", lambda: grpo(NEW, OLD, A, mask=MASK, kl_weight=0.1, reference_logps=A)
    )
    fault("grpo_loss", "clip_low", lambda: grpo(NEW, OLD, A, mask=MASK, clip_low=-0.1))
    fault("grpo_loss", "clip_high", lambda: grpo(NEW, OLD, A, mask=MASK, clip_high=jnp.ones(2)))
    fault("clipped_surrogate_loss", "advantages", lambda: policy.clipped_surrogate_loss(NEW, OLD, A))
    fault(
        "clipped_surrogate_loss", "dual_clip", lambda: policy.clipped_surrogate_loss(A, A, A, dual_clip=1.0)
    )
    fault("k3_kl", "reference_logps", lambda: policy.k3_kl(NEW, A))
    fault("value_clip_loss", "returns", lambda: policy.value_clip_loss(NEW, OLD, A))
    fault("group_advantages", "rewards", lambda: policy.group_advantages(1.0))
    fault("policy_entropy", "where", lambda: policy.policy_entropy(NEW, where=MASK))
