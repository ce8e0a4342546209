"""How to train: budget, optimiser, weights of the losses, and the paper's schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from posewarp.runtime.errors import ContractError

# The decline to zero takes this many epochs, after the square root of the number of pairs (paper, section 4).
DECLINE_EPOCHS = 600


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Weights follow the order of the paper's total loss."""

    steps: int = 20_000
    batch_size: int = 8
    # The paper's optimiser: Adam with these, 2e-4 at the start.
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    # Weights of the losses; the paper gives none. Adversarial and L1 in the ratio of the GFLA family.
    adversarial_weight: float = 2.0
    masked_l1_weight: float = 5.0
    # An unmasked L1: without it face, hair and background have the adversary's gradient alone. Not in the paper.
    l1_weight: float = 1.0
    # An unmasked mean squared error: where the pose leaves a pixel open it asks for the mean and not for the median,
    # which raises PSNR and softens edges. Not in the paper, hence off.
    l2_weight: float = 0.0
    # Fades linearly to zero over the first half of the budget. Not in the paper, hence off.
    warped_source_weight: float = 0.0
    # Moving average of the weights, kept beside the raw ones. Not in the paper.
    ema_decay: float = 0.999
    # "bf16" runs the convolutions in bfloat16; flow, warps and losses stay fp32.
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ContractError(f"steps is {self.steps}, expected at least 1")
        if self.batch_size < 2:
            raise ContractError(
                f"batch_size is {self.batch_size}, expected at least 2, better 8: batch norm needs statistics"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ContractError(f"precision is {self.precision!r}, expected 'fp32' or 'bf16'")

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> TrainingConfig:
        """The inverse of ``dataclasses.asdict``, through JSON or not.

        Raises: ContractError if a field is unknown.
        """
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise ContractError(f"unknown training setting {', '.join(unknown)}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def learning_rate_factor(step: int, steps: int, pairs: int) -> float:
    """The paper's schedule in the shape of a step budget: constant for sqrt(P) epochs, then 600 linear to zero.

    Args:
        step: from 0.
        steps: the whole budget, which stands for sqrt(P) + 600 epochs.
        pairs: P, the number of training pairs.
    """
    constant = steps * math.sqrt(pairs) / (math.sqrt(pairs) + DECLINE_EPOCHS)
    return min(1.0, (steps - step) / (steps - constant))
