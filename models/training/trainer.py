"""One step of training, and all the state that it changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.discriminator import DualDiscriminator
from posewarp.models.generator import Generator, Stages
from posewarp.models.losses import (
    discriminator_loss,
    generator_adversarial_loss,
    masked_l1,
    masked_vgg_losses,
    warped_source_l1,
)
from posewarp.models.training.batches import Batch
from posewarp.models.training.config import TrainingConfig, learning_rate_factor
from posewarp.models.training.processes import Processes
from posewarp.models.vgg import Vgg19Features
from posewarp.runtime.errors import CheckpointError, ContractError

ALONE = Processes()
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """All state of a run; ``step`` does one, ``state_dict`` and ``load_state_dict`` carry it over an interruption.

    A step draws no random numbers, and the order of the pairs follows from the seed and the step: there is no state
    of a random generator to carry.

    Args:
        generator_config: the network.
        config: how to train it.
        pairs: P, the number of training pairs, which shapes the schedule.
        processes: with which others, and on which device; every batch is then this process's share of one.
        vgg: for eq. 5 and 6; None leaves both off.

    Raises: ContractError for fp16 without a GPU.
    """

    def __init__(
        self,
        generator_config: GeneratorConfig,
        config: TrainingConfig,
        pairs: int,
        processes: Processes = ALONE,
        vgg: Vgg19Features | None = None,
    ):
        self.generator_config, self.config, self.pairs = generator_config, config.resolved(pairs), pairs
        self.processes, self.device = processes, processes.device
        if config.precision == "fp16" and self.device.type != "cuda":
            raise ContractError(
                "precision is fp16 on the CPU, expected a GPU for it; train in bf16 or fp32 here"
            )
        self.done = 0
        torch.manual_seed(config.seed)
        self.generator = Generator(generator_config).to(self.device, memory_format=torch.channels_last)
        self.discriminators = DualDiscriminator().to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.vgg = vgg and vgg.to(self.device, memory_format=torch.channels_last)
        # The same modules as they are called where gradients are averaged over processes.
        self._stages = processes.wrap(_AllStages(self.generator))
        self._judges = processes.wrap(self.discriminators)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), config.learning_rate, config.betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminators.parameters(), config.learning_rate, config.betas
        )
        # Both pass everything through but in fp16.
        self.generator_scaler, self.discriminator_scaler = (
            torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16") for _ in range(2)
        )

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

        Returns: the losses of this process's share, scalars on the device (reading them waits for the device).
        """
        config = self.config
        learning_rate = config.learning_rate * learning_rate_factor(self.done, config.steps, self.pairs)
        self.generator_optimizer.param_groups[0]["lr"] = learning_rate
        self.discriminator_optimizer.param_groups[0]["lr"] = learning_rate * config.discriminator_lr_ratio

        with self._autocast():
            stages = self._stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        generated = stages.generated.float()
        terms = self._terms(generated, stages.flow, batch)
        total = sum(weight * loss for weight, loss in terms.values())
        _update(self.generator_optimizer, self.generator_scaler, total)
        losses = {name: loss for name, (_, loss) in terms.items()}

        if config.adversarial_weight:
            real = self._judge(self._judges, batch.target, batch)
            fake = self._judge(self._judges, generated.detach(), batch)
            losses["discriminators"] = discriminator_loss(real, fake, config.adversarial_kind)
            _update(self.discriminator_optimizer, self.discriminator_scaler, losses["discriminators"])
        self._average_buffers()
        self._update_ema()
        self.done += 1
        return {name: loss.detach() for name, loss in losses.items()} | {"lr": torch.tensor(learning_rate)}

    def _terms(self, generated: Tensor, flow: Tensor | None, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """The generator's losses by name, each behind its weight."""
        config = self.config
        terms = {
            "masked_l1": (config.masked_l1_weight, masked_l1(generated, batch.target, batch.mask)),
            "l1": (config.l1_weight, F.l1_loss(generated, batch.target)),
        }
        if config.l2_weight:
            terms["l2"] = config.l2_weight, F.mse_loss(generated, batch.target)
        fade = max(0.0, 1.0 - 2.0 * self.done / config.steps)
        if config.warped_source_weight and fade and flow is not None:
            loss = warped_source_l1(batch.source, batch.target, batch.mask, flow)
            terms["warped_source"] = fade * config.warped_source_weight, loss
        if self.vgg is not None:
            perceptual, style = masked_vgg_losses(self.vgg, generated, batch.target, batch.mask)
            terms["perceptual"] = config.perceptual_weight, perceptual
            terms["style"] = config.style_weight, style
        if config.adversarial_weight:
            self.discriminators.requires_grad_(False)
            fake = self._judge(self.discriminators, generated, batch)
            self.discriminators.requires_grad_(True)
            loss = generator_adversarial_loss(fake, config.adversarial_kind)
            terms["adversarial"] = config.adversarial_weight, loss
        return terms

    def _judge(self, discriminators: nn.Module, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with self._autocast():
            logits = discriminators(image, batch.source, batch.target_heatmaps)
        return tuple(logit.float() for logit in logits)

    def _autocast(self) -> torch.autocast:
        half = HALF_TYPES.get(self.config.precision)
        return torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None)

    @torch.no_grad()
    def _average_buffers(self) -> None:
        """Running statistics, seen on different shares; spectral norm's vectors, equal already, stay as they are."""
        buffers = (*self.generator.buffers(), *self.discriminators.buffers())
        self.processes.average_([buffer for buffer in buffers if buffer.is_floating_point()])

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
            "processes": self.processes.count,
            "step": self.done,
            "model": self.generator.state_dict(),
            "ema": self.ema.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "generator_scaler": self.generator_scaler.state_dict(),
            "discriminator_scaler": self.discriminator_scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what ``state_dict`` gave, here or on another number of processes.

        Raises: CheckpointError if it was made with another network, other training settings, or another number
            of pairs, which would change the schedule.
        """
        config, training = (
            GeneratorConfig.from_dict(state["config"]),
            TrainingConfig.from_dict(state["training"]),
        )
        got = {**asdict(config), **asdict(training), "pairs": state["pairs"]}
        expected = {**asdict(self.generator_config), **asdict(self.config), "pairs": self.pairs}
        changed = [name for name in expected if got[name] != expected[name]]
        if changed:
            listed = ", ".join(f"{name} was {got[name]} and is {expected[name]}" for name in changed)
            raise CheckpointError(
                f"the run to resume has other settings than were given now: {listed}; give the same ones, or another "
                "folder",
                got=got,
                expected=expected,
            )
        self.done = int(state["step"])
        self.generator.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.discriminators.load_state_dict(state["discriminators"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        # Absent in files from before there were scalers, none of which is of an fp16 run.
        self.generator_scaler.load_state_dict(state.get("generator_scaler", {}))
        self.discriminator_scaler.load_state_dict(state.get("discriminator_scaler", {}))


class _AllStages(nn.Module):
    """``Generator.stages`` as a forward pass, the only kind whose gradients DistributedDataParallel averages."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: Tensor) -> Stages:
        return self.generator.stages(*inputs)


def _update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
