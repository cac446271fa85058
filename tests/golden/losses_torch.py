"""Writes losses_torch.json: values and gradients of PyTorch's losses in float64. Run it from the repository root.

python tests/golden/losses_torch.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(0)
RECORDS = []


def record(loss, function, first, *others, **options):
    """``function(first, *others)`` in PyTorch is our ``loss`` with these ``options``."""
    first = first.double().requires_grad_()
    value = function(first, *others)
    (gradient,) = torch.autograd.grad(value.sum(), first)
    inputs = [a.tolist() for a in (first.detach(), *others)]
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    RECORDS.append(
        {
            "loss": loss,
            "inputs": inputs,
            "options": plain,
            "value": value.tolist(),
            "gradient": gradient.tolist(),
        }
    )


def rows(n, c):
    return torch.randn(n, c, dtype=torch.float64) * 3


def classification():
    z, y = rows(6, 5), torch.tensor([0, 1, 2, 3, 4, 2])
    ignored = torch.tensor([0, -100, 2, 3, -100, 2])
    w = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
    name = "softmax_cross_entropy_with_integer_labels"
    for reduction in ("none", "mean", "sum"):
        for smoothing in (0.0, 0.1):
            loss = lambda z, y, s=smoothing, r=reduction: F.cross_entropy(
                z, y, w, reduction=r, label_smoothing=s
            )
            options = {
                "class_weights": w,
                "ignore_index": -100,
                "label_smoothing": smoothing,
                "reduction": reduction,
            }
            record(name, loss, z, ignored, **options)
    record(
        name,
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
        z,
        y,
        label_smoothing=0.2,
        reduction="mean",
    )
    record(
        "softmax_cross_entropy",
        lambda z, t: F.cross_entropy(z, t, reduction="none"),
        z,
        rows(6, 5).softmax(1),
    )
    t, pos = (
        torch.rand(6, 5, dtype=torch.float64),
        torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64),
    )
    bce = lambda z, t: F.binary_cross_entropy_with_logits(z, t, pos_weight=pos, reduction="none")
    record("sigmoid_binary_cross_entropy", bce, z, t, pos_weight=pos)


def regression():
    p, t = rows(1, 8)[0], rows(1, 8)[0]
    variance = torch.tensor([1e-9, 1e-7, 0.1, 0.5, 1.0, 2.0, 10.0, 1e4], dtype=torch.float64)
    record("gaussian_nll", lambda p, t, v: F.gaussian_nll_loss(p, t, v, reduction="none"), p, t, variance)
    flipped = lambda v, p, t: F.gaussian_nll_loss(p, t, v, reduction="none")
    record("gaussian_nll:variance", flipped, variance, p, t)
    record("poisson_nll", lambda x, t: F.poisson_nll_loss(x, t, reduction="none"), p, t.abs().round())
    record("huber_loss", lambda p, t: F.huber_loss(p, t, delta=1.5, reduction="none"), p, t, delta=1.5)
    record("absolute_error", lambda p, t: F.l1_loss(p, t, reduction="none"), p, t)


def divergence():
    log_q, log_t = rows(4, 5).log_softmax(1), rows(4, 5).log_softmax(1)
    kl = lambda q, t: F.kl_div(q, t, reduction="none").sum(1)
    record("kl_divergence", kl, log_q, log_t.exp())
    log_kl = lambda q, t: F.kl_div(q, t, reduction="none", log_target=True).sum(1)
    record("kl_divergence_with_log_targets", log_kl, log_q, log_t)

    def distill(z, teacher, y, tau=2.0, alpha=0.3):
        soft = (
            F.kl_div((z / tau).log_softmax(1), (teacher / tau).softmax(1), reduction="none").sum(1) * tau**2
        )
        return alpha * soft + (1 - alpha) * F.cross_entropy(z, y, reduction="none")

    record(
        "distillation_loss",
        distill,
        rows(4, 5),
        rows(4, 5),
        torch.tensor([0, 4, 2, 1]),
        temperature=2.0,
        alpha=0.3,
    )

    def jensen(p, t, beta=0.3):
        m = torch.logsumexp(torch.stack([t + torch.tensor(beta).log(), p + torch.tensor(1 - beta).log()]), 0)
        return beta * log_kl(m, t) + (1 - beta) * log_kl(m, p)

    record("js_divergence", jensen, log_q, log_t, beta=0.3)


def contrastive():
    unit = lambda a: F.normalize(a, dim=1)

    def clip(q, k):
        s, y = unit(q) @ unit(k).T / 0.07, torch.arange(len(q))
        return (F.cross_entropy(s, y, reduction="none") + F.cross_entropy(s.T, y, reduction="none")) / 2

    record("info_nce", clip, rows(5, 4), rows(5, 4))

    def siglip(x, y):
        z = 2 * torch.eye(len(x), dtype=torch.float64) - 1
        return -F.logsigmoid(z * (10 * unit(x) @ unit(y).T - 10)).sum(1)

    record("siglip_loss", siglip, rows(5, 4), rows(5, 4), temperature=10.0, bias=-10.0)
    record("cosine_similarity", lambda a, b: F.cosine_similarity(a, b), rows(5, 4), rows(5, 4))


if __name__ == "__main__":
    for section in (classification, regression, divergence, contrastive):
        section()
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"torch": torch.__version__, "records": RECORDS}, indent=1) + "\n")
