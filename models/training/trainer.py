"""One step of training, and all the state that it changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from posewarp.models.config import GeneratorConfig
from posewarp.models.discriminator import DualDiscriminator
from posewarp.models.generator import Generator
from posewarp.models.losses import (
    discriminator_loss,
    generator_adversarial_loss,
    masked_l1,
    warped_source_l1,
)
from posewarp.models.training.batches import Batch
from posewarp.models.training.config import TrainingConfig, learning_rate_factor
from posewarp.runtime.errors import CheckpointError


class Trainer:
    """All state of a run; ``step`` does one, ``state_dict`` and ``load_state_dict`` carry it over an interruption.

    Args:
        generator_config: the network.
        config: how to train it.
        pairs: P, the number of training pairs, which shapes the schedule.
        device: where to train.
    """

    def __init__(
        self,
        generator_config: GeneratorConfig,
        config: TrainingConfig,
        pairs: int,
        device: torch.device | str = "cpu",
    ):
        self.generator_config, self.config, self.pairs = generator_config, config, pairs
        self.device = torch.device(device)
        self.done = 0
        torch.manual_seed(config.seed)
        self.generator = Generator(generator_config).to(self.device, memory_format=torch.channels_last)
        self.discriminators = DualDiscriminator().to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        adam = {"lr": config.learning_rate, "betas": config.betas}
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), **adam)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminators.parameters(), **adam)

    def start_from(self, generator: Generator) -> None:
        """Take over a trained generator's weights, to fine-tune it.

        Raises: CheckpointError if it is another network.
        """
        if generator.config != self.generator_config:
            raise CheckpointError(
                "the checkpoint to start from has another configuration than the network to train; choose its preset",
                got=asdict(generator.config),
                expected=asdict(self.generator_config),
            )
        self.generator.load_state_dict(generator.state_dict())
        self.ema.load_state_dict(generator.state_dict())

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update of the generator and, while it has a weight, of the discriminators.

        Returns: the losses, scalars on the device (reading them waits for the device).
        """
        config = self.config
        learning_rate = config.learning_rate * learning_rate_factor(self.done, config.steps, self.pairs)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            optimizer.param_groups[0]["lr"] = learning_rate

        with self._autocast():
            stages = self.generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        generated = stages.generated.float()
        losses = {
            "masked_l1": masked_l1(generated, batch.target, batch.mask),
            "l1": F.l1_loss(generated, batch.target),
        }
        total = config.masked_l1_weight * losses["masked_l1"] + config.l1_weight * losses["l1"]
        if config.l2_weight:
            losses["l2"] = F.mse_loss(generated, batch.target)
            total = total + config.l2_weight * losses["l2"]
        fade = max(0.0, 1.0 - 2.0 * self.done / config.steps)
        if config.warped_source_weight and fade and stages.flow is not None:
            losses["warped_source"] = warped_source_l1(batch.source, batch.target, batch.mask, stages.flow)
            total = total + fade * config.warped_source_weight * losses["warped_source"]
        if config.adversarial_weight:
            self.discriminators.requires_grad_(False)
            losses["adversarial"] = generator_adversarial_loss(self._judge(generated, batch))
            self.discriminators.requires_grad_(True)
            total = total + config.adversarial_weight * losses["adversarial"]
        _update(self.generator_optimizer, total)

        if config.adversarial_weight:
            real, fake = self._judge(batch.target, batch), self._judge(generated.detach(), batch)
            losses["discriminators"] = discriminator_loss(real, fake)
            _update(self.discriminator_optimizer, losses["discriminators"])
        self._update_ema()
        self.done += 1
        return {name: loss.detach() for name, loss in losses.items()} | {"lr": torch.tensor(learning_rate)}

    def _judge(self, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with self._autocast():
            logits = self.discriminators(image, batch.source, batch.target_heatmaps)
        return tuple(logit.float() for logit in logits)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @torch.no_grad()
    def _update_ema(self) -> None:
        # A short run forgets its start sooner: after n steps the average spans about n / 10 of them at most.
        decay = min(self.config.ema_decay, (1 + self.done) / (10 + self.done))
        averages, values = self.ema.state_dict(), self.generator.state_dict()
        for name, average in averages.items():
            # The singular vectors of spectral norm are taken over: an average of unit vectors is shorter than one.
            if average.is_floating_point() and not name.endswith(("._u", "._v")):
                average.lerp_(values[name], 1.0 - decay)
            else:
                average.copy_(values[name])

    def state_dict(self) -> dict[str, object]:
        """Everything that a later run needs to go on, and that ``posewarp export`` can load."""
        return {
            "config": asdict(self.generator_config),
            "training": asdict(self.config) | {"betas": list(self.config.betas)},
            "pairs": self.pairs,
            "step": self.done,
            "model": self.generator.state_dict(),
            "ema": self.ema.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what ``state_dict`` gave.

        Raises: CheckpointError if it was made with another network, other training settings, or another number
            of pairs, which would change the schedule.
        """
        config, training = (
            GeneratorConfig.from_dict(state["config"]),
            TrainingConfig.from_dict(state["training"]),
        )
        got, expected = (config, training, state["pairs"]), (self.generator_config, self.config, self.pairs)
        if got != expected:
            raise CheckpointError(
                "the run to resume has other settings than were given now; give the same ones, or another folder",
                got=got,
                expected=expected,
            )
        self.done = int(state["step"])
        self.generator.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.discriminators.load_state_dict(state["discriminators"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
