"""A module made ready for export: a copy of its own, one calling convention, norms folded."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from posewarp.runtime.errors import ExportError


class TensorModule(nn.Module):
    """Any module behind one calling convention: tensors in by position, a tuple of tensors out.

    Raises: ExportError, when called, if the module returns anything but ``outputs`` tensors.
    """

    def __init__(self, module: nn.Module, outputs: int):
        super().__init__()
        self.module = module
        self.outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        returned = tuple(tree_leaves(self.module(*inputs)))
        kinds = [type(value).__name__ for value in returned if not isinstance(value, Tensor)]
        if kinds or len(returned) != self.outputs:
            raise ExportError(
                f"the module returned {len(returned)} values{f', a {kinds[0]} among them' if kinds else ''}; "
                f"expected {self.outputs} tensors, one for each output name and intermediate"
            )
        return returned


def detached_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, without gradients. The original keeps its mode, device and state."""
    # Norms of the old layout leave their last weight as an attribute that is no leaf, which deepcopy refuses.
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).eval().cpu().requires_grad_(False)


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold spectral norm, weight norm and other parametrizations, in either layout of torch, in place.

    Batch norm is left to the exporter, which folds it into the convolution before it.

    Args:
        module: in eval mode: in train mode, reading a spectrally normalised weight changes it.

    Returns: the module, with plain weights that give the same outputs.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            # Not remove_parametrizations: it changes the class, which copies share with their original.
            weights = {name: getattr(part, name) for name in part.parametrizations}
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight, requires_grad=False))
        for key, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, (SpectralNorm, WeightNorm)):
                hook.remove(part)
                del part._forward_pre_hooks[key]
    return module
