"""Write policy_trl.json: GRPO's variants by TRL's own trainer method, entropy and advantages by torch, in float64.

Needs ``trl==0.27.2`` (with transformers < 4.57, accelerate, datasets and torch). The method reads its settings from
the trainer, for which a plain namespace stands in, and takes log-probabilities from a stub in place of a model.
"""

import collections
import json
import pathlib
from types import SimpleNamespace

import torch
from trl.trainer.grpo_trainer import GRPOTrainer

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
LOGPS = -2 * torch.rand(4, 5)
OLD = LOGPS + 0.5 * torch.randn(4, 5)
REFERENCE = LOGPS + 0.5 * torch.randn(4, 5)
ADVANTAGES = torch.tensor([1.3, -0.7, 0.4, -1.1])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
KINDS = {"grpo": "grpo", "dapo": "dapo", "dr_grpo": "dr_grpo", "gspo": "grpo", "cispo": "cispo"}


def grpo(variant, logps, kl_weight):
    ids = torch.zeros(4, 5, dtype=torch.long)
    stub = SimpleNamespace(
        loss_type=KINDS[variant],
        importance_sampling_level="sequence" if variant == "gspo" else "token",
        epsilon_low=0.2,
        epsilon_high=1.28 if variant == "cispo" else 0.28,  # its ceiling is the ratio itself
        beta=kl_weight,
        max_completion_length=8,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x),
        model=SimpleNamespace(training=False),
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps)),
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        tools=None,
    )
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": MASK,
        "advantages": ADVANTAGES,
        "old_per_token_logps": OLD,
        "ref_per_token_logps": REFERENCE,
        "num_items_in_batch": MASK.sum(),
    }
    return GRPOTrainer._compute_loss(stub, None, inputs)


def main():
    cases = []
    for variant in KINDS:
        for kl_weight in (0.0, 0.25):
            logps = LOGPS.clone().requires_grad_()
            loss = grpo(variant, logps, kl_weight)
            (gradient,) = torch.autograd.grad(loss, logps)
            case = {
                "variant": variant,
                "kl_weight": kl_weight,
                "loss": loss.item(),
                "gradient": gradient.tolist(),
            }
            cases.append(case)
    rewards, logits = torch.rand(3, 4), 3 * torch.randn(3, 7)
    scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    numbers = {
        "logps": LOGPS,
        "old_logps": OLD,
        "reference_logps": REFERENCE,
        "advantages": ADVANTAGES,
        "mask": MASK,
        "rewards": rewards,
        "group_advantages": scaled,
        "logits": logits,
        "entropy": torch.distributions.Categorical(logits=logits).entropy(),
    }
    text = json.dumps({"cases": cases} | {k: v.tolist() for k, v in numbers.items()}, indent=1)
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
