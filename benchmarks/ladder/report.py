"""A run for people: one table on the screen, and one HTML page with pictures that needs no other file."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table

from posewarp.benchmarks.harness.report import STYLE
from posewarp.benchmarks.ladder.rows import Row, Run
from posewarp.export.ladder.drift import WarpDrift
from posewarp.runtime.sidecar import NOT_EXECUTED

# That the table takes on the screen; narrower, its numbers would be cut off.
WIDTH = 160
COLUMNS = (
    "network",
    "rung",
    "precision",
    "size",
    "batch",
    "p99.9",
    "max",
    "of limit",
    "PSNR dB",
    "same\nflow px",
    "own\nflow px",
    "to\nfloat64",
    "",
)
NOTES = (
    "p99.9, max: of the absolute difference of the worst output; of pictures in steps of 255, else in its own unit",
    "of limit: the largest difference as a share of what it may be, by the limits of posewarp parity (docs/parity.md)",
    "same flow, own flow: how far the worst warp's positions moved, in pixels of what it samples, where both graphs "
    "are fed the same flow (max) and where each makes its own (p99.9 inside the frame); at one batch of each size",
    "to float64: mean error over PyTorch's own in FP32, both against the same network in float64; of FP32 in ONNX "
    "Runtime it may be 2, of Winograd's filtering and 16 bits more is expected",
    "FP16 and BF16 are emulated on the CPU: a model of an engine, not a bound (docs/parity.md)",
    f"{NOT_EXECUTED}: this machine cannot run it, so nothing is known of it; it is not counted as passed",
)
_WARP_COLUMNS = ("row", "warp", "same flow p99.9 px", "max", "own flow p99.9 px", "max", "")


def head_lines(run: Run) -> list[str]:
    """Machine, versions, inputs and notes, a line each."""
    machine, around = run.machine, run.surroundings
    versions = ", ".join(f"{name} {version}" for name, version in around["versions"].items())
    return [
        f"{machine['cpu']}, {machine['cpus_allowed']} CPUs allowed, {machine['system']}; GPU: {machine['gpu']}",
        f"commit {around['commit']}, Python {around['python']}, {versions}",
        f"inputs: {run.data}; {run.seconds:.0f} s in all",
        *run.notes,
    ]


def summary(run: Run) -> str:
    """How many rows have which status, in one line."""
    counts = {status: len(run.of_status(status)) for status in ("passed", "failed", NOT_EXECUTED)}
    return f"{len(run.rows)} rows: " + ", ".join(f"{count} {status}" for status, count in counts.items())


def reasons(run: Run) -> list[str]:
    """Why rows failed or were not executed, a line each."""
    said = [f"FAILED {row.label}: {'; '.join(row.failures)}" for row in run.of_status("failed")]
    return said + [
        f"{NOT_EXECUTED}: {row.label}: {row.report.not_executed}" for row in run.of_status(NOT_EXECUTED)
    ]


def cells(row: Row) -> list[str]:
    """One for each of ``COLUMNS``."""
    network = f"{row.network}, {row.contract}"
    batch = str(row.batch) if row.batch else ""
    first = [network, row.rung, row.precision, row.size, batch]
    if not row.report.cases:
        return [*first, *[""] * (len(COLUMNS) - 6), row.status]
    worst = max(row.report.cases[0].outputs, key=lambda output: (not output.passed, output.worst))
    of_255 = worst.max_abs == worst.steps
    warps = row.report.warps
    return [
        *first,
        _amount(worst.p999_abs, of_255),
        _amount(worst.max_abs, of_255),
        f"{worst.worst:.2f}",
        "equal" if math.isinf(worst.psnr_db) else f"{worst.psnr_db:.1f}",
        _px([warp.same_flow_max_px for warp in warps]),
        _px([warp.own_flow_p999_px for warp in warps]),
        "" if row.float64_ratio is None else f"{row.float64_ratio:.{0 if row.float64_ratio >= 100 else 2}f}",
        row.status,
    ]


def _amount(value: float, of_255: bool) -> str:
    return f"{value:.0f} of 255" if of_255 and value else f"{value:.1e}" if value else "0"


def _px(values: Sequence[float | None]) -> str:
    return f"{max(known):.2g}" if (known := [value for value in values if value is not None]) else ""


def print_report(run: Run, console: Console) -> None:
    """Print machine, table, and why rows failed or were not executed."""
    for line in head_lines(run):
        console.print(line, highlight=False, markup=False)
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(COLUMNS):
        is_text = place in (0, 1, 2, len(COLUMNS) - 1)
        table.add_column(name, no_wrap=place != 1, justify="left" if is_text else "right", overflow="fold")
    before: list[str] = [""] * 3
    for row in run.rows:
        filled = cells(row)
        if filled[0] != before[0]:
            table.add_section()
            before = [""] * 3
        repeated = filled[:3] == before
        shown = ["", "", ""] if repeated else ["" if filled[0] == before[0] else filled[0], *filled[1:3]]
        before = filled[:3]
        style = {"failed": "bold red", NOT_EXECUTED: "dim"}.get(row.status)
        table.add_row(*shown, *filled[3:], style=style)
    console.print(table, markup=False)
    for line in (summary(run), *reasons(run)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def to_html(run: Run) -> str:
    """One page; pictures are inside."""
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            '<meta name=viewport content="width=device-width, initial-scale=1"><title>Parity</title>',
            f"<style>{STYLE}{_STYLE}</style><h1>Parity</h1><p><strong>{escape(summary(run))}</strong></p>",
            *(f"<p class=small>{escape(line)}</p>" for line in head_lines(run)),
            *_table(COLUMNS, [(row.status, cells(row)) for row in run.rows]),
            *(f"<p class=small>{escape(line)}</p>" for line in reasons(run)),
            "<ul class=small>",
            *(f"<li>{escape(note)}</li>" for note in NOTES),
            "</ul>",
            "<h2>Differences</h2><p class=small>The reference, the rung, and their difference, amplified.</p>",
            *_figures(run),
            "<h2>Positions of the warps</h2>",
            *_table(
                _WARP_COLUMNS,
                [(row.status, _warp_cells(row, warp)) for row in run.rows for warp in row.report.warps],
            ),
            "",
        ]
    )


_STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 26rem }
img { image-rendering: pixelated; min-width: 16rem } tr.not-executed { color: #777 }
td:nth-child(2), th:nth-child(2), td:nth-child(3), th:nth-child(3) { text-align: left }
"""


def _table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    yield f"<div class=wide><table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"
    for status, filled in rows:
        data = "".join(f"<td>{escape(cell)}</td>" for cell in filled)
        yield f'<tr class="{status.replace(" ", "-")}">{data}</tr>'
    yield "</table></div>"


def _figures(run: Run) -> Iterator[str]:
    yield "<div class=pictures>"
    for picture in run.pictures:
        data = base64.b64encode(picture.png).decode()
        title = escape(picture.title)
        yield f'<figure><img alt="{title}" src="data:image/png;base64,{data}">'
        yield f"<figcaption class=small>{title}<br>{escape(picture.caption)}</figcaption></figure>"
    yield "</div>"


def _warp_cells(row: Row, warp: WarpDrift) -> list[str]:
    pixels = (warp.same_flow_p999_px, warp.same_flow_max_px, warp.own_flow_p999_px, warp.own_flow_max_px)
    return [row.label, warp.warp, *("-" if px is None else f"{px:.2g}" for px in pixels), warp.note]
