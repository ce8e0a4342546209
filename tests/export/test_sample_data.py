import numpy as np
import pytest
from onnx import TensorProto, helper

from posewarp.export.ladder import polygraphy_files
from posewarp.export.ladder.sample_data import describe, fixed_batch, load_inputs, read_contract
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import DataError, PosewarpWarning
from posewarp.runtime.image import write_image
from posewarp.runtime.keypoints import KEYPOINTS

SETTINGS = {"height": 64, "width": 32, "heatmap_sigma_px": 3.0, "heatmap_kind": "gaussian"}
IMAGE = Contract(
    "image",
    (
        TensorSpec("source_image", "uint8", ("batch", "height", "width", 3)),
        TensorSpec("source_keypoints", "float32", ("batch", 18, 2)),
        TensorSpec("target_keypoints", "float32", ("batch", 18, 2)),
    ),
    (),
    SETTINGS,
)
TENSORS = Contract(
    "tensors",
    tuple(
        TensorSpec(name, "float32", ("batch", channels, "height", "width"))
        for name, channels in (("source_image", 3), ("source_heatmaps", 18), ("target_heatmaps", 18))
    ),
    (),
    SETTINGS,
)


def custom(*shapes, dtype="float32"):
    specs = (TensorSpec(name, dtype, shape) for name, shape in zip("xyz", shapes, strict=False))
    return Contract("custom", tuple(specs), ())


FLOWS = custom(("n", 2, 8, 6), ("n", 3))


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "inputs.npz", **arrays)
    return tmp_path / "inputs.npz"


def counted(*shape):
    """Each sample holds its own number."""
    return np.arange(shape[0], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1)) * np.ones(
        shape, np.float32
    )


# Synthetic people


@pytest.mark.parametrize("contract", [IMAGE, TENSORS])
def test_synthetic_people_are_the_default_and_all_different(contract):
    runs = load_inputs(None, contract, batch=2, count=2)
    assert len(runs) == 2
    assert all(len(array) == 2 for feeds in runs for array in feeds.values())
    samples = [feeds["source_image"][i] for feeds in runs for i in range(2)]
    assert all((samples[i] != samples[j]).any() for i in range(4) for j in range(i))


def test_the_batch_does_not_change_the_samples():
    together = load_inputs("synthetic", IMAGE, batch=3)[0]
    single = load_inputs("synthetic", IMAGE, count=3)
    for name, array in together.items():
        np.testing.assert_array_equal(array, np.concatenate([feeds[name] for feeds in single]))


def test_people_are_made_at_the_size_asked_for():
    (feeds,) = load_inputs(None, TENSORS, size={"height": 96, "width": 64})
    assert feeds["source_heatmaps"].shape == (1, 18, 96, 64)


def test_a_network_of_ones_own_has_no_default():
    with pytest.raises(DataError, match=r"give --data inputs.npz \(arrays x, y\), .*--data random"):
        load_inputs(None, FLOWS)


# Random values


def test_random_values_are_seeded_smooth_and_fill_their_range():
    contract = custom(("n", 3, 64, 48), dtype="uint8")
    first, second = load_inputs("random", contract, batch=2, count=2)
    again = load_inputs("random", contract, batch=2)[0]
    np.testing.assert_array_equal(first["x"], again["x"])
    assert (first["x"] != second["x"]).any()
    assert first["x"].min() < 26
    assert first["x"].max() > 229
    assert abs(np.diff(first["x"].astype(int), axis=-1)).max() <= 255 / 47 * 6 + 1


def test_random_values_need_the_size_of_a_dynamic_axis():
    contract = custom(("n", 3, "rows", 48))
    with pytest.raises(
        DataError, match=r"x: float32 \(n, 3, rows, 48\) has a dynamic axis; .* --size rows=256"
    ):
        load_inputs("random", contract)
    assert load_inputs("random", contract, size={"rows": 40})[0]["x"].shape == (1, 3, 40, 48)


def test_random_values_make_no_sense_for_an_index():
    with pytest.raises(DataError, match="no range that random values could take"):
        load_inputs("random", custom(("n", 2), dtype="int64"))


# Recorded inputs


def test_recorded_samples_are_grouped_into_batches(tmp_path):
    path = npz(tmp_path, x=counted(5, 2, 8, 6), y=counted(5, 3))
    runs = load_inputs(path, FLOWS, batch=2, count=9)
    assert [feeds["x"][:, 0, 0, 0].tolist() for feeds in runs] == [[0, 1], [2, 3]]
    assert [feeds["y"][:, 0].tolist() for feeds in runs] == [[0, 1], [2, 3]]


def test_an_input_without_a_batch_stays_whole(tmp_path):
    path = npz(tmp_path, x=counted(4, 2), y=counted(7, 3))
    runs = load_inputs(path, custom(("n", 2), (7, 3)), batch=2, count=2)
    assert [len(feeds["x"]) for feeds in runs] == [2, 2]
    assert all(len(feeds["y"]) == 7 for feeds in runs)


def test_a_fixed_batch_cuts_the_recording(tmp_path):
    contract = custom((2, 3), (2, 1))
    assert fixed_batch(contract) == 2
    runs = load_inputs(npz(tmp_path, x=counted(4, 3), y=counted(4, 1)), contract, count=5)
    assert [feeds["x"][:, 0].tolist() for feeds in runs] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="batch is fixed at 2, got 3"):
        load_inputs("random", contract, batch=3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": counted(2, 2, 8, 6)}, "does not fit the model: missing input y"),
        ({"x": counted(2, 2, 8, 6), "y": counted(3, 3)}, r"different numbers of samples, \[2, 3\]"),
        (
            {"x": counted(2, 2, 8, 7), "y": counted(2, 3)},
            r"expected 6 on axis 3.* \(the file's arrays: x \(2, 2, 8, 7\), y",
        ),
        ({"x": counted(2, 2, 8, 6).astype(np.uint8), "y": counted(2, 3)}, "has type uint8, expected float32"),
        ({"x": np.float32(1), "y": counted(2, 3)}, "do not fit in one batch: zero-dim"),
        ({"x": counted(1, 2, 8, 6), "y": counted(1, 3)}, "holds 1 sample, too few for one batch of 2"),
        ({"x": np.array([{}]), "y": counted(1, 3)}, "not an .npz file of plain arrays"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_inputs(npz(tmp_path, **arrays), FLOWS, batch=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "missing.npz cannot be read: No such file"),
        ("text.npz", b"not a zip", "text.npz is not an .npz file; np.savez"),
        ("empty.npz", b"", "empty.npz is not an .npz file; np.savez"),
        ("cut.npz", b"PK\x03\x04 cut", "not an .npz file"),
        ("missing.json", None, "missing.json cannot be read: No such file"),
        ("other.json", b"{]", "is not Polygraphy's JSON"),
        ("other.json", b'{"x": 1}', "holds no inputs of Polygraphy's"),
        ("inputs.csv", b"", "expected synthetic, random, an .npz file"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_inputs(tmp_path / name, FLOWS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_the_model_would_be_blamed_for_names_input_and_sample(tmp_path, value):
    x = counted(4, 2, 8, 6).astype(np.float64)
    x[2, 1, 3, 3] = value
    path = npz(tmp_path, x=x, y=counted(4, 3))
    said = rf"inputs.npz: input x holds {value:g} in sample 2 \(.*; expected finite values that float32 can".replace(
        "+", r"\+"
    )
    with pytest.raises(DataError, match=said):
        load_inputs(path, FLOWS, batch=4)
    assert len(load_inputs(path, FLOWS, batch=2)) == 1


def test_samples_of_several_recorded_runs_are_counted_on(tmp_path):
    bad = {"x": counted(2, 2, 8, 6), "y": np.full((2, 3), np.nan, np.float32)}
    good = {"x": counted(2, 2, 8, 6), "y": counted(2, 3)}
    polygraphy_files.save_inputs(tmp_path / "in.json", [good, bad])
    with pytest.raises(DataError, match="input y holds nan in sample 2"):
        load_inputs(tmp_path / "in.json", FLOWS, batch=4)


def test_a_recorded_keypoint_of_nan_is_a_missing_one(tmp_path):
    points = np.full((1, 18, 2), np.nan, np.float32)
    arrays = {"source_image": np.zeros((1, 64, 32, 3), np.uint8), "source_keypoints": points}
    path = npz(tmp_path, **arrays, target_keypoints=points)
    assert np.isnan(load_inputs(path, IMAGE)[0]["source_keypoints"]).all()


def test_polygraphys_inputs_are_read_as_samples(tmp_path):
    polygraphy_files.save_inputs(tmp_path / "in.json", [{"x": counted(2, 2, 8, 6), "y": counted(2, 3)}] * 2)
    runs = load_inputs(tmp_path / "in.json", FLOWS, batch=3)
    assert runs[0]["x"][:, 0, 0, 0].tolist() == [0, 1, 0]
    polygraphy_files.save_inputs(
        tmp_path / "in.json", [{"x": counted(1, 2, 8, 6), "y": counted(1, 3)}, {"x": counted(1, 2, 8, 5)}]
    )
    with pytest.raises(DataError, match="do not fit in one batch"):
        load_inputs(tmp_path / "in.json", FLOWS, batch=2)


def test_outputs_survive_polygraphys_json(tmp_path):
    outputs = [{"y": counted(2, 3)}, {"y": -counted(2, 3)}]
    polygraphy_files.save_outputs(tmp_path / "out.json", "posewarp", outputs)
    for got, expected in zip(polygraphy_files.read_outputs(tmp_path / "out.json"), outputs, strict=True):
        np.testing.assert_array_equal(got["y"], expected["y"])
    with pytest.raises(DataError, match="holds no inputs of Polygraphy's"):
        polygraphy_files.read_inputs(tmp_path / "out.json")


# Folders


def person(folder, name, keypoint_name, height=80, width=50, shade=0):
    picture = np.full((height, width, 3), 200, np.uint8)
    picture[: height // 2] = shade
    write_image(folder / name, picture)
    points = np.linspace((5, 5), (width - 5, height - 5), KEYPOINTS) + shade / 100
    if keypoint_name:
        np.savetxt(folder / keypoint_name, points, delimiter=",")
    return points


def test_a_folder_pairs_pictures_with_keypoints_and_poses_each_as_the_next(tmp_path):
    person(tmp_path, "a.png", "a.txt", shade=10)
    person(tmp_path, "b.jpg", "b.csv", height=160, width=100, shade=90)
    (feeds,) = load_inputs(tmp_path, IMAGE, batch=2)
    assert feeds["source_image"].shape == (2, 64, 32, 3)
    np.testing.assert_array_equal(feeds["target_keypoints"], feeds["source_keypoints"][::-1])
    assert describe(tmp_path) == f"pictures of {tmp_path}"


def test_a_target_file_gives_the_pose(tmp_path):
    person(tmp_path, "a.png", "a.txt")
    np.save(tmp_path / "a_target.npy", np.full((KEYPOINTS, 2), 20.0))
    (feeds,) = load_inputs(str(tmp_path), IMAGE)
    assert np.ptp(feeds["target_keypoints"]) < 10 < np.ptp(feeds["source_keypoints"])


def test_one_csv_may_hold_all_rows(tmp_path):
    rows = ["name:keypoints_y:keypoints_x"]
    for name in ("a.png", "b.png"):
        points = person(tmp_path, name, None)
        rows.append(
            f"{name}: {points[:, 1].round().astype(int).tolist()}: {points[:, 0].round().astype(int).tolist()}"
        )
    (tmp_path / "annotation.csv").write_text("\n".join(rows))
    assert len(load_inputs(tmp_path, IMAGE, batch=2)[0]["source_image"]) == 2


def test_faults_of_a_folder_name_the_file(tmp_path):
    with pytest.raises(DataError, match="holds 0 samples"):
        load_inputs(tmp_path, IMAGE)
    person(tmp_path, "a.png", None)
    with pytest.raises(DataError, match=r"a.png has no keypoint file beside it; expected a.json"):
        load_inputs(tmp_path, IMAGE)
    np.savetxt(tmp_path / "a.txt", np.full((KEYPOINTS, 2), 500.0))
    with pytest.raises(DataError, match=r"a.txt: 18 of 18 keypoints lie outside"):
        load_inputs(tmp_path, IMAGE)
    with pytest.raises(DataError, match="fit posewarp's generator only"):
        load_inputs(tmp_path, FLOWS)


def test_a_keypoint_outside_warns_with_its_file(tmp_path):
    person(tmp_path, "a.png", "a.txt")
    points = np.loadtxt(tmp_path / "a.txt", delimiter=",")
    points[3] = (500, 5)
    np.savetxt(tmp_path / "a.txt", points)
    with pytest.warns(PosewarpWarning, match=r"a.txt: right_elbow"):
        load_inputs(tmp_path, IMAGE)


def test_the_contract_of_a_foreign_file_is_what_it_declares():
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["n", 3, None, 4])
    weight = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"])],
        "g",
        [image, weight],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, ["n", 3, None, 4])],
        [helper.make_tensor("weight", TensorProto.FLOAT, [1], [1.0])],
    )
    contract = read_contract(helper.make_model(graph))
    assert contract.io == "custom"
    assert contract.inputs == (TensorSpec("image", "float16", ("n", 3, "image_2", 4)),)


def test_a_part_alone_is_told_how_its_data_are_recorded():
    part = Contract("custom", FLOWS.inputs, FLOWS.outputs, {"split": {"part": "pose"}})
    with pytest.raises(DataError, match="--data random; `posewarp split --save-features` records them"):
        load_inputs(None, part)
