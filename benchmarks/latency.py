"""How long a network takes with everything here that can run it, and what the machine would allow at best.

    python benchmarks/latency.py                                     the demo model, batches 1 and 8
    python benchmarks/latency.py mine.onnx mine.engine --data inputs.npz --full
    python benchmarks/latency.py --against latency-out/latency.jsonl -o now      exit 1 if anything became slower

Each contender has a process of its own, is validated before it is timed, and is timed in turn with the others (see
docs/benchmarks.md). Written into the output folder: latency.jsonl (every row, and what --against and --resume read),
latency.md, latency.html.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from posewarp.benchmarks.harness import report, results
from posewarp.benchmarks.harness.contenders import BASELINE, Contender, contenders_of, own_contender
from posewarp.benchmarks.harness.folders import output_folder
from posewarp.benchmarks.harness.heats import Entrant, Pace, probes_for, run_heat
from posewarp.benchmarks.harness.limits import measure_work
from posewarp.benchmarks.harness.machine import machine, surroundings
from posewarp.benchmarks.harness.networks import MADE, Network, find_networks
from posewarp.benchmarks.harness.process import Worker, WorkerError
from posewarp.benchmarks.harness.results import Row, Run
from posewarp.export.ladder import sample_data
from posewarp.runtime import command
from posewarp.runtime.errors import BackendError, DataError, ParityError
from posewarp.runtime.files import atomic_write, check_writable
from posewarp.runtime.threads import available_cpus

QUICK_BATCHES, FULL_BATCHES = (1, 8), (1, 2, 4, 8, 16)
QUICK_CALLERS, FULL_CALLERS = (1,), (1, 2, 4)
QUICK_ROUNDS, FULL_ROUNDS = 10, 30
# A heat of the quick run ends after this, so that the whole stays under 4 minutes on two cores.
QUICK_HEAT_S, FULL_HEAT_S = 45.0, 900.0
TURN_S = 0.2
# So many workers as the machine has multiples of these open at once: each imports its libraries on one CPU or two.
CPUS_TO_OPEN = 4


def latency(
    networks: Sequence[Network],
    choose: Callable[[Network], Sequence[Contender]],
    run: Run,
    *,
    batches: Sequence[int],
    callers: Sequence[int],
    threads: int,
    pace: Pace,
    data: str | None = None,
    keep: Callable[[Run], None] = lambda run: None,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure, and add rows to a run.

    Args:
        networks: what is measured.
        choose: the contenders of a network, the baseline first.
        run: rows that it has already are not measured again.
        batches, callers: images a call, and calls at a time, which share the threads.
        threads: CPU threads of each contender.
        pace: how long.
        data: inputs (see sample_data.py).
        keep: called whenever rows have come.
        tell: called with what goes on.

    Raises: DataError if there are no such inputs; BackendError if the reference itself fails.
    """
    for network in networks:
        fixed = sample_data.fixed_batch(network.contract)
        asked = [size for size in batches if fixed in (None, size)] or [fixed]
        blanks = [
            Row(network.name, network.sha256, "", "cpu", "fp32", True, False, batch, count)
            for count in callers
            for batch in asked
        ]
        done = {row.heat for row in run.rows}
        todo = [blank for blank in blanks if blank.heat not in done]
        if not todo:
            continue
        feeds = {
            batch: sample_data.load_inputs(data, network.contract, batch=batch)[0]
            for batch in sorted({blank.batch for blank in todo})
        }
        contenders = choose(network)
        tell(f"{network.name}: reference")
        expected = _reference(network, feeds, threads)
        smallest = min(feeds)
        tell(f"{network.name}: counting operations")
        work = measure_work(network.onnx, feeds[smallest])
        for count in dict.fromkeys(blank.callers for blank in todo):
            share = max(1, threads // count)
            with ExitStack() as stack:
                probes = probes_for(contenders, threads)
                entrants = [Entrant(each, share) for each in contenders]
                opening = (*entrants, *(probe for pair in probes.values() for probe in pair))
                tell(f"{network.name}: opening {len(opening)} workers")
                for entrant in opening:
                    stack.callback(entrant.close)
                with ThreadPoolExecutor(max(1, available_cpus() // CPUS_TO_OPEN)) as pool:
                    list(pool.map(Entrant.open, opening))
                for blank in (each for each in todo if each.callers == count):
                    run.rows += run_heat(
                        entrants,
                        probes,
                        blank,
                        feeds[blank.batch],
                        expected[blank.batch],
                        work.scaled(blank.batch / smallest),
                        pace,
                        lambda text, blank=blank: tell(f"{report.title(blank)}: {text}"),
                    )
                    keep(run)


def _reference(network: Network, feeds: dict[int, dict], threads: int) -> dict[int, dict]:
    """Outputs that are right, by batch: PyTorch's in FP32, or ONNX Runtime's of the FP32 file."""
    runners = "posewarp.benchmarks.harness.runners"
    entry, file = ("torch_eager", network.torch) if network.torch else ("plain_session", str(network.onnx))
    contender = Contender("reference", f"{runners}:{entry}", file)
    worker = Worker(threads)
    try:
        job = replace(contender.job, threads=threads, contract=str(network.onnx))
        worker.open(contender.entry, contender.file, job)
        names = [spec.name for spec in network.contract.outputs]
        outputs = {batch: worker.bind(arrays)[1] for batch, arrays in feeds.items()}
        return {batch: {name: found[name] for name in names} for batch, found in outputs.items()}
    except WorkerError as exc:
        raise BackendError(f"the reference of {network.name}, {file}, does not run: {exc}") from exc
    finally:
        worker.close()


def _numbers(text: str | None, default: Sequence[int], option: str) -> list[int]:
    if text is None:
        return list(default)
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError:
        values = [0]
    if values[0] < 1:
        raise typer.BadParameter(f"{option} {text}: expected whole numbers such as 1,2,4")
    return values


def _chosen(network: Network, only: str | None, own: Sequence[str], full: bool) -> list[Contender]:
    found, added = contenders_of(network, full), [own_contender(entry, network) for entry in own]
    if only is not None:
        wanted = [part.strip().lower() for part in only.split(",")]
        unknown = [
            part for part in wanted if not any(part in each.label.lower() for each in (*found, *added))
        ]
        if unknown:
            raise DataError(
                f"no contender {unknown[0]!r} for {network.name}; there are "
                f"{', '.join(dict.fromkeys(each.name for each in (*found, *added)))}"
            )
        found = [
            each
            for each in found
            if each.label == BASELINE or any(part in each.label.lower() for part in wanted)
        ]
    return [*found, *added]


app = typer.Typer(add_completion=False)


@app.command("latency")
def _command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]",
            help=f"{', '.join(MADE)}; checkpoints, file.py:function, ONNX files, engines. Those of one name up "
            "to the first dot are one network. By default demo.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for latency.jsonl, .md and .html.")
    ] = Path("latency-out"),
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Batches 1, 2, 4, 8, 16; 1, 2 and 4 callers; 30 rounds; all modes of a GPU."
        ),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            help="Contenders whose names hold one of these words, a comma between; and the baseline, and "
            "each --contender.",
        ),
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option(
            "--contender", metavar="NAME=FILE.py:FUNCTION", help="One of your own; see docs/benchmarks.md."
        ),
    ] = None,
    batch_size: Annotated[str | None, typer.Option("--batch-size", help="Batches, such as 1,8.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Calls at a time, such as 1,4; they share the threads.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="By default all CPUs that are allowed.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each contender has its turn.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="synthetic (our contracts' default), random, .npz, Polygraphy .json, or a folder."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the rows that the output folder has.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="A saved latency.jsonl; exit 1 if a row became slower than noise explains."),
    ] = None,
) -> None:
    """Time a network with everything that can run it here, validated first; exit 1 if anything was wrong or failed."""
    batches = _numbers(batch_size, FULL_BATCHES if full else QUICK_BATCHES, "--batch-size")
    callers = _numbers(concurrency, FULL_CALLERS if full else QUICK_CALLERS, "--concurrency")
    threads = threads or available_cpus()
    pace = Pace(
        rounds or (FULL_ROUNDS if full else QUICK_ROUNDS), TURN_S, FULL_HEAT_S if full else QUICK_HEAT_S
    )
    saved = results.load(against) if against else None  # before it may be replaced
    kept = output / "latency.jsonl"
    settings = {
        "rounds": pace.rounds,
        "turn_s": pace.turn_s,
        "threads": threads,
        "data": sample_data.describe(data),
    }
    run = Run(machine(), surroundings(), settings)
    console = Console(width=190)
    with (
        output_folder(output),
        tempfile.TemporaryDirectory(prefix="posewarp-") as folder,
        Console(stderr=True).status("exporting") as status,
    ):
        check_writable(kept)
        if resume and kept.exists():
            run = _resumed(run, kept)
        latency(
            find_networks(files or ["demo"], Path(folder), data),
            lambda network: _chosen(network, only, own or (), full),
            run,
            batches=batches,
            callers=callers,
            threads=threads,
            pace=pace,
            data=data,
            keep=lambda run: run.save(kept),
            tell=status.update if sys.stderr.isatty() else _told_with_times(),
        )
    report.print_report(run, console)
    for suffix, text in ((".md", report.to_markdown(run)), (".html", report.to_html(run))):
        with atomic_write(kept.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    console.print(f"written: {kept}, .md, .html", highlight=False)
    problems = results.refusals(run.rows)
    if saved:
        problems += _regressions(run, saved, console)
    if problems:
        raise ParityError("; ".join(problems))


def _told_with_times() -> Callable[[str], None]:
    """What goes on, as lines with the seconds since the start: of a run that was cut off, all there is."""
    started = time.perf_counter()
    return lambda text: print(f"{time.perf_counter() - started:6.1f} s {text}", file=sys.stderr, flush=True)


def _resumed(run: Run, kept: Path) -> Run:
    """The run of a file, if it was made as this one is."""
    old = results.load(kept)
    for name in ("machine", "settings"):
        now, then = getattr(run, name), getattr(old, name)
        if changed := [key for key in now if now[key] != then.get(key)]:
            raise DataError(
                f"{kept} was measured with {changed[0]} {then.get(changed[0])}, now {now[changed[0]]}; "
                "leave out --resume"
            )
    for key in ("commit", "versions"):
        if run.surroundings[key] != old.surroundings.get(key):
            raise DataError(f"{kept} was measured at another {key}; leave out --resume")
    return old


def _regressions(run: Run, saved: Run, console: Console) -> list[str]:
    pairs, skipped = results.compare(run, saved)
    for line in skipped:
        console.print(f"not compared: {line}", highlight=False, markup=False)
    for pair in pairs:
        console.print(f"{'SLOWER' if pair.regressed else 'as before'}: {pair}", highlight=False, markup=False)
    if not pairs:
        raise DataError("nothing of this run could be compared with the saved one; see above")
    return [f"slower: {pair}" for pair in pairs if pair.regressed]


if __name__ == "__main__":
    command.main(app)
