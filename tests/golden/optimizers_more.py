"""Write optimizers_more.json: paths of optimizers that neither torch nor optax has, from their authors' code.

Run with torch 2.13.0, adam-mini 1.1.1, prodigyopt 1.1.2, schedulefree 1.4.1, pytorch-optimizer 4.1.0 (for Adan,
AdEMAMix and MARS).
"""

import pytorch_optimizer
import schedulefree
from adam_mini.adam_mini import Adam_mini
from optimizers_torch import inputs, path, write
from prodigyopt import Prodigy


def adam_mini(tensors):
    """A kernel as part of an MLP has one v per neuron; a leaf with no known name, as norms, has one in all."""
    names = {"kernel": "mlp", "bias": "norm"}
    return Adam_mini([(names[n], p) for n, p in tensors.items()], lr=0.01, verbose=False)


def start_from_first_gradient(optimizer, tensors):
    """MARS's first difference is 0 where the last gradient is the first one, and not 0."""
    optimizer.init_group(optimizer.param_groups[0])
    for p in tensors.values():
        optimizer.state[p]["last_grad"].copy_(p.grad)


def averaged(optimizer, on):
    """The parameters to evaluate with, while they are read."""
    optimizer.eval() if on else optimizer.train()


def schedule_free(make, **options):
    """schedulefree's optimizers want to be told that training begins."""

    def made(tensors):
        optimizer = make(tensors.values(), **options)
        optimizer.train()
        return optimizer

    return made


if __name__ == "__main__":
    params, grads = inputs()
    of = lambda make, **options: lambda tensors: make(tensors.values(), **options)
    sgd = schedule_free(schedulefree.SGDScheduleFree, lr=0.05)
    adamw = schedule_free(schedulefree.AdamWScheduleFree, lr=0.01, weight_decay=0.1)
    prodigy = of(Prodigy, lr=1.0, d0=1e-3, use_bias_correction=True)
    # It divides its ε by √(1 − β₂ᵗ): none.
    mars = of(pytorch_optimizer.MARS, lr=0.01, optimize_1d=True, eps=0.0)
    ademamix = of(pytorch_optimizer.AdEMAMix, lr=0.01, weight_decay=0.1, weight_decouple=True)
    cases = {
        "adan": path(of(pytorch_optimizer.Adan, lr=0.01), params, grads),
        "ademamix": path(ademamix, params, grads),
        "mars": path(mars, params, grads, prepare=start_from_first_gradient),
        "adam_mini": path(adam_mini, params, grads, transposed=("kernel",)),
        "prodigy": path(prodigy, params, grads),
        "schedule_free_sgd": path(sgd, params, grads),
        "schedule_free_sgd_eval": path(sgd, params, grads, read=averaged),
        "schedule_free_adamw": path(adamw, params, grads),
    }
    write(__file__, cases, params, grads)
