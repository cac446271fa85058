"""Write ctc_torch.json: values and gradients of ``torch.nn.functional.ctc_loss``, in float64."""

import json
import pathlib

import torch

torch.manual_seed(0)
LOGITS = 2 * torch.randn(5, 7, 4, dtype=torch.float64)
LABELS = torch.tensor([[1, 2, 3], [2, 2, 1], [3, 0, 0], [0, 0, 0], [1, 1, 1]])  # 0 only where padded
FRAMES, LENGTHS = torch.tensor([7, 6, 4, 5, 5]), torch.tensor([3, 3, 1, 0, 3])


def main():
    logits = LOGITS.clone().requires_grad_()
    log_p = torch.log_softmax(logits, -1).transpose(0, 1)
    values = torch.nn.functional.ctc_loss(log_p, LABELS, FRAMES, LENGTHS, blank=0, reduction="none")
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    inputs = {"logits": LOGITS, "labels": LABELS, "frames": FRAMES, "lengths": LENGTHS}
    numbers = {k: v.tolist() for k, v in (inputs | {"values": values, "gradient": gradient}).items()}
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
