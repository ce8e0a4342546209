"""The README's table of what was measured on GPUs, from the files in benchmarks/results/gpu.

    python benchmarks/gpu_table.py            write it into README.md, between its two markers
    python benchmarks/gpu_table.py --check    exit 1 if README.md has another one

A column is a card, with its newest result; a row that a card has no figure for says so. Steps whose figures are a table
themselves follow, card by card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from posewarp.benchmarks.gpu.record import FORMAT, PASSED
from posewarp.benchmarks.harness.results import MEASURED
from posewarp.runtime import command
from posewarp.runtime.errors import DataError
from posewarp.runtime.files import atomic_write

ROOT = Path(__file__).parents[1]
RESULTS, README = ROOT / "benchmarks" / "results" / "gpu", ROOT / "README.md"
BEGIN, END = "<!-- gpu-table -->", "<!-- /gpu-table -->"
ABSENT = "not measured"
_SOURCE = "Written by `benchmarks/gpu_table.py` from results of `bash benchmarks/gpu.sh`: [docs/gpu.md](docs/gpu.md)."

Result = dict[str, Any]
Rows = Iterator[tuple[str, str]]


def load_results(folder: Path = RESULTS) -> list[Result]:
    """The newest result of each card, by the card's name.

    Raises: DataError if a file is no result of gpu.sh.
    """
    newest: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            if result["format"] != FORMAT:
                raise DataError(f"{path} has format {result['format']}, expected {FORMAT}; measure it again")
            known = newest.get(result["card"])
            if known is None or result["date"] >= known["date"]:
                newest[result["card"]] = result
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise DataError(f"{path} is no result of gpu.sh: {type(exc).__name__}: {exc}") from exc
    return [newest[card] for card in sorted(newest)]


def render(results: Sequence[Result]) -> str:
    """The table in Markdown, with its markers."""
    columns = [dict(_rows(result)) for result in results] or [{}]
    labels = _labels([list(column) for column in columns])
    heads = [_head(result) for result in results] or ["no GPU was at hand"]
    lines = [_line("on one GPU", *heads), _line("---", *["---"] * len(heads))]
    lines += [_line(label, *(column.get(label, ABSENT) for column in columns)) for label in labels]
    for result in results:
        for step in result["steps"]:
            if found := step["figures"].get(step["name"]) if step["name"] in _TABLES else None:
                title, columns, rows_of = _TABLES[step["name"]]
                lines += [
                    "",
                    f"{result['card']}, {title}:",
                    "",
                    _line(*columns),
                    _line(*["---"] * len(columns)),
                ]
                lines += [_line(*row) for row in rows_of(found)]
    return "\n".join([BEGIN, *lines, "", _SOURCE, END])


def _labels(columns: list[list[str]]) -> list[str]:
    """All rows, in the order of the groups; a group that has no figure anywhere is one row."""
    found: list[str] = []
    for name, *_ in _GROUPS:
        rows = [label for column in columns for label in column if label.startswith(name)]
        found += dict.fromkeys(rows or [name])
    return found


def _head(result: Result) -> str:
    torch = result["versions"].get("torch", "unknown")
    return (
        f"{result['card']}, driver {result['driver']}, CUDA {result['cuda']}, PyTorch {torch}; "
        f"commit {result['commit']}, {result['date']}"
    )


def _line(*values: str) -> str:
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


def _rows(result: Result) -> Rows:
    steps = {step["name"]: step for step in result["steps"]}
    for name, step_name, figures_of in _GROUPS:
        step = steps.get(step_name)
        if step is None:
            continue
        rows = list(figures_of(name, step))
        yield from rows
        if step["state"] != PASSED:
            state = step["state"] if rows else f"{step['state']}: {_short(step['reason'])}"
            yield (f"{name}, the step" if rows else name), state


def _short(reason: str, limit: int = 600) -> str:
    return reason if len(reason) <= limit else f"{reason[:limit]}..."


# What a step's rows say. Each is called with the group's name, which begins all of its labels, and the step.


def _last_line(name: str, step: Result) -> Rows:
    """What a program counted: ``kernels: 1234 cases, 0 failed``."""
    counted = [line.partition(": ")[2] for line in step["last_lines"] if " cases, " in line]
    if counted and step["state"] == PASSED:
        yield name, counted[-1]


def _tests(name: str, step: Result) -> Rows:
    counts = step["figures"].get("tests")
    if counts:
        failed = f", {len(counts['failed'])} failed" if counts["failed"] else ""
        yield name, f"{counts['passed']} passed{failed}, {counts['skipped']} skipped"


def _device(name: str, step: Result) -> Rows:
    for provider, found in step["figures"].get("device", {}).items():
        if isinstance(found, str):
            yield f"{name}, {provider}", _short(found)
            continue
        kernel = found["kernel"]
        rates = [f"{found[key]:.3g}" for key in ("copy_in_gb_s", "copy_out_gb_s", "both_ways_gb_s")]
        yield (
            f"{name}, {provider}: page-locked copies in, out, both at once together, GB/s",
            ", ".join(rates),
        )
        times = f"{kernel['launched_us']:.3g}"
        if "graph_us" in kernel:
            times += f", {kernel['graph_us']:.3g}"
        shape = "x".join(map(str, kernel["shape"]))
        yield f"{name}, {provider}: our kernel, {shape}, launched from Python, in a CUDA graph, us", times


def _engines(name: str, step: Result) -> Rows:
    found = step["figures"].get("engines", {})
    for network, reports in found.get("networks", {}).items():
        for dtype, report in reports.items():
            worst = max(
                (output["max_abs"] for case in report.get("cases", ()) for output in case["outputs"]),
                default=None,
            )
            said = (
                report["status"] if worst is None else f"{report['status']}, largest difference {worst:.2g}"
            )
            yield f"{name}, {network} {dtype}", f"{found['backend']}: {_short(said)}"


def _below(name: str, step: Result) -> Rows:
    if step["figures"].get(step["name"]) and step["state"] == PASSED:
        yield name, "passed, see below"


def _latency(name: str, step: Result) -> Rows:
    _, *rows = step["figures"].get("latency") or [{}]
    for row in rows:
        if row["device"] != "cuda":
            continue
        label = f"{name}, {row['network']}, batch {row['batch']}, {row['contender']}"
        if row["status"] == MEASURED:
            yield label, f"{row['median_ms']:.3g} ms, p99 {row['p99_ms']:.3g}"
        else:
            yield label, f"{row['status']}: {_short(row['reason'])}"


def _training(name: str, step: Result) -> Rows:
    for precision, line in step["figures"].get("training", {}).items():
        yield (
            f"{name}, {precision}: L1 after {line['step']} steps",
            f"{line['l1']:.4f}",
        )


# Steps whose figures are a table: the rows of their cells.


_WARPS = ("fp32", "fp16", "fp16 HWC8", "PyTorch fp32", "PyTorch fp16", "cuDNN fp32")
_COPIES = ("copy of fp32", "copy of fp16")


def _warp_rows(found: Result) -> Iterator[tuple[str, ...]]:
    for row in found["rows"]:
        shape = "x".join(map(str, row["shape"]))
        yield shape, row["grid"], *(f"{row[key]:.1f}" if key in row else "" for key in (*_WARPS, *_COPIES))


def _provider_rows(found: Result) -> Iterator[tuple[str, ...]]:
    for network, kinds in found.items():
        for kind, figures in kinds.items():
            yield (
                network,
                kind,
                _number(figures["max_abs"], ".3g"),
                f"{_number(figures['psnr_db'], '.1f')} dB",
                f"{_number(figures['own_flow_p999_px'], '.2g')} px",
                _short(figures["status"]),
            )


def _number(value: float | str, form: str) -> str:
    """A result has infinite values and NaN as words."""
    return value if isinstance(value, str) else format(value, form)


_TABLES = {
    "warp": ("us a warp", ("shape", "grid", *_WARPS, *_COPIES), _warp_rows),
    "provider": (
        "ONNX Runtime's CUDA provider against PyTorch FP32 on the CPU, batches 1, 2, 7, 16 (all fp16: 1, 2)",
        ("network", "file", "largest difference", "PSNR", "positions, p99.9", "verdict"),
        _provider_rows,
    ),
}


# How its rows begin, the step of gpu.sh, and what makes them.
_GROUPS = (
    ("kernels against the core", "kernels", _last_line),
    ("plugin's enqueue against the core, directly and as a CUDA graph", "enqueue", _last_line),
    ("tests marked gpu", "tests", _tests),
    ("compute-sanitizer over the plugin", "sanitizer", _tests),
    ("device layer", "device", _device),
    ("warp against PyTorch and cuDNN", "warp", _below),
    ("engine against PyTorch FP32, batches 1, 2, 7, 16", "engines", _engines),
    ("ONNX Runtime CUDA against PyTorch FP32", "provider", _below),
    ("latency", "latency", _latency),
    ("training, 256x176, batches of 8", "training", _training),
)


def replace_table(text: str, table: str) -> str:
    """A README with another table between its markers.

    Raises: DataError if the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise DataError(f"expected {BEGIN} and, after it, {END} once each; put them where the table shall be")
    return before + table + after


def gpu_table(
    results: Annotated[Path, typer.Option(help="Folder of gpu.sh's results.")] = RESULTS,
    readme: Annotated[Path, typer.Option(help="The file whose table is written.")] = README,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if it would change.")] = False,
) -> None:
    """Write the README's GPU table from the results that are there."""
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as exc:
        raise DataError(f"{readme} cannot be read: {exc.strerror}") from exc
    wanted = replace_table(text, render(load_results(results)))
    if wanted == text:
        return
    if check:
        raise DataError(f"{readme} has another GPU table than {results}: python benchmarks/gpu_table.py")
    with atomic_write(readme) as temporary:
        temporary.write_text(wanted, encoding="utf-8")


app = typer.Typer(add_completion=False)
app.command()(gpu_table)

if __name__ == "__main__":
    command.main(app)
