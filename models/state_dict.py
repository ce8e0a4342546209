"""From a file as people save it to the state of one generator, under the generator's own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from posewarp.runtime.errors import CheckpointError

# A generator's state is known by these two names; what precedes them ("module.", "netG.", ...) is its prefix.
_ENCODER = re.compile(r"(|.*?\.)image_encoder\.")
_DECODER = "decoder."
# Wrappers of torch that may also sit between two names: DistributedDataParallel and torch.compile.
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
_EMA = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)
# Old layout (torch.nn.utils.spectral_norm) to new (torch.nn.utils.parametrizations.spectral_norm). The values
# are the same: u of (out,), v of (in * k * k,), and in eval mode sigma = u . W v in both.
_SPECTRAL_NAMES = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}
# {"checkpoint": {"model": {"generator": {...}}}} is the deepest nesting looked into.
_MAX_DEPTH = 4
# Names listed in a message before the rest is counted.
_MAX_LISTED = 20


@dataclass(frozen=True)
class FoundState:
    """The state of a generator, somewhere in a file.

    Attributes:
        name: where it is, keys joined by dots; empty at the top.
        weights: "ema" if the name says so, else "raw".
        tensors: under the generator's own names, spectral norm in the new layout.
        others: names in the same dict that belong to no generator, such as a discriminator's.
    """

    name: str
    weights: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]


def find_states(tree: object) -> Iterator[FoundState]:
    """Every state of a generator in a loaded file: in nested dicts, modules, and flat dicts with prefixes."""
    for name, tensors in _dicts_of_tensors(tree):
        # Longest first, so that with "" and "ema." in one dict each name goes to its own.
        prefixes = sorted(
            {match[1] for key in tensors if (match := _ENCODER.match(key))}, key=len, reverse=True
        )
        groups: dict[str | None, dict[str, Tensor]] = {prefix: {} for prefix in (*prefixes, None)}
        for key, value in tensors.items():
            prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
            groups[prefix][_own_name(key[len(prefix or "") :])] = value
        others = tuple(groups.pop(None))
        for prefix, own in groups.items():
            if any(key.startswith(_DECODER) for key in own):
                place = _join(name, prefix.rstrip("."))
                yield FoundState(place, "ema" if _EMA.search(place) else "raw", own, others)


def choose_state(tree: object, file: object, weights: str, key: str | None) -> FoundState:
    """The one state that is asked for.

    Args:
        tree: what the file holds.
        file: its name, for messages.
        weights: "auto" takes EMA weights where there are some, else raw ones.
        key: look only under this name; None looks everywhere.

    Raises: CheckpointError if there is none or more than one.
    """
    states = [s for s in find_states(tree) if key is None or s.name == key or s.name.startswith(f"{key}.")]
    if not states:
        dicts = [
            f"{name or '(top level)'} ({len(tensors)} tensors, {next(iter(tensors))} first)"
            for name, tensors in _dicts_of_tensors(tree)
        ]
        raise CheckpointError(
            f"{file} holds no weights of the generator{f' under {key!r}' if key else ''}, whose names are "
            f"image_encoder.*, decoder.*, ...; it holds {listed(dicts) or 'no tensors'}. "
            "Name the right one with --key, or export a network of your own with --spec"
        )
    wanted = weights if weights != "auto" else ("ema" if any(s.weights == "ema" for s in states) else "raw")
    matching = [state for state in states if state.weights == wanted]
    names = listed(f"{state.name or '(top level)'} ({state.weights})" for state in states)
    if not matching:
        raise CheckpointError(
            f"{file} holds no {wanted} weights, only {names}; ask for --weights {states[0].weights} or auto"
        )
    if len(matching) > 1:
        raise CheckpointError(f"{file} holds more than one generator: {names}; choose one with --key")
    return matching[0]


def listed(items: Iterable[str]) -> str:
    """``a, b, c``, cut after twenty with a count of the rest."""
    items = list(items)
    rest = f", and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + rest


def _dicts_of_tensors(
    tree: object, name: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if isinstance(tree, nn.Module):
        tree = tree.state_dict()
    if not isinstance(tree, Mapping) or depth > _MAX_DEPTH:
        return
    tensors = {
        key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield name, tensors
    for key, value in tree.items():
        yield from _dicts_of_tensors(value, _join(name, str(key)), depth + 1)


def _own_name(key: str) -> str:
    """Without wrappers, and in the new layout of spectral norm."""
    module, _, last = _WRAPPERS.sub("", key).rpartition(".")
    return _join(module, _SPECTRAL_NAMES.get(last, last))


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)
