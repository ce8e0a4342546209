"""Two parts of a model behind ``PoseTransfer``: one picture, many poses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from posewarp.export.split import split
from posewarp.runtime import split_session as module
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.pipeline import PoseTransfer
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import FeatureCache, SplitSession

H, W = 32, 24


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """generated = a filter of the picture, plus how far keypoints move on average; whole, source, pose."""
    folder = tmp_path_factory.mktemp("split")
    shapes = {
        "source_image": ("uint8", ("batch", H, W, 3)),
        "source_keypoints": ("float32", ("batch", 18, 2)),
        "target_keypoints": ("float32", ("batch", 18, 2)),
    }
    generated = TensorSpec("generated", "uint8", ("batch", H, W, 3))
    settings = {"height": H, "width": W}
    contract = Contract("image", tuple(TensorSpec(k, *v) for k, v in shapes.items()), (generated,), settings)
    node = helper.make_node
    nodes = [
        node("Cast", ["source_image"], ["picture"], to=1),
        node("Transpose", ["picture"], ["channels"], perm=[0, 3, 1, 2]),
        node("Conv", ["channels", "filter"], ["features"], pads=[1, 1, 1, 1]),
        node("Sub", ["target_keypoints", "source_keypoints"], ["moved"]),
        node("ReduceMean", ["moved", "axes"], ["mean"], keepdims=1),
        node("Unsqueeze", ["mean", "last"], ["level"]),
        node("Add", ["features", "level"], ["sum"]),
        node("Transpose", ["sum"], ["pixels"], perm=[0, 2, 3, 1]),
        node("Round", ["pixels"], ["rounded"]),
        node("Clip", ["rounded", "zero", "full"], ["clipped"]),
        node("Cast", ["clipped"], ["generated"], to=2),
    ]
    values = {
        "filter": np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32) / 9,
        "axes": np.array([1, 2]), "last": np.array([3]),
        "zero": np.float32(0), "full": np.float32(255),
    }  # fmt: skip
    kinds = {"uint8": 2, "float32": 1}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(k, kinds[kind], shape) for k, (kind, shape) in shapes.items()],
        [helper.make_tensor_value_info("generated", 2, generated.shape)],
        [numpy_helper.from_array(value, key) for key, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, folder / "model.onnx")
    report = split(folder / "model.onnx", ["source_image", "source_keypoints"], data="random")
    assert report.plan.kept_inputs == ("source_keypoints",)
    return folder / "model.onnx", report.source, report.pose


@pytest.fixture
def parts(files):
    with SplitSession.open(*files[1:]) as session:
        yield session


@pytest.fixture
def counted(parts, monkeypatch):
    """Batches that the source part and the pose part were run with."""
    calls = {"source": [], "pose": []}
    for name, session in (("source", parts.source), ("pose", parts.pose)):
        run = session.run

        def counting(feeds, run=run, name=name):
            calls[name].append(len(next(iter(feeds.values()))))
            return run(feeds)

        monkeypatch.setattr(session, "run", counting)
    return calls


def person(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (H, W, 3), np.uint8)
    return image, *(rng.uniform(0, W, (18, 2)).astype(np.float32) for _ in range(2))


def test_pictures_are_the_wholes(files, parts):
    people = [person(seed) for seed in (0, 1, 0, 2)]
    with Session.open(files[0]) as whole:
        expected = PoseTransfer(whole).batch(*zip(*people, strict=True))
    got = PoseTransfer(parts).batch(*zip(*people, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_picture_is_encoded_once_for_many_poses(parts, counted):
    image, source, target = person(0)
    transfer = PoseTransfer(parts)
    first = transfer.batch([image] * 3, [source] * 3, [target, target / 2, target / 3])
    again = transfer(image, source, target)
    assert counted == {"source": [1], "pose": [3, 1]}
    assert np.array_equal(first[0], again)
    assert not np.array_equal(first[0], first[1])


def test_one_pixel_is_another_picture(parts, counted):
    image, source, target = person(0)
    transfer = PoseTransfer(parts)
    transfer(image, source, target)
    image[5, 5, 0] ^= 1
    transfer(image, source, target)
    assert counted["source"] == [1, 1]


@pytest.mark.parametrize("count", [1, 2, 3])  # 4, 8 and 12 bytes
@pytest.mark.parametrize(("value", "other"), [(0.0, -0.0), (1.0, np.nextafter(np.float32(1), 2))])
def test_a_source_is_known_again_by_its_last_bit(count, value, other):
    array = np.full(count, value, np.float32)
    again, changed = array.copy(), array.copy()
    changed[-1] = other
    assert module._same(array, again)
    assert not module._same(array, changed)
    nan = np.full(count, np.nan, np.float32)
    assert module._same(nan, nan.copy())


def test_without_memory_a_batch_still_encodes_its_picture_once(files):
    with SplitSession.open(*files[1:], cache_mib=0) as session:
        image, source, target = person(0)
        PoseTransfer(session).batch([image] * 3, [source] * 3, [target] * 3)
        assert session.cache.state.misses == 1
        assert session.cache.state.sources == 0


def test_threads_get_what_serial_calls_get(files, parts):
    people = [person(seed % 7) for seed in range(40)]
    with Session.open(files[0]) as whole:
        expected = [PoseTransfer(whole)(*each) for each in people]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda each: PoseTransfer(parts)(*each), people))
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert parts.cache.state.misses == 7


def test_closed_parts_refuse_to_run(files):
    session = SplitSession.open(*files[1:])
    session.close()
    with pytest.raises(BackendError, match="is closed"):
        PoseTransfer(session)(*person(0))
    assert session.cache.state.mib == 0


def test_a_whole_model_is_no_part(files):
    with pytest.raises(ContractError, match="no source and pose part"):
        SplitSession.open(files[0], files[2])


# The cache


def mib(count):
    return {"features": np.zeros((count, 2**18), np.float32)}


def test_the_least_recently_used_source_is_given_up_and_the_bound_holds():
    cache = FeatureCache(3)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        cache.get(key, lambda: mib(1))
        assert cache.state.mib <= 3
    made = []
    for key in (b"a", b"c", b"d", b"b"):
        cache.get(key, lambda key=key: made.append(key) or mib(1))
    assert made == [b"b"]


def test_what_is_larger_than_the_bound_is_handed_out_and_evicts_nothing():
    cache = FeatureCache(2)
    cache.get(b"small", lambda: mib(1))
    assert cache.get(b"large", lambda: mib(3))["features"].nbytes == 3 * 2**20
    assert (cache.state.sources, cache.state.mib) == (1, 1)


def test_threads_that_ask_at_once_make_it_once():
    cache, started, go = FeatureCache(8), threading.Event(), threading.Event()
    made = []

    def make():
        made.append(1)
        started.set()
        assert go.wait(10)
        return mib(1)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, b"a", make)
        assert started.wait(10)
        others = [pool.submit(cache.get, b"a", make) for _ in range(3)]
        while cache.state.hits < 3:
            pass
        go.set()
        assert all(each.result() is first.result() for each in others)
    assert len(made) == 1


def test_a_failure_is_told_and_not_kept():
    cache = FeatureCache(8)

    def fail():
        raise BackendError("no memory")

    with pytest.raises(BackendError, match="no memory"):
        cache.get(b"a", fail)
    assert cache.get(b"a", lambda: mib(1))["features"].shape == (1, 2**18)


def test_kept_features_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        FeatureCache(8).get(b"a", lambda: mib(1))["features"][:] = 1


def test_a_negative_bound_is_refused():
    with pytest.raises(ContractError, match="0 or more"):
        FeatureCache(-1)
