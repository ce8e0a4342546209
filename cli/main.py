"""The ``posewarp`` command. Nothing heavy is imported here, so that Ctrl-C finds ``command.main`` already at work."""

from __future__ import annotations

from posewarp.runtime import command

# name: (module that holds its ``app``, one line for --help), in the order of the journey.
COMMANDS = {
    "data": ("posewarp.cli.data", "Check a data set on disk, or write one of synthetic people."),
    "keypoints": ("posewarp.cli.keypoints", "Convert keypoint files, or find keypoints in pictures."),
    "train": ("posewarp.cli.train", "Train the generator on a data set, or on synthetic people."),
    "export": ("posewarp.export.to_onnx", "Checkpoint or module to ONNX, proven against PyTorch."),
    "lint": ("posewarp.export.lint", "What of a model will fail, or move pixels, at a runtime."),
    "fp16": ("posewarp.export.to_fp16", "FP32 ONNX to FP16 or BF16, sampling coordinates in FP32."),
    "split": ("posewarp.export.split", "Cut in two: one picture's part once, the pose's each time."),
    "parity": ("posewarp.export.parity", "Two models on the same inputs: outputs, and pixels at every warp."),
    "build": ("posewarp.export.to_engine", "TensorRT or TensorRT-RTX engine, or a file for CPUs; checked."),
    "adopt": ("posewarp.export.adopt", "Side-car for an engine that trtexec built."),
    "inspect": ("posewarp.cli.inspect_model", "Print a model's contract, opset, types, warps and metadata."),
    "transfer": ("posewarp.cli.transfer", "Re-pose the person of a picture."),
    "animate": ("posewarp.cli.animate", "Re-pose the person of a picture into a video."),
    "demo": ("posewarp.cli.demo", "The whole journey with the checkpoint that ships here."),
}


def main() -> None:
    command.main(_run)


def _run() -> None:
    with command.importing():
        from posewarp.cli.group import app
    app()


if __name__ == "__main__":  # torchrun and accelerate start a module
    main()
