"""The command of quality.py: networks and folders in, table and JSON out, one line where something is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posewarp.benchmarks import quality
from posewarp.benchmarks.scoring.folders import Pictures, TruthFolder, names_of
from posewarp.benchmarks.scoring.generators import copy_source, of_network
from posewarp.benchmarks.scoring.inception import Statistics
from posewarp.benchmarks.scoring.published import published
from posewarp.benchmarks.scoring.score import score
from posewarp.export.to_fp16 import to_fp16
from posewarp.export.to_onnx import to_onnx
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime import command
from posewarp.runtime.errors import DataError

CONFIG = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)
PAIRS = 18  # more than one batch of 16, and not a multiple of it


@pytest.fixture(scope="module")
def people():
    made = SyntheticPeople(CONFIG.height, CONFIG.width, split="test", length=PAIRS)
    return [made[i] for i in range(PAIRS)]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in this process; returns exit code, stdout, stderr and the JSON report, if any."""

    def run(*arguments):
        path = tmp_path / "report.json"
        path.unlink(missing_ok=True)
        monkeypatch.setattr("sys.argv", ["quality.py", *map(str, arguments), "--json", str(path)])
        with pytest.raises(SystemExit) as ending:
            command.main(quality.app)
        captured = capsys.readouterr()
        report = json.loads(path.read_text()) if path.exists() else None
        return int(ending.value.code or 0), captured.out, captured.err, report

    return run


@pytest.fixture
def folders(tmp_path, people):
    """Folders of generated pictures (the sources) and ground truth, in GFLA's names; pairs 0 to 3."""
    for name in ("generated", "truth"):
        (tmp_path / name).mkdir()
    for number, pair in enumerate(people[:4]):
        save(tmp_path / f"generated/from{number}_2_to{number}_vis.png", pair.source_image)
        save(tmp_path / f"truth/to{number}.png", pair.target_image)
    return tmp_path / "generated", tmp_path / "truth"


def save(path, image):
    Image.fromarray(image).save(path)


def test_command_writes_its_settings_and_a_row_for_copying(random_generator, tmp_path):
    path = tmp_path / "random.safetensors"
    checkpoint.save(path, random_generator(CONFIG).state_dict(), CONFIG)
    arguments = [quality.__file__, f"mine={path}", "--pairs", "3", "--json", tmp_path / "quality.json"]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "quality.json").read_text())
    assert set(report["rows"]) == {"copy the source", "mine"}
    assert report["size"] == [CONFIG.height, CONFIG.width]
    assert report["sha256"]["mine"] == checkpoint.load(path).sha256
    assert report["settings"]["batch_size"] == 16
    assert "scikit-image" in report["versions"]
    assert "sigma 1.5" in report["definitions"]["ssim"]
    assert "mine" in done.stdout


@pytest.mark.slow  # the demo's export and conversion
def test_deployed_demo_scores_as_its_checkpoint_does(tmp_path, run):
    demo = Path(checkpoint.__file__).parent / "demo/small.safetensors"
    to_onnx(demo, tmp_path / "demo.onnx")
    to_fp16(tmp_path / "demo.onnx", tmp_path / "demo.fp16.onnx")
    files = [demo, tmp_path / "demo.onnx", tmp_path / "demo.fp16.onnx"]
    code, out, err, report = run(*files, "--pairs", 18, "--lpips-weights", "random")
    assert code == 0, err
    rows = [report["rows"][path.name] for path in files]
    for name in ("ssim", "lpips_random_weights"):
        assert [row[name] for row in rows] == pytest.approx([rows[0][name]] * 3, abs=1e-3)
    assert rows[0]["psnr_db"] != rows[2]["psnr_db"]
    assert "demo.fp16.onnx: ONNX FP16 emulated" in " ".join(out.split())


def test_a_network_on_a_data_set_equals_it_on_its_pairs(random_generator, people, tmp_path, run):
    root = tmp_path / "market"
    (root / "test").mkdir(parents=True)
    rows, poses = ["from,to"], ["name:keypoints_y:keypoints_x"]
    for number, pair in enumerate(SyntheticPeople(128, 64, split="test", length=3)[i] for i in range(3)):
        names = f"000{number}_c1s1_a.png", f"000{number}_c2s1_b.png"
        rows.append(",".join(names))
        images, points = (
            (pair.source_image, pair.target_image),
            (pair.source_keypoints, pair.target_keypoints),
        )
        for name, image, keypoints in zip(names, images, points, strict=True):
            save(root / "test" / name, image)
            x, y = keypoints.round().astype(int).T.tolist()
            poses.append(f"{name}: {y}: {x}")
    (root / "market-pairs-test.csv").write_text("\n".join(rows) + "\n")
    (root / "market-annotation-test.csv").write_text("\n".join(poses) + "\n")
    config = GeneratorConfig(height=128, width=64, base_width=4, blocks=1)
    checkpoint.save(tmp_path / "net.safetensors", random_generator(config).state_dict(), config)
    code, out, err, report = run(tmp_path / "net.safetensors", "--data", root)
    assert code == 0, err
    assert report["pairs"] == 3
    assert report["data"]["layout"] == "market"
    assert (
        "garment_psnr_db" not in report["rows"]["net.safetensors"]
    )  # without parsing maps there is no garment
    assert {"ssim", "ssim_patn", "mask_ssim"} <= set(report["rows"]["copy the source"])
    assert report["published"]["rows"]["the paper"]["ssim_patn"] == 0.3191
    assert "the paper (published)" in " ".join(out.split())


def test_published_figures_stand_in_the_frame_that_they_belong_to():
    fashion, market = published("deepfashion"), published("market")
    for rows, frame in ((fashion, "ssim_patn_padded"), (market, "ssim_patn")):
        assert {name for row in rows.values() for name in row} == {frame, "fid", "lpips", "inception_score"}
    assert fashion["the paper"] == {
        "inception_score": 3.4621, "ssim_patn_padded": 0.7767, "fid": 10.80, "lpips": 0.19,
    }  # fmt: skip
    assert "PISE" not in market


def test_padded_and_unpadded_ssim_never_share_a_column(tmp_path, people, run):
    rng = np.random.default_rng(0)
    for folder in ("generated", "truth"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "a.png", rng.integers(0, 256, (256, 176, 3), np.uint8))
    code, _, err, report = run(
        tmp_path / "generated", "--ground-truth", tmp_path / "truth", "--published", "deepfashion"
    )
    assert code == 0, err
    measured, beside = report["rows"]["generated"], report["published"]["rows"]["PATN"]
    assert {"ssim_patn_padded", "ssim_176"} <= set(measured)
    assert "ssim" not in measured
    assert not {"ssim", "ssim_176"} & set(beside)


def test_folders_score_as_the_pictures_in_them(folders, people, run):
    generated, truth = folders
    code, _, err, report = run(f"theirs={generated}", "--ground-truth", truth)
    assert code == 0, err
    expected = score(copy_source, people[:4])
    for name in ("psnr_db", "ssim"):
        assert report["rows"]["theirs"][name] == pytest.approx(expected[name])
    assert set(report["rows"]) == {"theirs"}
    assert report["data"]["formats"] == report["generators"]["theirs"]["formats"] == {".png": 4}
    assert len(report["data"]["sha256"]) == 64


def test_a_shuffled_list_changes_nothing(folders, run, tmp_path):
    generated, truth = folders
    reports = []
    for number, order in enumerate(([0, 1, 2, 3], [2, 0, 3, 1])):
        path = tmp_path / f"{number}.csv"
        path.write_text("from,to\n" + "".join(f"from{i},to{i}\n" for i in order))
        options = ("--lpips-weights", "random", "--list", path)
        reports.append(run(generated, "--ground-truth", truth, *options)[3])
    assert reports[0]["rows"] == reports[1]["rows"]
    names = [(f"from{i}", f"to{i}") for i in (2, 0, 3, 1)]
    assert TruthFolder(Pictures(truth), names, None).names == sorted(names)
    assert reports[0]["data"]["pairs_sha256"] == reports[1]["data"]["pairs_sha256"]


@pytest.mark.parametrize("side", ["generated", "truth"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "by_name"])
def test_a_missing_file_is_named_and_stops_it(folders, run, tmp_path, side, listed):
    generated, truth = folders
    options = []
    if listed:
        (tmp_path / "pairs.csv").write_text("from,to\n" + "".join(f"from{i},to{i}\n" for i in range(4)))
        options = ["--list", tmp_path / "pairs.csv"]
    elif side == "generated":
        for path in generated.iterdir():  # equal names: what is generated must be all of the truth
            path.rename(path.with_name(path.name.partition("_2_")[2].replace("_vis", "")))
    next(
        path for path in (generated if side == "generated" else truth).iterdir() if "to2" in path.name
    ).unlink()
    code, _, err, report = run(generated, "--ground-truth", truth, *options)
    assert (code, report) == (1, None)
    assert err.count("\n") == 1
    assert "to2" in err


def test_a_pair_generated_in_one_folder_must_be_in_all(folders, tmp_path, run):
    generated, truth = folders
    (tmp_path / "other").mkdir()
    for path in sorted(generated.iterdir())[1:]:
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    code, _, err, _ = run(generated, tmp_path / "other", "--ground-truth", truth)
    assert code == 1
    assert "lacks from0 to to0" in err
    with pytest.raises(DataError, match="lacks from0 to to0"):
        names_of([Pictures(generated), Pictures(tmp_path / "other")], Pictures(truth))


def test_of_a_strip_of_five_panels_the_last_is_scored(folders, people, run):
    generated, truth = folders
    for number, pair in enumerate(people[:4]):
        (generated / f"from{number}_2_to{number}_vis.png").unlink()
        strip = np.concatenate([pair.target_image] * 4 + [pair.source_image], axis=1)
        save(generated / f"from{number}.jpg___to{number}.jpg_vis.png", strip)
    code, _, err, report = run(generated, "--ground-truth", truth)
    assert code == 0, err
    assert report["rows"]["generated"]["psnr_db"] == pytest.approx(score(copy_source, people[:4])["psnr_db"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda image: image.convert("L"), r"from0_2_to0_vis\.png is not RGB \(grey\)"),
        (lambda image: image.convert("RGBA"), r"is not RGB \(an alpha channel\)"),
        (lambda image: image.resize((40, 64)), r"height 64 and width 40, its ground truth 64 and 32"),
    ],
    ids=["grey", "alpha", "size"],
)
def test_bad_pictures_are_one_line(folders, run, spoil, said):
    generated, truth = folders
    path = generated / "from0_2_to0_vis.png"
    spoil(Image.open(path)).save(path)
    code, _, err, report = run(generated, "--ground-truth", truth)
    assert (code, report, err.count("\n")) == (1, None, 1)
    assert re.search(said, err)


def test_pictures_of_another_size_are_scaled_when_asked(folders, run):
    generated, truth = folders
    for path in truth.iterdir():
        Image.open(path).resize((64, 128)).save(path)
    code, _, err, report = run(generated, "--ground-truth", truth, "--size", "64x32", "--filter", "bilinear")
    assert code == 0, err
    assert report["size"] == [64, 32]
    assert report["data"]["resize"] == "Pillow bilinear, antialias"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}", "--ground-truth", "{truth}"], "holds no picture"),
        (["{generated}"], "give --ground-truth or --data"),
        (["{generated}", "{generated}", "--ground-truth", "{truth}"], "two rows are called generated"),
        (["{generated}", "--ground-truth", "{truth}", "--lpips-weights", "no.pth"], "there are no weights at no.pth"),
        (["{generated}", "--ground-truth", "{truth}", "--fid-reference", "{truth}"], "give --inception-weights"),
        (["{generated}", "--data", "{truth}", "--parsing", "lip20"], "--parsing belongs to --masks of --data"),
        (["{generated}", "--ground-truth", "{truth}", "--published", "market"], "figures are of 128x64 pictures"),
        (["{generated}", "--ground-truth", "{truth}", "--published", "deepfashion"], "figures are of 256x176 pictures"),
        (["{generated}", "--list", "x.csv"], "--list belongs to --ground-truth"),
        (["nothing.bin"], "does not exist; expected .safetensors"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(folders, tmp_path, run, arguments, said):
    (tmp_path / "empty").mkdir()
    names = {"generated": folders[0], "truth": folders[1], "empty": tmp_path / "empty"}
    code, _, err, _ = run(*(argument.format(**names) for argument in arguments))
    assert code == 1
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("size", ["64", "64x", "0x32", "64x32x3"])
def test_a_size_that_cannot_be_read_exits_with_2(folders, run, size):
    code, _, err, _ = run(folders[0], "--ground-truth", folders[1], "--size", size)
    assert code == 2
    assert f"--size is '{size}', expected HEIGHTxWIDTH" in " ".join(err.replace("│", "").split())


def test_lpips_weights_of_another_network_are_refused(folders, tmp_path, run):
    torch.save({"features.0.weight": torch.zeros(3, 3)}, tmp_path / "wrong.pth")
    code, _, err, _ = run(folders[0], "--ground-truth", folders[1], "--lpips-weights", tmp_path / "wrong.pth")
    assert code == 1
    assert "features.0.weight is (3, 3), expected (64, 3, 11, 11)" in err


def test_weights_of_a_file_are_named_by_what_is_in_it(folders, tmp_path, run):
    from posewarp.benchmarks.scoring.perceptual import load_lpips

    state = {f"features.{name}": value for name, value in load_lpips(7).features.state_dict().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    run_of = (folders[0], "--ground-truth", folders[1])
    _, _, err, of_file = run(*run_of, "--lpips-weights", tmp_path / "alexnet.pth")
    assert of_file, err
    _, out, _, random = run(*run_of, "--lpips-weights", "random", "--random-weights", 7)
    assert of_file["rows"]["generated"]["lpips"] == random["rows"]["generated"]["lpips_random_weights"]
    assert of_file["settings"]["lpips"]["weights"] == "alexnet.pth"
    told = [report["settings"]["lpips"]["weights_sha256"] for report in (of_file, random)]
    assert told[0] == told[1]
    assert "random weights; they compare within this run alone" in " ".join(out.split())


@pytest.mark.slow  # InceptionV3, and eigenvalues of 2048 x 2048
def test_fid_and_is_of_folders(folders, tmp_path, run):
    generated, truth = folders
    options = ("--inception-weights", "random", "--splits", 2, "--fid-reference", truth)
    cache = tmp_path / "statistics.npz"
    first = run(generated, "--ground-truth", truth, *options, "--fid-statistics", cache)[3]
    again = run(generated, "--ground-truth", truth, *options, "--fid-statistics", cache)[3]
    names = {"fid_random_weights", "inception_score_random_weights"}
    assert names <= set(first["rows"]["generated"])
    assert not {"fid", "inception_score"} & set(first["rows"]["generated"])
    assert first["rows"] == again["rows"]
    assert first["settings"]["fid_reference"]["count"] == 4
    assert first["settings"]["inception"]["splits"] == 2

    other = tmp_path / "other"
    other.mkdir()
    for path in truth.iterdir():
        Image.open(path).resize((48, 64)).save(other / path.name)
    arguments = (generated, "--ground-truth", truth, *options[:-1], other)
    assert "reference pictures are 64x48, those to be scored 64x32" in run(*arguments)[2]

    save(truth / "to0.png", np.zeros((64, 32, 3), np.uint8))
    code, _, err, _ = run(generated, "--ground-truth", truth, *options, "--fid-statistics", cache)
    assert code == 1
    assert "was made with another reference_sha256" in err


@pytest.mark.parametrize("source", [("nothing.safetensors",), ("{generated}", "--ground-truth", "{truth}")])
def test_what_the_measures_lack_is_said_before_anything_is_loaded(folders, run, monkeypatch, source):
    for name in ("load_lpips", "load_inception", "open_generator"):
        monkeypatch.setattr(quality, name, lambda *_, **__: pytest.fail("loaded"))
    arguments = [each.format(generated=folders[0], truth=folders[1]) for each in source]
    code, _, err, _ = run(*arguments, "--pairs", 4, "--random-weights", 0)
    assert code == 1
    assert "in 10 splits needs at least 10 pictures, got 4; lower --splits, or" in err
    code, _, err, _ = run(*arguments, "--lpips-weights", "random", "--fid-reference", folders[1])
    assert code == 1
    assert "give --inception-weights" in err


def test_a_negative_seed_is_misuse(folders, run):
    code, _, err, _ = run(folders[0], "--seed", -1)
    assert code == 2
    assert "--seed" in err


def test_pictures_of_two_sizes_are_refused(folders, run):
    generated, truth = folders
    for path in (generated / "from3_2_to3_vis.png", truth / "to3.png"):
        Image.open(path).resize((40, 80)).save(path)
    code, _, err, _ = run(generated, "--ground-truth", truth, "--lpips-weights", "random")
    assert code == 1
    assert "pictures differ in size" in err


def test_too_few_pictures_are_said(folders, tmp_path, run):
    generated, truth = folders
    code, _, err, _ = run(generated, "--ground-truth", truth, "--inception-weights", "random")
    assert code == 1
    assert "in 10 splits needs at least 10 pictures, got 4" in err
    with pytest.raises(DataError, match="FID needs at least 2 pictures on each side, got 1"):
        Statistics.of(torch.zeros(1, 2048))


def test_a_network_gives_what_its_forward_gives(random_generator, people):
    from posewarp.models.training.batches import Batch

    generator = random_generator(CONFIG)
    batch = Batch.from_pairs(people[:2], CONFIG)
    with torch.no_grad():
        output = generator(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    expected = ((output + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    got = np.stack(of_network(generator, CONFIG)(people[:2])).astype(float)
    assert np.abs(got - expected).max() <= 1  # where a value lies between two levels, memory format decides
    assert (got == expected).mean() > 0.99
