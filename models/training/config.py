"""How to train: budget, optimiser, weights of the losses, and the paper's schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from posewarp.runtime.errors import ContractError

# The decline to zero takes this many epochs, after the square root of the number of pairs (paper, section 4).
DECLINE_EPOCHS = 600


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Weights follow the order of the paper's total loss."""

    # The budget; None: the paper's, sqrt(P) + 600 epochs. Another number keeps the schedule's shape.
    steps: int | None = None
    # Pairs drawn for an epoch of the paper's budget; 0: all of them. The paper's square root only makes sense with
    # PATN's 4,000: with whole passes the budget of DeepFashion would be 94 million pairs in place of 3.7.
    epoch_pairs: int = 4000
    # Of all processes together: the number of processes changes neither budget nor schedule.
    batch_size: int = 8
    # The paper's optimiser: Adam with these, 2e-4 at the start.
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    # The discriminators' learning rate over the generator's: 1 in PATN, 0.1 in GFLA and PISE. Not in the paper.
    discriminator_lr_ratio: float = 1.0
    # Weights of the losses; the paper gives none. These are GFLA's, in its units.
    adversarial_weight: float = 2.0
    # "log" is eq. 4; "lsgan" squares in place of the logs.
    adversarial_kind: str = "log"
    # Eq. 5 and eq. 6; both are off without ``vgg``.
    perceptual_weight: float = 0.5
    style_weight: float = 500.0
    masked_l1_weight: float = 5.0
    # An unmasked L1: without it face, hair and background have the adversary's gradient alone. Not in the paper.
    l1_weight: float = 1.0
    # An unmasked mean squared error: where the pose leaves a pixel open it asks for the mean and not for the median,
    # which raises PSNR and softens edges. Not in the paper, hence off.
    l2_weight: float = 0.0
    # Fades linearly to zero over the first half of the budget. Not in the paper, hence off.
    warped_source_weight: float = 0.0
    # VGG19's weights for eq. 5 and 6: a path, "torchvision" or "random" (for tests), as ``load_vgg19`` takes them.
    vgg: str | None = None
    # The paper's terms alone: sets ``l1_weight`` to 0.
    strict_paper: bool = False
    # Moving average of the weights, kept beside the raw ones. Not in the paper.
    ema_decay: float = 0.999
    # "bf16" and "fp16" run the convolutions in that type; flow, warps and losses stay fp32. "fp16" scales the losses
    # so that small gradients survive, and needs a GPU.
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ContractError(f"steps is {self.steps}, expected at least 1")
        if self.epoch_pairs < 0:
            raise ContractError(f"epoch_pairs is {self.epoch_pairs}, expected at least 1, or 0 for all pairs")
        if self.batch_size < 2:
            raise ContractError(
                f"batch_size is {self.batch_size}, expected at least 2, better 8: batch norm needs statistics"
            )
        for name in ("learning_rate", "discriminator_lr_ratio"):
            if not getattr(self, name) > 0:
                raise ContractError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in (field.name for field in fields(self) if field.name.endswith("_weight")):
            if not getattr(self, name) >= 0:
                raise ContractError(f"{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.ema_decay < 1:
            raise ContractError(f"ema_decay is {self.ema_decay}, expected 0 or more and less than 1")
        if self.adversarial_kind not in ("log", "lsgan"):
            raise ContractError(f"adversarial_kind is {self.adversarial_kind!r}, expected 'log' or 'lsgan'")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ContractError(f"precision is {self.precision!r}, expected 'fp32', 'bf16' or 'fp16'")
        if self.strict_paper:
            self._check_strict()
            object.__setattr__(self, "l1_weight", 0.0)

    def _check_strict(self) -> None:
        if self.vgg is None:
            raise ContractError(
                "strict_paper trains with eq. 5 and 6, which need VGG19's weights, and got none; give them by --vgg"
            )
        foreign = [name for name in ("l2_weight", "warped_source_weight") if getattr(self, name)]
        if self.adversarial_kind != "log":
            foreign.append("adversarial_kind")
        if foreign:
            raise ContractError(
                f"strict_paper keeps the paper's terms alone, but {', '.join(foreign)} asks for another; "
                "leave out one of the two"
            )

    def resolved(self, pairs: int) -> TrainingConfig:
        """The same with its budget as a number: where ``steps`` is None, the paper's for that many pairs."""
        if self.steps is not None:
            return self
        return replace(self, steps=paper_steps(pairs, self.epoch_pairs, self.batch_size))

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> TrainingConfig:
        """The inverse of ``dataclasses.asdict``, through JSON or not.

        Raises: ContractError if a field is unknown.
        """
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise ContractError(f"unknown training setting {', '.join(unknown)}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def paper_steps(pairs: int, epoch_pairs: int, batch_size: int) -> int:
    """The paper's budget in steps: sqrt(P) + 600 epochs.

    Args:
        pairs: P, the number of training pairs.
        epoch_pairs: drawn for an epoch; 0: all of them.
        batch_size: of all processes together.
    """
    return math.ceil((math.sqrt(pairs) + DECLINE_EPOCHS) * (epoch_pairs or pairs) / batch_size)


def learning_rate_factor(step: int, steps: int, pairs: int) -> float:
    """The paper's schedule in the shape of a step budget: constant for sqrt(P) epochs, then 600 linear to zero.

    Args:
        step: from 0.
        steps: the whole budget, which stands for sqrt(P) + 600 epochs.
        pairs: P, the number of training pairs.
    """
    constant = steps * math.sqrt(pairs) / (math.sqrt(pairs) + DECLINE_EPOCHS)
    return min(1.0, (steps - step) / (steps - constant))
