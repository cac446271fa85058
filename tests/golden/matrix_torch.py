"""Write matrix_torch.json: what PyTorch and pytorch-optimizer make of some matrices.

    pip install torch==2.13.0 pytorch-optimizer==4.1.0
    python tests/golden/matrix_torch.py

Kernels are [out, in] there. pytorch-optimizer's iteration is run in float64 in place of its default, bfloat16, which
torch.optim.Muon has no switch for.
"""

import functools
import importlib.metadata
import json
import pathlib

import numpy as np
import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.muon import normuon
from pytorch_optimizer.optimizer.utils import matrix

STEPS = 25
wide_iteration = functools.partial(matrix.zero_power_via_newton_schulz_5, dtype=torch.float64)


def inputs(shape):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).round(3), rng.normal(size=(STEPS, *shape)).round(3)


def trajectory(make, shape, dtype=torch.float64):
    """Start, gradients, and the parameters after some steps."""
    start, grads = inputs(shape)
    weight = torch.nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer, path = make([weight]), []
    for g in grads:
        weight.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        path.append(weight.detach().double().numpy().copy())
    kept = [0, 1, 5, 6, 11, STEPS - 1]
    return {
        "start": start.tolist(),
        "grads": grads.tolist(),
        "kept": kept,
        "path": [path[k].tolist() for k in kept],
    }


def main():
    normuon.zero_power_via_newton_schulz_5 = wide_iteration
    records = {}
    for name, shape in (("oblong", (4, 9)), ("square", (5, 5))):
        x = torch.tensor(inputs(shape)[0])
        gram = matrix.zero_power_via_gram_newton_schulz(x, dtype=torch.float64)
        values = {"x": x.tolist(), "standard": wide_iteration(x).tolist(), "gram": gram.tolist()}
        records[f"newton_schulz {name}"] = values
    soap = functools.partial(
        pytorch_optimizer.SOAP, lr=0.01, betas=(0.95, 0.9), weight_decay=0.0, precondition_frequency=5
    )
    records["soap"] = trajectory(soap, (5, 4))
    groups = lambda weights: [{"params": weights, "use_muon": True}]
    records["normuon"] = trajectory(
        lambda weights: pytorch_optimizer.NorMuon(
            groups(weights), lr=0.02, momentum=0.9, beta2=0.9, weight_decay=0.0, foreach=False
        ),
        (5, 8),
    )
    muon = functools.partial(torch.optim.Muon, lr=0.02, weight_decay=0.1, momentum=0.95)
    records["muon"] = trajectory(
        lambda weights: muon(weights, adjust_lr_fn="original"), (8, 5), torch.float32
    )
    records["muon rms"] = trajectory(
        lambda weights: muon(weights, adjust_lr_fn="match_rms_adamw"), (8, 5), torch.float32
    )
    path = pathlib.Path(__file__).with_suffix(".json")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-optimizer")}
    path.write_text(json.dumps({"versions": versions, "records": records}))


if __name__ == "__main__":
    main()
