"""Is any loss slower, or hungrier for memory, than its peer? Value and gradient of the mean, one table.

The peer is optax where it has the function, else PyTorch. Rows are interleaved: every round runs ours and the peer's
one after the other, in turns first, and the ratio is the median over the rounds.

python benchmarks/losses.py [--rounds 30] [--only substring]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite import losses

# Torch's idle threads would otherwise spin on the cores that the next measurement needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
RNG = np.random.default_rng(0)
MANY, ROWS, CLASSES, BATCH, WIDTH = 1 << 20, 2048, 512, 512, 256


def f32(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, T = f32(MANY), f32(MANY)
POSITIVE, SIGNS, BITS = jnp.abs(T) + 0.1, jnp.sign(T), (T > 0).astype(jnp.float32)
Z, S = f32(ROWS, CLASSES), f32(ROWS, CLASSES)
P, LOG_P = jax.nn.softmax(S), jax.nn.log_softmax(Z)
IDS = jnp.asarray(RNG.integers(0, CLASSES, ROWS))
GRADES = jnp.asarray(RNG.integers(0, 5, (ROWS // 16, 64)), jnp.float32)
LISTS = f32(ROWS // 16, 64)
A, B, C = f32(BATCH, WIDTH), f32(BATCH, WIDTH), f32(BATCH, WIDTH)
GROUPS = jnp.repeat(jnp.arange(BATCH // 2), 2)
IMAGES, MASKS = f32(16, 64, 64, 8), jax.nn.one_hot(RNG.integers(0, 8, (16, 64, 64)), 8)
FRAMES, PAD = f32(16, 100, 64), jnp.zeros((16, 100))
WORDS, WORD_PAD = jnp.asarray(RNG.integers(1, 64, (16, 30))), jnp.zeros((16, 30))
PAIRS = [-jnp.abs(f32(1 << 16)) * 50 for _ in range(4)]


class Row(NamedTuple):
    """A loss with its inputs; ``torch`` is the peer where optax has no function of that name."""

    name: str
    inputs: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012
    torch: Callable[..., Any] | None = None


def torch_rows():
    """Losses that optax lacks, against PyTorch."""
    import torch
    import torch.nn.functional as F

    def clip(q, k):
        s, y = F.normalize(q) @ F.normalize(k).T / 0.07, torch.arange(len(q))
        return (F.cross_entropy(s, y) + F.cross_entropy(s.T, y)) / 2

    def siglip(x, y):
        sign = 2 * torch.eye(len(x)) - 1
        return -F.logsigmoid(sign * (10 * F.normalize(x) @ F.normalize(y).T - 10)).sum(1).mean()

    def jensen(p, t):
        m = torch.logaddexp(p, t) - float(np.log(2))
        kl = lambda a: F.kl_div(m, a, reduction="none", log_target=True).sum(1).mean()
        return (kl(p) + kl(t)) / 2

    def distill(z, teacher):
        return 4 * F.kl_div((z / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")

    def dpo(w, l, rw, rl):
        return -F.logsigmoid(0.1 * ((w - rw) - (l - rl))).mean()

    def ppo(lp, old, a):
        ratio = (lp - old).exp()
        return -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()

    def focal(z, y):
        ce = F.cross_entropy(z, y, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()

    mean = lambda f: lambda *a: f(*a).mean()
    return [
        Row("absolute_error", (X, T), torch=F.l1_loss),
        Row(
            "quantile_loss",
            (X, T),
            {"quantile": 0.9},
            mean(lambda p, t: torch.maximum(0.9 * (t - p), 0.1 * (p - t))),
        ),
        Row("gaussian_nll", (X, T, POSITIVE), torch=F.gaussian_nll_loss),
        Row("poisson_nll", (X, POSITIVE), torch=F.poisson_nll_loss),
        Row("cross_entropy", (P, P), torch=mean(lambda p, y: -(y * p.log()).sum(1))),
        Row("squared_hinge_loss", (X, SIGNS), torch=mean(lambda x, t: (1 - x * t).clamp(min=0) ** 2)),
        Row("softmax_focal_loss", (Z, IDS), torch=focal),
        Row("js_divergence", (LOG_P, jnp.log(P)), torch=jensen),
        Row("distillation_loss", (Z, S), {"temperature": 2.0}, distill),
        Row("info_nce", (A, B), torch=clip),
        Row("siglip_loss", (A, B), {"temperature": 10.0, "bias": -10.0}, siglip),
        Row("dpo_loss", tuple(PAIRS), torch=dpo),
        Row("clipped_surrogate_loss", (X * 0.1, T * 0.1, T), torch=ppo),
    ]


def optax_rows():
    """Losses that optax has under the same name."""
    elementwise = ("squared_error", "l2_loss", "huber_loss", "log_cosh")
    divergences = ("kl_divergence", "generalized_kl_divergence")
    rows = ("softmax_cross_entropy", "safe_softmax_cross_entropy", "poly_loss_cross_entropy")
    ids = (
        "softmax_cross_entropy_with_integer_labels",
        "multiclass_hinge_loss",
        "multiclass_perceptron_loss",
        "multiclass_sparsemax_loss",
    )
    return [
        *(Row(name, (X, T)) for name in elementwise),
        *(Row(name, (Z, S)) for name in ("cosine_similarity", "cosine_distance")),
        *(Row(name, (Z, P)) for name in rows),
        *(Row(name, (Z, IDS)) for name in ids),
        *(Row(name, (X, BITS)) for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss")),
        *(Row(name, (X, SIGNS)) for name in ("hinge_loss", "perceptron_loss")),
        Row("sparsemax_loss", (X, BITS.astype(jnp.int32))),
        *(Row(name, (LOG_P, P)) for name in divergences),
        Row("kl_divergence_with_log_targets", (LOG_P, jnp.log(P))),
        Row("ntxent", (A, GROUPS)),
        Row("triplet_margin_loss", (A, B, C)),
        Row("ranking_softmax_loss", (LISTS, GRADES)),
        Row("dice_loss", (IMAGES, MASKS)),
        Row("multiclass_generalized_dice_loss", (IMAGES, MASKS)),
        Row("binary_dice_loss", (IMAGES[..., 0], MASKS[..., 0])),
        Row("ctc_loss", (FRAMES, PAD, WORDS, WORD_PAD)),
    ]


def compiled(loss, row):
    """A function of no arguments that runs once, and its temporary bytes."""
    first, *rest = row.inputs
    run = jax.jit(jax.value_and_grad(lambda x, *rest: loss(x, *rest, **row.options)))
    program = run.lower(first, *rest).compile()
    return lambda: jax.block_until_ready(program(first, *rest)), program.memory_analysis().temp_size_in_bytes


def torch_run(row):
    import torch

    tensors = [torch.from_numpy(np.array(a)) for a in row.inputs]
    tensors = [a.long() if a.dtype == torch.int32 else a for a in tensors]
    tensors[0].requires_grad_()

    def run():
        return torch.autograd.grad(row.torch(*tensors), tensors[0])

    return run, None


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(row, rounds):
    """Median seconds of ours and the peer's, the median ratio, and both temporary bytes."""
    ours, our_bytes = compiled(lambda *a, **o: getattr(losses, row.name)(*a, **o, reduction="mean"), row)
    if row.torch is not None:
        peer, peer_bytes = torch_run(row)
    else:
        theirs = getattr(optax.losses, row.name)
        peer, peer_bytes = compiled(lambda *a, **o: jnp.mean(theirs(*a, **o)), row)
    for run in (ours, peer, ours, peer):
        run()
    times = []
    for i in range(rounds):
        pair = (timed(ours), timed(peer)) if i % 2 else (timed(peer), timed(ours))[::-1]
        times.append(pair)
    ratio = statistics.median(mine / other for mine, other in times)
    return *(statistics.median(t) for t in zip(*times, strict=True)), ratio, our_bytes, peer_bytes


def main(rounds: int = 30, only: str = "") -> None:
    print(
        f"{'loss':42s} {'peer':6s} {'ours ms':>8s} {'peer ms':>8s} {'ratio':>6s} {'ours MB':>8s} {'peer MB':>8s}"
    )
    for row in sorted(optax_rows() + torch_rows(), key=lambda row: row.name):
        if only not in row.name:
            continue
        mine, other, ratio, our_bytes, peer_bytes = measure(row, rounds)
        peer = "optax" if row.torch is None else "torch"
        memory = "" if peer_bytes is None else f"{peer_bytes / 2**20:8.2f}"
        print(
            f"{row.name:42s} {peer:6s} {mine * 1e3:8.2f} {other * 1e3:8.2f} {ratio:6.2f} "
            f"{our_bytes / 2**20:8.2f} {memory}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", default="")
    main(**vars(parser.parse_args()))
