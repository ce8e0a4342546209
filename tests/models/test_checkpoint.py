"""What users have as checkpoints: nested, prefixed, of other layouts, of EMA, dangerous, damaged."""

import argparse
import collections
import copy
import hashlib
import json
import os
import pathlib
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm

from posewarp.models.checkpoint import load, save
from posewarp.models.config import PRESETS, GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.state_fit import infer_config
from posewarp.runtime.errors import CheckpointError, ContractError


@pytest.fixture
def generator(config, random_generator):
    return random_generator(config)


@pytest.fixture
def state(generator):
    return generator.state_dict()


@pytest.fixture
def inputs(config, random_inputs):
    return random_inputs(config)


@pytest.fixture
def saved(tmp_path):
    """Writes an object with torch.save."""

    def write(content, **options):
        torch.save(content, tmp_path / "user.pt", **options)
        return tmp_path / "user.pt"

    return write


def constant(state, value):
    return {name: torch.full_like(tensor, value) for name, tensor in state.items()}


def assert_same_weights(loaded, state):
    for name, value in loaded.generator.state_dict().items():
        torch.testing.assert_close(value, state[name].to(value.dtype), rtol=0, atol=0)


@torch.no_grad()
def assert_same_outputs(loaded, generator, inputs, atol=0.0):
    torch.testing.assert_close(loaded.generator(*inputs), generator(*inputs), rtol=0, atol=atol)


def spectral_layers(generator):
    return [n for n, module in generator.named_modules() if parametrize.is_parametrized(module, "weight")]


# ours


def test_a_saved_checkpoint_loads_as_it_was(tmp_path, generator, config, inputs):
    path = tmp_path / "ours.safetensors"
    save(path, generator.state_dict(), config, {"weights": "ema", "psnr_db": "19.4"})
    loaded = load(path)
    assert_same_outputs(loaded, generator, inputs)
    assert loaded.config == config
    assert loaded.weights == "ema"
    assert loaded.metadata["psnr_db"] == "19.4"
    assert json.loads(loaded.metadata["config"]) == asdict(config)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_saving_takes_channels_last_weights_that_share_memory(tmp_path, config, random_generator):
    generator = random_generator(config).to(memory_format=torch.channels_last)
    decoder = generator.decoder
    decoder.join_half[1].running_mean = decoder.up_to_half[1].running_mean
    save(tmp_path / "ours.safetensors", generator.state_dict(), config)
    assert_same_weights(load(tmp_path / "ours.safetensors"), generator.state_dict())


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, state, config, monkeypatch):
    path = tmp_path / "ours.safetensors"
    save(path, state, config)
    before = path.read_bytes()

    write_bytes = pathlib.Path.write_bytes

    def full_disk(path, data):
        write_bytes(path, b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(CheckpointError, match=r"ours.safetensors cannot be written: No space left"):
        save(path, state, config)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["ours.safetensors"]


def test_a_saved_file_has_the_permissions_of_the_umask(tmp_path, state, config):
    old = os.umask(0o022)
    try:
        save(tmp_path / "ours.safetensors", state, config)
    finally:
        os.umask(old)
    assert (tmp_path / "ours.safetensors").stat().st_mode & 0o777 == 0o644


def test_saving_under_another_name_for_the_weights_is_refused(tmp_path, state, config):
    with pytest.raises(ContractError, match="weights is 'best', expected 'ema' or 'raw'"):
        save(tmp_path / "ours.safetensors", state, config, {"weights": "best"})
    assert not os.listdir(tmp_path)


def test_the_resume_file_of_a_training_run_loads(saved, generator, config, inputs):
    resume = {
        "config": asdict(replace(config, alpha_sigmoid=True)),
        "model": constant(generator.state_dict(), 1.0),
        "ema": generator.state_dict(),
        "discriminators": torch.nn.Conv2d(3, 4, 3).state_dict(),
        "generator_optimizer": {"state": {0: {"exp_avg": torch.rand(2)}}, "param_groups": [{"lr": 1e-3}]},
        "step": 7,
    }
    loaded = load(saved(resume))
    assert loaded.weights == "ema"
    assert loaded.config.alpha_sigmoid
    assert_same_weights(loaded, generator.state_dict())


def test_loading_draws_no_random_numbers(saved, state, config):
    path = saved(state)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(path, config=config)
    assert torch.equal(torch.rand(3), expected)


def test_a_loaded_generator_computes_without_changing_itself(saved, state, config, inputs):
    generator = load(saved(state), config=config).generator
    assert not generator.training
    generator(*inputs)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, state[name]), name


# where the state is


@pytest.mark.parametrize(
    "place",
    [
        "",
        *("state_dict", "model", "generator", "net_G", "netG", "G", "params", "module", "weights"),
        *("ema", "g_ema", "params_ema", "model_ema", "ema.module", "EMA", "state_dict_ema"),
        *("model.generator", "checkpoint.model.netG"),
    ],
)
def test_the_state_is_found_wherever_it_lies(saved, state, config, place):
    content = state
    for key in reversed(place.split(".") if place else []):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: torch.rand(1)}}}
    loaded = load(saved(content), config=config)
    assert_same_weights(loaded, state)
    assert loaded.weights == ("ema" if "ema" in place.lower() else "raw")
    assert loaded.notes[0] == f"weights: {loaded.weights}" + (
        f", from {place}" if place not in ("", "ema") else ""
    )


@pytest.mark.parametrize("word", ["schema", "cinema", "mean", "gemalign"])
def test_ema_within_another_word_is_no_average(saved, state, config, word):
    assert load(saved({word: state}), config=config).weights == "raw"


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "generator.", "netG.", "module._orig_mod.", "model.generator.module."]
)
def test_prefixes_are_stripped(saved, state, config, prefix):
    loaded = load(
        saved({"state_dict": {prefix + name: value for name, value in state.items()}}), config=config
    )
    assert_same_weights(loaded, state)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_wrappers_of_single_modules_are_stripped(saved, state, config, wrapper):
    renamed = {name.replace("encoder.", f"encoder.{wrapper}"): value for name, value in state.items()}
    assert_same_weights(load(saved(renamed), config=config), state)


def test_other_networks_in_one_flat_dict_are_left_out_and_named(saved, state, config):
    flat = {f"generator.{name}": value for name, value in state.items()}
    flat |= {
        "discriminator.0.weight": torch.rand(2),
        "discriminator.0.bias": torch.rand(2),
        "vgg.x": torch.rand(1),
    }
    loaded = load(saved({"state_dict": flat}), config=config)
    assert_same_weights(loaded, state)
    assert any("discriminator (2 tensors), vgg (1 tensors)" in note for note in loaded.notes)


def test_raw_and_averaged_generator_in_one_flat_dict_are_told_apart(saved, state, config):
    flat = {**constant(state, 1.0), **{f"ema.{name}": value for name, value in state.items()}}
    assert_same_weights(load(saved(flat), config=config, weights="ema"), state)
    raw = load(saved(flat), config=config, weights="raw")
    assert raw.generator.merging.convs[0][0].weight.eq(1).all()


def test_two_generators_ask_for_a_key(saved, state, config):
    path = saved({"best": {"netG": state}, "last": {"netG": constant(state, 1.0)}})
    with pytest.raises(CheckpointError, match=r"best.netG \(raw\), last.netG \(raw\); choose one with --key"):
        load(path, config=config)
    assert_same_weights(load(path, config=config, key="best"), state)
    assert_same_weights(load(path, config=config, key="best.netG"), state)


def test_a_file_of_another_network_lists_what_it_holds(saved):
    content = {"model": {"resnet": torch.nn.Conv2d(3, 4, 3).state_dict()}, "epoch": 3}
    with pytest.raises(CheckpointError, match=r"model.resnet \(2 tensors, weight first\).*--key"):
        load(saved(content))


def test_a_key_that_leads_nowhere_lists_what_the_file_holds(saved, state):
    with pytest.raises(CheckpointError, match=r"under 'netG'.* it holds generator \(\d+ tensors"):
        load(saved({"generator": state}), key="netG")


def test_a_file_without_tensors_says_so(saved):
    with pytest.raises(CheckpointError, match="it holds no tensors"):
        load(saved({"epoch": 3}))


# EMA and raw


@pytest.fixture
def both(saved, state):
    return saved({"model": constant(state, 1.0), "ema": constant(state, 2.0)})


@pytest.mark.parametrize(
    ("asked", "taken", "value"), [("auto", "ema", 2), ("ema", "ema", 2), ("raw", "raw", 1)]
)
def test_the_choice_of_weights_is_explicit_and_stated(both, config, asked, taken, value):
    loaded = load(both, weights=asked, config=config)
    assert loaded.weights == taken
    assert loaded.notes[0].startswith(f"weights: {taken}")
    assert loaded.generator.merging.convs[0][0].weight.eq(value).all()


@pytest.mark.parametrize(("held", "asked"), [("model", "ema"), ("ema", "raw")])
def test_asking_for_weights_that_are_not_there_is_an_error(saved, state, config, held, asked):
    with pytest.raises(CheckpointError, match=f"holds no {asked} weights, only {held}"):
        load(saved({held: state}), weights=asked, config=config)


def test_an_unknown_word_for_weights_is_refused(both):
    with pytest.raises(ContractError, match="weights is 'best', expected 'auto', 'ema' or 'raw'"):
        load(both, weights="best")


# layouts of spectral norm


def plain_twin(generator):
    """Of the same weights, without spectral norm."""
    # Not by deepcopy: a copied parametrised module shares its class with the original, and removing the
    # parametrisation takes ``weight`` from the class.
    twin = Generator(generator.config).eval()
    twin.load_state_dict(generator.state_dict())
    for name in spectral_layers(twin):
        parametrize.remove_parametrizations(twin.get_submodule(name), "weight")
    return twin


def old_layout_twin(generator):
    """As older code built it, the singular vectors brought to other values by a forward in train mode."""
    twin = plain_twin(generator)
    for name in spectral_layers(generator):
        layer = old_spectral_norm(twin.get_submodule(name))
        layer.train()(torch.rand(1, layer.in_channels, 9, 9))
    return twin.eval()


def test_the_old_layout_of_spectral_norm_gives_the_same_outputs(saved, generator, config, inputs):
    twin = old_layout_twin(generator)
    assert {name.rpartition(".")[2] for name in twin.state_dict()} >= {"weight_orig", "weight_u", "weight_v"}
    assert_same_outputs(load(saved(twin.state_dict()), config=config), twin, inputs)


def test_folded_spectral_norm_gives_the_same_outputs(saved, generator, config, inputs):
    loaded = load(saved(plain_twin(generator).state_dict()), config=config)
    assert_same_outputs(loaded, generator, inputs)
    assert any(
        f"folded into the weights of {len(spectral_layers(generator))} layers" in n for n in loaded.notes
    )


def test_averaged_singular_vectors_are_recomputed(saved, state, config, inputs):
    short = {
        name: value * 0.5 if name.endswith(("._u", "._v")) else value
        for name, value in copy.deepcopy(state).items()
    }
    loaded = load(saved(short), config=config)
    for name in spectral_layers(loaded.generator):
        weight = loaded.generator.get_submodule(name).weight.flatten(1)
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-5)
    assert any("not of unit length (0.5), as averaging leaves them" in note for note in loaded.notes)


def test_sound_singular_vectors_are_kept_and_not_spoken_of(saved, state, config):
    loaded = load(saved(state), config=config)
    assert_same_weights(loaded, state)
    assert not any("spectral" in note for note in loaded.notes)


# types and fit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_fp32_and_that_is_stated(saved, state, config, dtype):
    narrow = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    loaded = load(saved(narrow), config=config)
    assert_same_weights(loaded, narrow)
    assert {value.dtype for value in loaded.generator.parameters()} == {torch.float32}
    assert any(f"{dtype}, converted to fp32".removeprefix("torch.") in note for note in loaded.notes)


def test_counters_of_batch_norm_may_be_averaged(saved, state, config):
    averaged = {
        n: value.float() + 0.5 if n.endswith("num_batches_tracked") else value for n, value in state.items()
    }
    assert_same_weights(load(saved(averaged), config=config), state)


def test_counters_of_batch_norm_may_be_absent(saved, state, config):
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    loaded = load(saved(old), config=config)
    assert loaded.generator.state_dict()["merging.convs.0.1.num_batches_tracked"] == 0


def test_missing_and_unexpected_names_are_all_listed(saved, state, config):
    del state["decoder.to_image.bias"]
    state["decoder.to_picture.bias"] = torch.zeros(3)
    message = r"missing: decoder.to_image.bias; unexpected: decoder.to_picture.bias; the file is damaged or"
    with pytest.raises(CheckpointError, match=message):
        load(saved(state), config=config)


def test_a_long_list_of_names_is_cut_with_a_count(saved, state, config):
    extra = {f"decoder.extra.{i}": torch.zeros(1) for i in range(25)}
    with pytest.raises(CheckpointError, match=r"decoder.extra.19, and 5 more"):
        load(saved(state | extra), config=config)


def test_another_width_and_depth_are_named_with_shapes(saved, state, config):
    other = replace(config, base_width=12, blocks=1)
    with pytest.raises(CheckpointError) as caught:
        load(saved(state), config=other)
    message = str(caught.value)
    assert "image_encoder.to_full.1.weight (got (8,), expected (12,))" in message
    assert "unexpected: patch_generation.blocks.1.f.0.0.weight" in message
    assert "its names and shapes say base_width=8 (not 12), blocks=2 (not 1)" in message
    assert "\n" not in message


def test_a_wrong_preset_is_answered_with_the_right_one(saved, config):
    state = Generator(PRESETS["small"]).state_dict()
    with pytest.raises(CheckpointError, match=r"base_width=24 \(not 8\).* try --preset small"):
        load(saved(state), config=config)


def test_weights_of_integers_are_refused(saved, state, config):
    state["decoder.to_image.bias"] = torch.zeros(3, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"to_image.bias \(got \(3,\) torch.int8, expected \(3,\)\)"):
        load(saved(state), config=config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved, state, config, value):
    state["merging.convs.0.0.weight"][0, 0, 0, 0] = value
    with pytest.raises(CheckpointError, match=r"not finite, in merging.convs.0.0.weight;"):
        load(saved(state), config=config)


# the configuration


@pytest.mark.parametrize(
    "changes",
    [
        {"base_width": 12, "blocks": 3},
        {"block_convs": 1, "merge_convs": 1, "flow_convs": 0},
        {"block_convs": 3, "merge_convs": 3, "flow_convs": 3},
        {"block_spectral_norm": True},
        {"patch_transfer": False},
    ],
)
def test_structure_is_read_off_the_shapes(saved, config, changes):
    structure = replace(config, **changes, height=256, width=176)
    loaded = load(saved(Generator(structure).state_dict()))
    assert loaded.config == structure
    assert any(
        "by the shapes of the weights; what they do not tell is the default" in n for n in loaded.notes
    )


def test_structure_without_patch_generation_is_read_off_the_shapes(saved, config):
    structure = replace(config, patch_generation=False)
    assert not load(saved(Generator(structure).state_dict())).config.patch_generation


def shapes_of(preset):
    with torch.device("meta"):
        return Generator(PRESETS[preset]).state_dict()


def test_the_one_preset_of_these_shapes_is_taken_and_stated():
    assert infer_config(shapes_of("small"), "x.pt") == (
        PRESETS["small"],
        "configuration: preset small, by the shapes of the weights",
    )


def test_presets_of_equal_shapes_ask_for_a_choice():
    message = "x.pt has no configuration, and its shapes fit the presets deepfashion and market.*--preset"
    with pytest.raises(CheckpointError, match=message):
        infer_config(shapes_of("market"), "x.pt")


def test_a_given_configuration_goes_before_the_files_own_and_that_is_stated(tmp_path, state, config):
    save(tmp_path / "ours.safetensors", state, config)
    loaded = load(tmp_path / "ours.safetensors", config=replace(config, height=64))
    assert loaded.config.height == 64
    assert "configuration: as given, against the file's own in height 64 (file: 32)" in loaded.notes


def test_a_configuration_of_other_code_is_passed_over(saved, state):
    assert load(saved({"model": state, "config": {"lr": 1e-3, "model": "big"}})).config.base_width == 8


@pytest.mark.parametrize("changes", [{"blocks": 0}, {"blocks": "2"}, {"kernel": 5}])
def test_a_configuration_that_cannot_be_used_is_refused(saved, state, config, changes):
    with pytest.raises(CheckpointError, match=r"user.pt has a config that cannot be used: .*(blocks|kernel)"):
        load(saved({"model": state, "config": asdict(config) | changes}))


# safety


class Payload:
    """Runs code when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zip_format", [True, False])
def test_code_in_a_file_runs_only_when_it_is_trusted(saved, state, config, tmp_path, zip_format):
    marker = tmp_path / "marker"
    path = saved({"model": state, "extra": Payload(marker)}, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r"object of the class (posix|nt).mkdir; .* pass --trust"):
        load(path, config=config)
    assert not marker.exists()
    load(path, config=config, trust=True)
    assert marker.exists()


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (np.float64(1.5), r"numpy\S*\.scalar"),
        (np.zeros(2), r"numpy\S*\._reconstruct"),
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (pathlib.PurePosixPath("run"), r"pathlib\S*\.PurePosixPath"),
    ],
)
def test_classes_that_people_save_along_are_named_and_load_with_trust(saved, state, config, extra, name):
    path = saved({"model": state, "extra": extra})
    with pytest.raises(CheckpointError, match=f"object of the class {name}; .*--trust"):
        load(path, config=config)
    assert_same_weights(load(path, config=config, trust=True), state)


def test_a_whole_pickled_module_loads_with_trust_alone(saved, generator, config, inputs):
    twin = old_layout_twin(generator)  # torch refuses to pickle the new layout
    path = saved({"model": twin})
    with pytest.raises(CheckpointError, match=r"object of the class posewarp.models.generator.Generator"):
        load(path, config=config)
    assert_same_outputs(load(path, config=config, trust=True), twin, inputs)


def test_a_class_that_is_not_installed_here_is_told_apart_from_damage(saved, state, config, monkeypatch):
    lost = type("Logger", (), {"__module__": "lost_module"})
    monkeypatch.setitem(sys.modules, "lost_module", SimpleNamespace(Logger=lost))
    path = saved({"model": state, "logger": lost()})
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"not to be found here \(No module named 'lost_module'\); install"
    ):
        load(path, config=config, trust=True)


def test_a_file_saved_before_zip_archives_loads(saved, state, config):
    assert_same_weights(load(saved(state, _use_new_zipfile_serialization=False), config=config), state)


def test_a_file_saved_on_a_gpu_loads_on_the_cpu(saved, state, config, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = saved({"netG": state})
    monkeypatch.undo()
    if not torch.cuda.is_available():  # what a user sees without map_location
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    assert_same_weights(load(path, config=config), state)


# damaged and foreign files


def half(path, content, size=None, **options):
    torch.save(content, path, **options)
    path.write_bytes(path.read_bytes()[: size or path.stat().st_size // 2])


def flipped(path, content):
    torch.save(content, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FOREIGN = {
    "text": (
        lambda path, _: path.write_text("not weights"),
        r"is not a PyTorch checkpoint: it starts with b'not we",
    ),
    "page": (
        lambda path, _: path.write_text("<!DOCTYPE html><html>"),
        r"not a PyTorch checkpoint: it starts with b'<",
    ),
    "empty": (lambda path, _: path.write_bytes(b""), "is not a PyTorch checkpoint: it is empty"),
    "folder": (lambda path, _: path.mkdir(), "cannot be read: Is a directory"),
    "missing": (lambda path, _: None, "cannot be read: No such file"),
    "half": (
        lambda path, state: half(path, state),
        "is not a PyTorch checkpoint, or cut short: File is not a zip",
    ),
    "half_legacy": (
        lambda path, state: half(path, state, _use_new_zipfile_serialization=False),
        "is not a PyTorch checkpoint, or damaged",
    ),
    "cut_in_a_class_name": (
        lambda path, state: half(path, state, 200, _use_new_zipfile_serialization=False),
        "is not a PyTorch checkpoint, or damaged",
    ),
    "flipped_bit": (flipped, r"is damaged: the checksum of user/data/\d+ is wrong"),
    "pickle": (lambda path, _: path.write_bytes(b"\x80\x04N."), "is not a PyTorch checkpoint, or damaged"),
    "archive": (
        lambda path, _: path.write_bytes(b"PK\x03\x04" + bytes(99)),
        "not a PyTorch checkpoint, or cut short",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("trust", [False, True])
def test_a_foreign_or_damaged_file_is_refused_in_one_line(tmp_path, state, kind, trust):
    make, message = FOREIGN[kind]
    path = tmp_path / "user.pt"
    make(path, state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, trust=trust)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:50],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:9],
    ],
)
def test_a_damaged_safetensors_file_is_refused_in_one_line(tmp_path, state, config, damage):
    path = tmp_path / "ours.safetensors"
    save(path, state, config)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"ours.safetensors is not a safetensors file, or damaged: [^\n]+$"
    ):
        load(path)


def test_safetensors_of_other_code_load_too(tmp_path, state):
    save_file({f"generator.{name}": value for name, value in state.items()}, tmp_path / "user.safetensors")
    assert_same_weights(load(tmp_path / "user.safetensors"), state)


def test_a_checkpoint_of_a_preset_needs_no_configuration(saved, random_generator):
    generator = random_generator(GeneratorConfig.preset("small"))
    assert load(saved({"g_ema": generator.state_dict()})).config == PRESETS["small"]
