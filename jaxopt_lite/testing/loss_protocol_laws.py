"""Laws about calling and differentiating a loss."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.compare import expect, expect_close, expect_finite, plain, temporary_bytes
from jaxopt_lite.testing.loss_case import LossCase as Case
from jaxopt_lite.testing.loss_case import is_float
from jaxopt_lite.testing.quick import quick_jit
from jaxopt_lite.testing.report import NotRun

HALF = (jnp.bfloat16, jnp.float16)


def finite_float32(case: Case) -> None:
    """float32 inputs give a finite float32 loss of a shape that `eval_shape` foretells."""
    kind = jax.eval_shape(case.loss, *case.inputs)
    expect(case.result.dtype == jnp.float32, "wrong dtype", got=case.result.dtype, expected="float32")
    expect(kind.shape == case.result.shape, "wrong shape", got=kind.shape, expected=case.result.shape)
    expect_finite(case.result, "the loss", input="ordinary inputs")


def jit_equals_eager(case: Case) -> None:
    """The compiled loss is the plain one; Python control flow on values breaks under ``jit``."""
    expect_close(jax.jit(case.loss)(*case.inputs), case.result, "the compiled loss")


def jitted_inside_a_gradient(case: Case) -> None:
    """A compiled loss in a compiled gradient: labels as ``nondiff_argnums`` of a custom rule leak a tracer there."""
    jitted = jax.jit(case.loss)
    total = lambda *inputs: jnp.sum(jitted(*inputs))
    got = case.compiled(jax.grad(total, case.argnums))(*case.inputs)
    for i, slope, want in zip(case.argnums, got, case.gradient(case.inputs), strict=True):
        expect_close(slope, want, f"the gradient by argument {i}")


def vmap_equals_loop(case: Case) -> None:
    """``vmap`` over stacked problems is a loop over them; a reduction over a wrong axis shows here."""
    other = case.pick(case.inputs, np.arange(case.inputs[0].shape[0])[::-1])
    both = [np.stack(pair) for pair in zip(case.inputs, other, strict=True)]
    got = quick_jit(jax.vmap(case.loss))(*both)
    expect_close(got[0], case.result, "the first loss under vmap")
    expect_close(got[1], case.value(*other), "the second loss under vmap")


def gradient_matches_differences(case: Case) -> None:
    """Derivatives agree with central differences in float64; a hand-written one is wrong more often than not."""
    with jax.enable_x64(True):
        inputs = [jnp.asarray(x) for x in case.wide(case.inputs)]
        for i, slope in zip(case.argnums, case.gradient(inputs), strict=True):
            for seed in range(3):
                v = np.random.default_rng(seed).normal(size=inputs[i].shape)
                moved = lambda h, i=i, v=v: [*inputs[:i], jnp.asarray(inputs[i] + h * v), *inputs[i + 1 :]]
                along = lambda h, moved=moved: float(plain(case.value(*moved(h))).sum())
                want, parts = (along(1e-5) - along(-1e-5)) / 2e-5, plain(slope) * v
                size = 1e-6 * (abs(along(0.0)) + np.abs(parts).sum())
                got = parts.sum()
                expect_close(got, want, f"the derivative by argument {i}", rtol=1e-5, atol=size)


def forward_equals_reverse(case: Case) -> None:
    """``jvp`` and ``vjp`` agree; a loss with only a reverse rule has no forward one for line searches."""
    with jax.enable_x64(True):
        inputs = [jnp.asarray(x) for x in case.wide(case.inputs)]
        for i, reverse in zip(case.argnums, case.gradient(inputs), strict=True):
            v = jnp.asarray(np.random.default_rng(1).normal(size=inputs[i].shape))
            along = lambda x, i=i: case.total(*inputs[:i], x, *inputs[i + 1 :])
            forward = case.compiled(lambda x, v, f=along: jax.jvp(f, (x,), (v,))[1])(inputs[i], v)
            want = (plain(reverse) * plain(v)).sum()
            expect_close(forward, want, "the forward derivative", rtol=1e-7, atol=1e-12)


def second_derivative_is_finite(case: Case) -> None:
    """Hessian-vector products exist and are finite: second-order methods and influence functions need them."""
    slope = lambda x: jax.grad(case.total)(x, *case.inputs[1:])
    along = case.compiled(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),))[1])
    expect_finite(along(case.inputs[0]), "the second derivative")


def gradient_has_the_arguments_dtype(case: Case) -> None:
    """A bfloat16 argument gets a bfloat16 gradient: another dtype doubles memory or breaks the update."""
    for dtype in HALF:
        inputs = [x.astype(dtype) if is_float(x) else x for x in case.inputs]
        for slope in case.gradient(inputs):
            expect(slope.dtype == dtype, "wrong dtype", got=slope.dtype, expected=dtype.__name__)
            expect_finite(slope, "the gradient", input=dtype.__name__)


def sixteen_bit_is_accurate(case: Case) -> None:
    """16-bit inputs lose no more than a rounding or four: sums over classes in 16 bits lose far more."""
    for dtype in HALF:
        inputs = [x.astype(dtype) if is_float(x) else x for x in case.inputs]
        want, got = case.reference(inputs), case.value(*inputs)
        error = 4.0 * float(jnp.finfo(dtype).eps)
        expect_close(got, want, "the loss", rtol=error, atol=error, input=dtype.__name__)


def float32_result(case: Case) -> None:
    """[claim: float32_result] 16-bit inputs give a float32 loss: in bfloat16 a loss of 11 moves in steps of 1/16."""
    case.needs("float32_result")
    for dtype in HALF:
        inputs = [x.astype(dtype) if is_float(x) else x for x in case.inputs]
        got = case.value(*inputs)
        expect(
            got.dtype == jnp.float32, "wrong dtype", input=dtype.__name__, got=got.dtype, expected="float32"
        )
        expect_close(got, case.reference(inputs), "the loss", rtol=1e-5, atol=1e-6, input=dtype.__name__)


def temporaries_within_budget(case: Case) -> None:
    """[8; else claim temporaries<=n] Scratch memory of value and gradient, in sizes of all inputs together."""
    first = case.inputs[0]
    if first.ndim < 2 or any(x.ndim == 0 or x.shape[0] != first.shape[0] for x in case.inputs):
        raise NotRun("needs inputs that all have the examples' axis and more than one axis")
    inputs = [jax.ShapeDtypeStruct((4096, *x.shape[1:]), x.dtype) for x in case.inputs]
    if "couples_examples" in case.claims:
        raise NotRun("a loss that compares all examples with each other may use their square")
    compiled = jax.jit(jax.value_and_grad(case.total)).lower(*inputs).compile()
    used = temporary_bytes(compiled) / sum(x.size * x.dtype.itemsize for x in inputs)
    budget = case.claims.budgets.get("temporaries", 8.0)
    expect(
        used <= budget, "too much temporary memory", input="4096 examples", got=used, expected=f"≤ {budget:g}"
    )


def matches_oracle(case: Case) -> None:
    """[oracle given] The value is the float64 formula's: every other law can hold for a wrong formula."""
    if case.oracle is None:
        raise NotRun("needs oracle=")
    for inputs, what in ((case.inputs, "ordinary"), (case.hostile(), "hostile")):
        with np.errstate(all="ignore"):
            want = np.asarray(case.oracle(*case.wide(inputs)), np.float64)
        got, knows = plain(case.value(*inputs)), ~np.isnan(want) & (np.abs(want) < 3e38)
        size = 1e-6 * max(1.0, float(np.max(np.abs(plain(inputs[0])), initial=0.0)))
        expect_close(got[knows], want[knows], "the loss", rtol=3e-6, atol=size, input=f"{what} inputs")
