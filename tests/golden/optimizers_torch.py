"""Write optimizers_torch.json: paths of torch.optim's optimizers in float64. Run with torch 2.13.0."""

import json
import pathlib

import numpy as np
import torch

CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}),
    "adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.01, "initial_accumulator_value": 0.1, "eps": 0.0}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "momentum": 0.9}),
    "rmsprop_centered": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "centered": True}),
    "radam": (torch.optim.RAdam, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.0}),
    "rprop": (torch.optim.Rprop, {"lr": 0.01}),
}


def inputs(steps=20):
    """Parameters and gradients of sizes 0.01 … 3, as float64 arrays."""
    rng = np.random.default_rng(1)
    shapes = {"bias": (3,), "kernel": (4, 3)}
    params = {n: rng.normal(size=s) for n, s in shapes.items()}
    sizes = {n: 10 ** rng.uniform(-2, 0.5, s) for n, s in shapes.items()}
    grads = {n: sizes[n] * (0.5 + rng.normal(size=(steps, *s))) for n, s in shapes.items()}
    return params, grads


def path(make, params, grads, transposed=(), prepare=None, read=None):
    """The parameters after each step of the optimizer ``make(named tensors)``.

    ``transposed`` leaves are [out, in] there; ``prepare(optimizer, tensors)`` runs before the first step,
    ``read(optimizer)`` around the reading of the parameters.
    """
    turn = lambda n, x: x.T if n in transposed else x
    tensors = {n: torch.nn.Parameter(torch.tensor(turn(n, x).copy())) for n, x in params.items()}
    optimizer, record = make(tensors), {n: [] for n in params}
    for t in range(len(next(iter(grads.values())))):
        for n, p in tensors.items():
            p.grad = torch.tensor(turn(n, grads[n][t]).copy())
        if prepare is not None and t == 0:
            prepare(optimizer, tensors)
        optimizer.step()
        if read is not None:
            read(optimizer, True)
        for n, p in tensors.items():
            record[n].append(turn(n, p.detach().numpy()).tolist())
        if read is not None:
            read(optimizer, False)
    return record


def write(file, cases, params, grads):
    """One JSON file: the inputs once, and a path for each case."""
    as_lists = lambda tree: {n: x.tolist() for n, x in tree.items()}
    record = {"params": as_lists(params), "grads": as_lists(grads), "paths": cases}
    pathlib.Path(file).with_suffix(".json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    params, grads = inputs()
    cases = {
        name: path(lambda tensors, f=f, o=o: f(tensors.values(), **o), params, grads)
        for name, (f, o) in CASES.items()
    }
    write(__file__, cases, params, grads)
