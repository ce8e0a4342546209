"""The networks that are compared, and the one budget that all of them get."""

from __future__ import annotations

from dataclasses import dataclass

from posewarp.models.config import GeneratorConfig

COPY = "copy"  # of the source picture: what a network that learned nothing would score
GENERATION, TRANSFER, BOTH = "patch generation", "patch transfer", "both"
# What each changes of the whole network, which has one flow pass and warps its skip connections.
VARIANTS: dict[str, dict[str, object]] = {
    GENERATION: {"patch_transfer": False},
    TRANSFER: {"patch_generation": False},
    BOTH: {},
    "both, 2 passes": {"flow_passes": 2},
    "both, 3 passes": {"flow_passes": 3},
    "both, unwarped skips": {"warp_skips": False},
}


@dataclass(frozen=True)
class Budget:
    """What every variant gets.

    Attributes:
        height, width: of the pictures, in pixels.
        steps, batch_size: of the training.
        base_width, blocks: of the network, those of the preset "small" unless changed.
    """

    height: int
    width: int
    steps: int
    batch_size: int = 8
    base_width: int = 24
    blocks: int = 4


# Ten times the steps at twice the size, where there is a GPU.
BUDGETS = {"cpu": Budget(64, 32, 800), "cuda": Budget(128, 64, 8000)}


def network(variant: str, budget: Budget) -> GeneratorConfig:
    """A variant's configuration."""
    return GeneratorConfig.preset(
        "small",
        height=budget.height,
        width=budget.width,
        base_width=budget.base_width,
        blocks=budget.blocks,
        # The same part of the body at every size.
        heatmap_sigma_px=6.0 * budget.height / 128,
        **VARIANTS[variant],
    )


def folder_name(variant: str) -> str:
    """A variant's name without spaces and commas."""
    return variant.replace(",", "").replace(" ", "-")
