"""A model cut by ``posewarp split``, run as if it were whole: the source part once a source, the rest each time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import ContractError
from posewarp.runtime.session import Session

SETTING = "split"  # of a part's contract
SOURCE_PART, POSE_PART = "source", "pose"
CACHE_MIB = 256

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class CacheState:
    """What a cache holds and did.

    Attributes:
        hits, misses: how often a source's features were there, or were being made; and were made.
        sources: how many sources are kept.
        mib: their size.
        limit_mib: the bound.
    """

    hits: int
    misses: int
    sources: int
    mib: float
    limit_mib: float


class FeatureCache:
    """Arrays by key, the least recently used given up first; callable from several threads.

    What is being made, or still used by a caller, is not counted: a bound on what is kept between runs.
    """

    def __init__(self, limit_mib: float = CACHE_MIB):
        """Args:
        limit_mib: of all arrays together; what is larger by itself is handed out and not kept, 0 keeps nothing.
        """
        if not limit_mib >= 0:
            raise ContractError(f"the cache's limit is {limit_mib} MiB, expected 0 or more", got=limit_mib)
        self.limit_mib = limit_mib
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Arrays] = OrderedDict()
        self._being_made: dict[bytes, Future[Arrays]] = {}
        self._bytes = self._hits = self._misses = 0

    def get(self, key: bytes, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a key, made once however many threads ask at the same time; they are read-only.

        Raises: what ``make`` raises, in every thread that waits for it; nothing is kept then.
        """
        with self._lock:
            if key in self._kept:
                self._hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
            future, first = self._being_made.get(key), False
            if future is None:
                future, first = Future(), True
                self._being_made[key] = future
            self._hits, self._misses = self._hits + (not first), self._misses + first
        if not first:
            return future.result()
        try:
            arrays = make()
        except BaseException as exc:
            with self._lock:
                del self._being_made[key]
            future.set_exception(exc)
            raise
        for array in arrays.values():
            array.setflags(write=False)
        with self._lock:
            del self._being_made[key]
            self._keep(key, arrays)
        future.set_result(arrays)
        return arrays

    def _keep(self, key: bytes, arrays: Arrays) -> None:
        size, limit = _size(arrays), self.limit_mib * 2**20
        if size > limit:
            return
        self._kept[key] = arrays
        self._bytes += size
        while self._bytes > limit:
            self._bytes -= _size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Give up all that is kept."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    @property
    def state(self) -> CacheState:
        with self._lock:
            return CacheState(self._hits, self._misses, len(self._kept), self._bytes / 2**20, self.limit_mib)


class SplitSession:
    """The two parts of a model, with the whole's contract: ``PoseTransfer`` takes it as it takes a ``Session``.

    Each sample of a batch has its own source: features are looked up, or made, one source at a time, laid one behind
    the other (a source that stands twice in a batch, twice), and the pose part runs the batch at once. A model of
    fixed batch is run, and its features are kept, by whole batches.

    Attributes:
        path: of the pose part.
        contract: of the whole model.
        source, pose: the sessions.
        shared: features of which a batch has one, whatever its size.
        cache: of features, by the SHA-256 of what the source part takes.
    """

    def __init__(self, source: Session, pose: Session, *, cache_mib: float = CACHE_MIB):
        """Take two open sessions; ``close`` closes them.

        Raises: ContractError if they are not the parts of one split.
        """
        halves = [session.contract.settings.get(SETTING, {}) for session in (source, pose)]
        parts = [half.get("part") for half in halves]
        if parts != [SOURCE_PART, POSE_PART]:
            raise ContractError(
                f"{source.path} and {pose.path} are no source and pose part of posewarp split: "
                f"their contracts say {parts[0]} and {parts[1]}",
                got=parts,
                expected=[SOURCE_PART, POSE_PART],
            )
        if halves[0]["pair"] != halves[1]["pair"]:
            raise ContractError(
                f"{source.path} was cut from another model, or elsewhere, than {pose.path} "
                f"(pairs {halves[0]['pair'][:12]} and {halves[1]['pair'][:12]}); take both files of one posewarp split",
                got=halves[0]["pair"],
                expected=halves[1]["pair"],
            )
        self.source, self.pose = source, pose
        self.path = pose.path
        self.contract = Contract.from_json(json.dumps(halves[1]["whole"]))
        self.cache = FeatureCache(cache_mib)
        self._last: tuple[Arrays, bytes] = {}, b""  # replaced as one, so that threads may race
        self._features = tuple(halves[1]["features"])
        self.shared = frozenset(halves[1]["shared"])
        self._own = tuple(spec.name for spec in source.contract.outputs if spec.name not in self._features)
        self._own += tuple(n for n in self._features if n in {spec.name for spec in self.contract.outputs})
        self._batched, self._fixed = _batch_of(self.contract)

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        pose: str | os.PathLike[str],
        *,
        cache_mib: float = CACHE_MIB,
        extra_outputs: Sequence[str] = (),
        **options: Any,
    ) -> SplitSession:
        """Open both parts: ``model.source.onnx`` and ``model.pose.onnx``, or what was made of each.

        Args:
            source, pose: the files; they may differ in precision and backend.
            cache_mib: memory for features.
            extra_outputs: internal tensors of the pose part to return besides, such as ``flow``.
            options: for both, see ``Session.open``.

        Raises: as ``Session.open``, and ContractError if the files are not the parts of one split.
        """
        with ExitStack() as opened:
            first = opened.enter_context(Session.open(source, **options))
            second = opened.enter_context(Session.open(pose, extra_outputs=extra_outputs, **options))
            session = cls(first, second, cache_mib=cache_mib)
            opened.pop_all()
        return session

    @property
    def device(self) -> str:
        """Of the pose part."""
        return self.pose.device

    def run(self, feeds: Mapping[str, Any]) -> Arrays:
        """As ``Session.run`` of the whole model.

        Raises: as it.
        """
        length = {len(feeds[name]) for name in self._batched if name in feeds and np.ndim(feeds[name])}
        step = self._fixed
        if step and len(length) == 1 and (count := length.pop()) > step and count % step == 0:
            parts = [
                {
                    name: value[at : at + step] if name in self._batched else value
                    for name, value in feeds.items()
                }
                for at in range(0, count, step)
            ]
            results = [self._run(part) for part in parts]
            return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
        return self._run(feeds)

    def _run(self, feeds: Mapping[str, Any]) -> Arrays:
        feeds = self.contract.prepare(feeds)
        lengths = {len(array) for name, array in feeds.items() if name in self._batched}
        if len(lengths) > 1:
            raise ContractError(
                f"the inputs hold different numbers of samples, {sorted(lengths)}", got=lengths
            )
        by_row = bool(lengths) and not self._fixed
        rows: Sequence[int | None] = range(lengths.pop()) if by_row else (None,)
        made = self._features_of([self._taken(feeds, row) for row in rows])
        joined = {
            name: made[0][name]
            if len(made) == 1 or name in self.shared
            else np.concatenate([one[name] for one in made])
            for name in made[0]
        }
        given = {spec.name: joined.get(spec.name, feeds.get(spec.name)) for spec in self.pose.contract.inputs}
        results = self.pose.run(given)
        results.update((name, np.array(joined[name])) for name in self._own)
        names = [spec.name for spec in self.contract.outputs]
        return {name: results[name] for name in [*names, *(name for name in results if name not in names)]}

    def _taken(self, feeds: Mapping[str, np.ndarray], row: int | None) -> Arrays:
        """What the source part takes of one sample; of all where ``row`` is None."""
        return {
            spec.name: feeds[spec.name]
            if row is None or spec.name not in self._batched
            else feeds[spec.name][row : row + 1]
            for spec in self.source.contract.inputs
        }

    def _features_of(self, sources: Sequence[Arrays]) -> list[Arrays]:
        """Of each source; one that stands there twice is looked up once."""
        found: dict[bytes, Arrays] = {}
        keys = []
        for taken in sources:
            keys.append(self._key_of(taken))
            if keys[-1] not in found:
                found[keys[-1]] = self.cache.get(keys[-1], partial(self.source.run, taken))
        return [found[key] for key in keys]

    def _key_of(self, taken: Arrays) -> bytes:
        """SHA-256 of what the source part takes. The last one's is remembered: to compare is ten times as fast."""
        last, key = self._last
        if last.keys() == taken.keys() and all(_same(last[name], array) for name, array in taken.items()):
            return key
        digest = hashlib.sha256()
        for name, array in taken.items():
            digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
            digest.update(np.ascontiguousarray(array))
        key = digest.digest()
        self._last = {name: array.copy() for name, array in taken.items()}, key
        return key

    def close(self) -> None:
        """Close both sessions, and give up the features."""
        self.source.close()
        self.pose.close()
        self.cache.clear()

    def __enter__(self) -> SplitSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SplitSession({self.source!r}, {self.pose!r})"


def _batch_of(contract: Contract) -> tuple[frozenset[str], int | None]:
    """The inputs whose first axis is the batch, and its size where that is fixed."""
    first = {spec.name: spec.shape[0] for spec in contract.inputs if spec.shape}
    dynamic = frozenset(name for name, size in first.items() if isinstance(size, str))
    if dynamic:
        return dynamic, None
    sizes = set(first.values())
    return (frozenset(first), sizes.pop()) if len(sizes) == 1 else (frozenset(), None)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Bit for bit: -0.0 is not 0.0, and NaN is itself."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    # Eight bytes at a time where they come out even: a fifth of the time.
    word = np.uint64 if first.nbytes % 8 == 0 else np.uint8
    return np.array_equal(first.reshape(-1).view(word), np.ascontiguousarray(second).reshape(-1).view(word))


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
