"""What compile_for.py compiles: every optimizer's update, every loss's gradient, a training step of every example."""

import contextlib
import functools
import inspect
import pathlib
import re
import sys

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import gpt

import jaxopt_lite as jol

f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
i32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
boolean = lambda *shape: jax.ShapeDtypeStruct(shape, bool)


FACTORIES = {
    "schedule_free": lambda: jol.optimizers.schedule_free(jol.adam(1e-3, b1=0.0), 1e-3),
    "schedule_free_eval_params": None,  # a function of the state
    "hutchinson_estimator_diag_hessian": None,  # a part of sophia
    "scale_by_schedule": lambda: jol.optimizers.scale_by_schedule(jol.schedules.constant(1.0)),
}


def optimizers():
    """Name → transformation, of everything that ``optimizers`` exports."""
    for name in jol.optimizers.__all__:
        make = FACTORIES.get(name, functools.partial(_by_default, getattr(jol.optimizers, name)))
        if make is not None:
            yield name, make()


def _by_default(factory):
    given = {"learning_rate": 1e-3, "step_size": 1e-3, "decay": 0.9}
    return factory(**{k: v for k, v in given.items() if k in required(factory)})


def required(function):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]


def update_step(tx):
    """One update, applied; and Sophia's Hessian of an objective."""

    def step(params, state, grads):
        objective = lambda p: sum(jnp.sum(x * x) for x in jax.tree.leaves(p))
        updates, state = tx.update(grads, state, params, obj_fn=objective)
        return jol.apply_updates(params, updates), state

    return step


# A loss's inputs by the names of its arguments; every other name is [8, 16], or [8] for rewards and log-probabilities.
NAMED = {
    "hidden": f32(8, 32), "kernel": f32(32, 16), "teacher_hidden": f32(8, 32), "teacher_kernel": f32(32, 16),
    "advantages": f32(8), "values": f32(8), "old_values": f32(8), "returns": f32(8), "desirable": boolean(8),
    "temperature": f32(), "bias": f32(), "kl": f32(), "alpha": f32(),
}  # fmt: skip
OF_ONE = re.compile(r"(logps|_rewards)$")
CTC = {
    "logits": f32(4, 16, 8),
    "logit_paddings": f32(4, 16),
    "labels": i32(4, 5),
    "label_paddings": f32(4, 5),
}
SPECIAL = {
    "ctc_loss": CTC,
    "ctc_loss_with_forward_probs": CTC,
    "grpo_loss": {"logps": f32(8, 16), "old_logps": f32(8, 16), "advantages": f32(8), "mask": boolean(8, 16)},
    "make_fenchel_young_loss": {"scores": f32(8, 16), "targets": f32(8, 16)},
}


def losses():
    """Name → value and gradient, and the shapes of the arguments."""
    for name in jol.losses.__all__:
        loss = getattr(jol.losses, name)
        if name == "make_fenchel_young_loss":
            loss = functools.partial(_fenchel_young, loss(jax.nn.logsumexp))
        yield name, gradient_of(loss), arguments_of(name, loss)


def _fenchel_young(loss, *, scores, targets):
    return jax.vmap(loss)(scores, targets)


def gradient_of(loss):
    """Value, and gradient with respect to all floating arguments."""

    def step(arguments):
        floating = {k: x for k, x in arguments.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        total = lambda some: sum(jnp.sum(x) for x in jax.tree.leaves(loss(**(arguments | some))))
        return jax.value_and_grad(total)(floating)

    return step


def arguments_of(name, loss):
    """Shapes under the argument's names; labels are rows that sum to one, or class ids, or numbers: whatever fits."""
    if name in SPECIAL:
        return SPECIAL[name]
    names = required(loss)
    shapes = {n: NAMED.get(n, f32(8) if OF_ONE.search(n) else f32(8, 16)) for n in names}
    for labels in (f32(8, 16), i32(8), i32(8, 16)):
        fitted = shapes | ({"labels": labels} if "labels" in names else {})
        with contextlib.suppress(ValueError, TypeError):
            jax.eval_shape(lambda tree: loss(**tree), fitted)
            return fitted
    raise TypeError(f"{name}: no inputs fit its arguments {names}")


CONFIG = gpt.Config(width=64, depth=2, heads=2, length=64)
PAIRS = {"chosen": i32(8, 12), "rejected": i32(8, 12), "reference": (f32(8), f32(8))}
ROLLOUT = {"tokens": i32(8, 12), "old": f32(8, 6), "advantages": f32(8)}


def examples():
    """Name → loss, optimizer, and parameters and batch as shapes, of every example's training."""
    import chunked_preference as preference
    import classify_digits
    import finetune_encoder
    import linear_regression

    clipped = jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-3, mask=gpt.matrices))
    initial = lambda f, *sizes: jax.eval_shape(lambda key: f(key, *sizes), jax.random.key(0))
    tokens = initial(preference.init, 512, 32)
    next_byte = functools.partial(gpt.next_byte_loss, config=CONFIG)
    at = lambda loss: lambda params, batch: loss(params, batch | {"start": 6})
    rows = {
        "pretrain_gpt": (next_byte, clipped, initial(gpt.init, CONFIG), i32(8, 65)),
        "classify_digits": (classify_digits.loss_fn, jol.adamw(1e-3), initial(classify_digits.init, [64, 32, 10]),
                            {"image": f32(8, 64), "label": i32(8)}),
        "linear_regression": (linear_regression.loss_fn, jol.sgd(1e-2), {"slope": f32(), "intercept": f32()},
                              {"x": f32(8), "y": f32(8)}),
        "finetune_encoder": (finetune_encoder.loss_fn, jol.low_memory_adamw(1e-4), encoder_shapes(),
                             {"docstring": i32(8, 12), "code": i32(8, 12), "frozen": {}}),
        "chunked_preference dpo": (at(preference.dpo), jol.adamw(1e-2), tokens, PAIRS),
        "chunked_preference grpo": (at(preference.grpo), jol.adamw(1e-2), tokens, ROLLOUT),
    }  # fmt: skip
    return rows


def encoder_shapes(width=48, hidden=192, pieces=96, length=12):
    """The parameters of the encoder that finetune_encoder.py loads, smaller, in 16 bits."""
    linear = lambda rows, columns: {"kernel": f32(rows, columns), "bias": f32(columns)}
    norm = {"scale": f32(width), "bias": f32(width)}
    layer = {name: linear(width, width) for name in ("query", "key", "value", "out")}
    layer |= {"up": linear(width, hidden), "down": linear(hidden, width)}
    layer |= {"attention_norm": norm, "mlp_norm": norm}
    whole = {
        "words": f32(pieces, width),
        "positions": f32(length, width),
        "norm": norm,
        "layers": jax.tree.map(lambda x: f32(2, *x.shape), layer),
    }
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), whole)


def programs():
    """Kind, name, function and arguments of everything that is lowered."""
    params = {"kernel": f32(256, 128), "bias": f32(128)}
    for name, tx in optimizers():
        yield "optimizer", name, update_step(tx), (params, jax.eval_shape(tx.init, params), params)
    for name, step, arguments in losses():
        yield "loss", name, step, (arguments,)
    for name, (loss, tx, params, batch) in examples().items():
        yield "training step", name, jol.make_step(loss, tx), (params, jax.eval_shape(tx.init, params), batch)
