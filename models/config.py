"""Every choice of the network, in one dataclass.

The paper fixes the structure; what it leaves open is a field here whose comment says "not in the paper".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from posewarp.runtime.errors import ContractError

KEYPOINTS = 18


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of the generator. ``preset`` gives the named ones."""

    # The size that the network was made for, in pixels. It is fully convolutional: any height and width
    # divisible by 4 run.
    height: int = 256
    width: int = 176
    # Channels of the first map; doubled at each of the two strides. Not in the paper (64 as in its field).
    base_width: int = 64
    # Incarnation blocks. Not in the paper.
    blocks: int = 9
    # Convolutions in each of f, alpha and beta (eq. 2). Not in the paper.
    block_convs: int = 2
    # Whether alpha passes a sigmoid: the text calls it an attention map, eq. 1 and 2 write none. Without it the chain
    # multiplies: trained for 60 steps, four blocks gave s_n up to 1.5e3, and 1.9e7 with batch norm's running
    # statistics, against 40 and 270 with it. Not in the paper.
    alpha_sigmoid: bool = True
    # Whether f_i(s) is s plus its convolutions, or the convolutions alone, which learn more slowly: 375 steps with
    # it reached the held-out PSNR that took 1,000 without. Not in the paper.
    block_residual: bool = True
    # Spectral norm beside batch norm in the incarnation blocks; the paper names encoders and decoder only.
    block_spectral_norm: bool = False
    # Convolutions of the flow estimator before its last one. Not in the paper.
    flow_convs: int = 2
    # Passes of the flow estimator with shared weights. The paper's "recursive" is the chain of incarnation
    # blocks, and its estimator sees s_0 and s_n alone: one pass. More are an option to ablate.
    flow_passes: int = 1
    # What lies outside the map: "zeros" as eq. 3 reads, or "border".
    border: str = "zeros"
    # Convolutions of the merging module, kernel 3 (the paper: "a receptive field of greater than one").
    merge_convs: int = 2
    # The two skip connections warped by the resized flow, or as they are. Not in the paper.
    warp_skips: bool = True
    # Ablation switches. Without patch generation the flow sees (s_0, t_0) and merging gets the warped
    # features alone; without patch transfer merging gets s_n alone and the skips stay unwarped.
    patch_generation: bool = True
    patch_transfer: bool = True
    # Heat maps: standard deviation in pixels, and "gaussian" or "delta" (a single one at the pixel that holds
    # the keypoint, what checkpoints of the PATN family were trained on). Not in the paper.
    heatmap_sigma_px: float = 6.0
    heatmap_kind: str = "gaussian"

    def __post_init__(self) -> None:
        for f in fields(self):
            value, wanted = getattr(self, f.name), type(f.default)
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise ContractError(f"{f.name} is {value!r}, expected {wanted.__name__}")
        for name in ("height", "width"):
            if getattr(self, name) < 8 or getattr(self, name) % 4:
                raise ContractError(f"{name} is {getattr(self, name)}, expected a multiple of 4, at least 8")
        for name in ("base_width", "blocks", "block_convs", "flow_passes", "merge_convs"):
            if getattr(self, name) < 1:
                raise ContractError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.flow_convs < 0:
            raise ContractError(f"flow_convs is {self.flow_convs}, expected at least 0")
        if not self.heatmap_sigma_px > 0:
            raise ContractError(f"heatmap_sigma_px is {self.heatmap_sigma_px}, expected more than 0")
        if self.border not in ("zeros", "border"):
            raise ContractError(f"border is {self.border!r}, expected 'zeros' or 'border'")
        if self.heatmap_kind not in ("gaussian", "delta"):
            raise ContractError(f"heatmap_kind is {self.heatmap_kind!r}, expected 'gaussian' or 'delta'")
        if not (self.patch_generation or self.patch_transfer):
            raise ContractError(
                "patch_generation and patch_transfer are both off; nothing would be generated"
            )

    @classmethod
    def preset(cls, name: str, **changes: object) -> GeneratorConfig:
        """A named configuration, with fields changed by keyword.

        Raises: ContractError if there is no such preset or field.
        """
        if name not in PRESETS:
            raise ContractError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return cls.from_dict({**asdict(PRESETS[name]), **changes})

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> GeneratorConfig:
        """The inverse of ``dataclasses.asdict``.

        Raises: ContractError if a field is unknown.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ContractError(
                f"unknown configuration field {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        return replace(cls(), **data)

    @property
    def feature_width(self) -> int:
        """Channels of s_i and t_i, at a quarter of the image's size."""
        return 4 * self.base_width


PRESETS = {
    "deepfashion": GeneratorConfig(height=256, width=176),
    "market": GeneratorConfig(height=128, width=64),
    "small": GeneratorConfig(height=128, width=64, base_width=24, blocks=4),
}
