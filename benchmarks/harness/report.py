"""A run for people: a table on the screen and in Markdown, and one HTML page with plots that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table

from posewarp.benchmarks.harness.results import MEASURED, Row, Run

COLUMNS = (
    "contender",
    "median ms",
    "p90",
    "p95",
    "p99",
    "images/s",
    "speed-up [95 %]",
    "of limit",
    "MiB",
    "GPU MiB",
    "load s",
    "first ms",
    "note",
)
NOTES = (
    "speed-up: the first row's median over this one's, paired by round, with its 95 % bootstrap interval",
    "of limit: the time that the machine's own GEMM and copy rates allow at best, measured in the same rounds, over "
    "the time taken; products count by their direct form, which Winograd undercuts",
    "p99 of fewer than 100 calls is the slowest call; MiB: the worker's peak so far, smaller batches included",
    "load, first: opening, and the first call with what it compiles and allocates; neither is in the other figures",
)


def heats_of(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Rows that were measured in the same rounds: one that tells of them all, and the rows."""
    for heat in dict.fromkeys(row.heat for row in rows):
        group = [row for row in rows if row.heat == heat]
        yield next((row for row in group if row.gemm_gflops), group[0]), group


def title(row: Row) -> str:
    callers = f", {row.callers} callers" if row.callers > 1 else ""
    return f"{row.network}, batch {row.batch}{callers}"


def limits_line(rows: Sequence[Row]) -> str:
    """Work of a run, and the machine's rates, for each device and type."""
    rates = {
        (row.device, "fp32" if row.device == "cpu" else row.dtype): (
            f"{row.gflop:.3g} GFLOP and {row.mb:.3g} MB a run; GEMM {row.gemm_gflops:.4g} GFLOP/s, "
            f"copy {row.copy_gb_s:.3g} GB/s: at best {row.limit_ms:.3g} ms"
        )
        for row in rows
        if row.limit_ms is not None
    }
    return "; ".join(f"{device} {dtype}: {text}" for (device, dtype), text in rates.items())


def cells(row: Row) -> list[str]:
    """One for each of ``COLUMNS``."""
    if row.status != MEASURED:
        return [row.contender, *[""] * (len(COLUMNS) - 2), f"{row.status}: {row.reason}"]
    speedup = row.speedup
    return [
        row.contender,
        *(f"{ms:.4g}" for ms in (row.median_ms, row.p90_ms, row.p95_ms, row.p99_ms, row.per_second)),
        f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]",
        "" if row.share is None else f"{row.share:.0%}",
        f"{row.peak_mib:.0f}",
        "" if row.gpu_mib is None else f"{row.gpu_mib:.0f}",
        f"{row.load_s:.2f}",
        f"{row.first_run_ms:.0f}",
        "" if row.stationary else f"not stationary: {row.drift:+.0%} in the second half",
    ]


def head_lines(run: Run) -> list[str]:
    machine, around = run.machine, run.surroundings
    versions = ", ".join(f"{name} {version}" for name, version in around["versions"].items())
    return [
        f"{machine['cpu']}, {machine['cpus_allowed']} CPUs allowed, {machine['memory_gib']} GiB, {machine['system']}; "
        f"GPU: {machine['gpu']}",
        f"commit {around['commit']}, Python {around['python']}, {versions}",
        f"load before: {around['load_1min']} (1 min); at most {run.settings['rounds']} rounds of turns of "
        f"{run.settings['turn_s'] * 1e3:g} ms; inputs: {run.settings['data']}",
    ]


def print_report(run: Run, console: Console) -> None:
    for line in head_lines(run):
        console.print(line, highlight=False, markup=False)
    for first, rows in heats_of(run.rows):
        table = Table(title=title(first), box=box.SIMPLE, pad_edge=False, title_justify="left")
        shown = [
            index for index, name in enumerate(COLUMNS) if name != "GPU MiB" or any(r.gpu_mib for r in rows)
        ]
        for index in shown[:-1]:
            table.add_column(COLUMNS[index], no_wrap=True, justify="left" if index == 0 else "right")
        table.add_column(COLUMNS[-1], overflow="fold")
        for row in rows:
            filled = cells(row)
            table.add_row(*(filled[index] for index in shown))
        console.print(table, markup=False)
        if line := limits_line(rows):
            console.print(line, highlight=False, markup=False)


def to_markdown(run: Run) -> str:
    lines = ["# Latency", "", *(f"- {line}" for line in head_lines(run))]
    for first, rows in heats_of(run.rows):
        lines += ["", f"## {title(first)}", "", _markdown_row(COLUMNS), _markdown_row(["---"] * len(COLUMNS))]
        lines += [_markdown_row(cells(row)) for row in rows]
        if line := limits_line(rows):
            lines += ["", line]
    return "\n".join([*lines, "", *(f"- {note}" for note in NOTES)]) + "\n"


def _markdown_row(values: Sequence[str]) -> str:
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { padding: .25rem .6rem }
th { text-align: right; border-bottom: 2px solid #888; font-weight: 600 } td { text-align: right }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
tr.wrong, tr.failed { color: #b00020 } tr.not-measured { color: #777 } tr + tr td { border-top: 1px solid #e4e4e4 }
.wide { overflow-x: auto } img { max-width: 100% } .small { color: #555; font-size: 13px }
"""


def to_html(run: Run) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1"><title>Latency</title>',
        f"<style>{STYLE}</style><h1>Latency</h1>",
        *(f"<p class=small>{escape(line)}</p>" for line in head_lines(run)),
    ]
    for first, rows in heats_of(run.rows):
        parts.append(f"<h2>{escape(title(first))}</h2>")
        measured = [row for row in rows if row.status == MEASURED]
        if measured:
            parts.append(_plot(measured))
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
        parts.append(f"<div class=wide><table><tr>{head}</tr>")
        for row in rows:
            filled = "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
            parts.append(f'<tr class="{row.status.replace(" ", "-")}">{filled}</tr>')
        parts.append(f"</table></div><p class=small>{escape(limits_line(rows))}</p>")
    return (
        "\n".join([*parts, "<ul class=small>", *(f"<li>{escape(note)}</li>" for note in NOTES), "</ul>"])
        + "\n"
    )


def _plot(rows: Sequence[Row]) -> str:
    """Median to p99 of each contender, with the limit; and the rounds, in which drift shows."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "<p class=small>no plots: matplotlib is not installed; pip install posewarp[bench]</p>"
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(rows)), layout="constrained")
    bars, rounds = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(len(rows))
    medians = [row.median_ms for row in rows]
    colors = [f"C{place % 10}" for place in places]
    tails = [[0.0] * len(rows), [row.p99_ms - row.median_ms for row in rows]]
    bars.barh(places, medians, color=colors, xerr=tails, capsize=3, error_kw={"lw": 1})
    bars.set_yticks(places, [row.contender for row in rows])
    bars.invert_yaxis()
    for place, row in zip(places, rows, strict=True):
        if row.limit_ms is not None:
            bars.plot([row.limit_ms] * 2, [place - 0.4, place + 0.4], color="black", lw=1.5)
        rounds.plot(range(1, len(row.rounds_ms) + 1), row.rounds_ms, color=colors[place], marker=".", lw=1)
    bars.set_xlabel("ms: median, whisker to p99; black line: at best by the machine's rates")
    rounds.set_xlabel("round")
    rounds.set_ylabel("median ms")
    rounds.set_ylim(bottom=0)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawn.getvalue()).decode()
    return f'<img alt="times of each contender" src="data:image/svg+xml;base64,{data}">'
