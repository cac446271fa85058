"""Write preference_trl.json: values and gradients of TRL's own loss methods, in float64.

Needs ``trl==0.19.1`` (with transformers < 4.57, accelerate, datasets and torch). The methods read a few settings
from their trainer, for which a plain namespace stands in.
"""

import json
import pathlib
from types import SimpleNamespace

import torch
from trl.trainer.cpo_trainer import CPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.orpo_trainer import ORPOTrainer

torch.manual_seed(0)
NAMES = ("chosen", "rejected", "reference_chosen", "reference_rejected")
SUMS = dict(zip(NAMES, -40 * torch.rand(4, 8, dtype=torch.float64), strict=True))
MEANS = {f"mean_{k}": v / 20 for k, v in SUMS.items()}
DATA = SUMS | MEANS
device = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x)


def trainer(**settings):
    return SimpleNamespace(
        accelerator=device,
        reference_free=False,
        f_divergence_type="reverse_kl",
        f_divergence_params=None,
        label_smoothing=0.0,
        calculate_KL=True,
        **settings,
    )


def dpo(w, l, rw, rl, kind, beta=0.1, smoothing=0.0):
    settings = trainer(beta=beta, loss_type=kind)
    settings.label_smoothing = smoothing
    return DPOTrainer.dpo_loss(settings, w, l, rw, rl)[0]


def cpo(w, l, kind, beta, gamma=0.0):
    return CPOTrainer.cpo_loss(trainer(beta=beta, loss_type=kind, simpo_gamma=gamma), w, l)[0]


def orpo(w, l):
    return -w - ORPOTrainer.odds_ratio_loss(trainer(beta=0.1), w, l)[0]


def kto(w, rw, good, kl):
    settings = trainer(beta=0.1, loss_type="kto", desirable_weight=1.5, undesirable_weight=0.5)
    other = torch.full((8,), kl, dtype=torch.float64)
    out = torch.zeros_like(w)
    losses = KTOTrainer.kto_loss(
        settings, w[good], w[~good], other, rw[good], rw[~good], torch.zeros_like(other)
    )[0]
    out[good], out[~good] = losses[: good.sum()], losses[good.sum() :]
    return out


def record(name, loss, inputs, options, function, **extra):
    leaves = [DATA[k].clone().requires_grad_() for k in inputs]
    values = function(*leaves)
    gradients = torch.autograd.grad(values.sum(), leaves[:2])
    return {
        "name": name,
        "loss": loss,
        "inputs": inputs,
        "options": options,
        "values": values.tolist(),
        "gradients": [g.tolist() for g in gradients],
        **extra,
    }


def main():
    sums, means, good = list(SUMS), list(MEANS), torch.arange(8) % 3 != 0
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    smoothed, robust = {"label_smoothing": 0.2}, {"label_smoothing": 0.2, "variant": "robust"}
    cases = [
        record("dpo", "dpo_loss", sums, {}, lambda *a: dpo(*a, "sigmoid")),
        record("dpo_smoothed", "dpo_loss", sums, smoothed, lambda *a: dpo(*a, "sigmoid", smoothing=0.2)),
        record("dpo_robust", "dpo_loss", sums, robust, lambda *a: dpo(*a, "robust", smoothing=0.2)),
        record("dpo_hinge", "dpo_loss", sums, {"variant": "hinge"}, lambda *a: dpo(*a, "hinge")),
        record("ipo", "ipo_loss", means, {}, lambda *a: dpo(*a, "ipo")),
        record("simpo", "simpo_loss", means[:2], {}, lambda *a: cpo(*a, "simpo", 2.0, 1.0)),
        record("cpo", "cpo_loss", sums[:2], {"alpha": 0.0}, lambda *a: cpo(*a, "sigmoid", 0.1)),
        record("orpo", "orpo_loss", means[:2], {}, orpo),
    ]
    for kl in (2.0, -2.0):
        pair, f = ["chosen", "reference_chosen"], lambda w, rw, kl=kl: kto(w, rw, good, kl)
        cases.append(record(f"kto_{kl}", "kto_loss", pair, {"kl": kl, **weights}, f, desirable=good.tolist()))
    text = json.dumps({"inputs": {k: v.tolist() for k, v in DATA.items()}, "cases": cases}, indent=1)
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
