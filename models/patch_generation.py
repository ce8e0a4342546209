"""Patch generation (PG): the chain of incarnation blocks that draws the target without moving patches."""

from __future__ import annotations

from torch import Tensor, nn

from posewarp.models.config import GeneratorConfig
from posewarp.models.incarnation import IncarnationBlock


class PatchGeneration(nn.Module):
    """s_0, t_0 through all incarnation blocks to s_n, the paper's recursive estimation of the output sample."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.blocks = nn.ModuleList(IncarnationBlock(config) for _ in range(config.blocks))

    def forward(self, appearance: Tensor, pose: Tensor) -> Tensor:
        """Run the chain.

        Args:
            appearance: s_0, features of the source image, (B, C, H, W).
            pose: t_0, features of the heat maps, (B, C, H, W).

        Returns: s_n, (B, C, H, W).
        """
        for block in self.blocks:
            appearance, pose = block(appearance, pose)
        return appearance
