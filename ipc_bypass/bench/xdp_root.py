"""
The root array part of the XDP bench: three slots against the same three bodies in one program.

Time a packet by PROG_TEST_RUN, the paths in turns. The bodies are small (bench/xdp_bodies.bpf.h),
so that what the array costs shows; the one program reads the headers once and counts as the slots
do. A program that only passes packets shows what the kernel's loop itself costs: it is part of
every figure, and the targets are held with it and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from ipc_bypass.bench.rows import Cell, Outcome, outcomes, Row, rows_of, Target, value_of
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.bench.xdp_filter import frame_of, run_time
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.loader import ProgramSpec
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.template import compile_template
from ipc_bypass.kernel.uapi import ProgType
from ipc_bypass.xdp.kinds import SlotProgram
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.templates import Templates

SCENARIO, WORKLOAD, TIME = 'root', 'three slots', 'ns_a_packet'
NOTHING, EMPTY, PLAIN, ROW, ARRAY = PATHS = (
    'nothing', 'empty array', 'one program, uncounted', 'one program', 'root array')
#: At most this many times the time of one program, with the kernel's loop in both.
TARGET = 1.3
_PASS = 2
_FRAME = frame_of(7400, '10.8.0.1', False)
TARGETS = (Target(SCENARIO, WORKLOAD, len(_FRAME), TIME, ROW, at_most=TARGET),)
_SLOTS = ('port_slot', 'source_slot', 'service_slot')


def measure(*, repeats: int = 15, packets: int = 1_000_000,
            begin: Callable[[Cell], None] = lambda cell: None) -> Measured:
    """
    Measure every path in turn.

    :param repeats: how often all is gone through
    :param packets: runs of a program that are timed together
    :param begin: called before each run
    :raises BypassError: when a program cannot be loaded, or answers another than PASS
    """
    cells = {path: Cell(SCENARIO, 'PROG_TEST_RUN', path, WORKLOAD, len(_FRAME))
             for path in PATHS}
    measured = Measured({cell: [] for cell in cells.values()})
    with _programs() as programs:
        for _ in range(repeats):
            for path, cell in cells.items():
                begin(cell)
                answer, spent = run_time(programs[path], _FRAME, packets)
                if answer != _PASS:
                    raise BypassError(f'measure {path}', f'it answers {answer}')
                measured.runs[cell].append([{TIME: spent}])
    return measured


def rows(measured: Measured) -> list[Row]:
    """Return the medians."""
    return rows_of(measured.runs)


def reached(figures: list[Row]) -> list[Outcome]:
    """Return the targets whose figures were measured."""
    return outcomes(figures, TARGETS, ARRAY)


def ratio_without_loop(figures: list[Row]) -> float | None:
    """Return array over one program, less what the kernel's loop costs; None where unknown."""
    loop, row, array = (value_of(figures, path, SCENARIO, WORKLOAD, len(_FRAME), TIME)
                        for path in (NOTHING, ROW, ARRAY))
    if loop is None or row is None or array is None or row <= loop:
        return None
    return (array - loop) / (row - loop)


def cost_of_a_slot(measured: Measured) -> float:
    """Return what the array adds to each slot's own work, in ns, the median of the turns."""
    spent = {cell.path: [run[0][TIME] for run in runs] for cell, runs in measured.runs.items()}
    return median((array - row) / len(_SLOTS)
                  for array, row in zip(spent[ARRAY], spent[ROW], strict=True))


@contextmanager
def _programs() -> Iterator[dict[str, int]]:
    """Yield the descriptor of each path's program."""
    sources = bpf_source('xdp_root.bpf.c').parents[1] / 'bench'
    here = SimpleNamespace(index=1, mtu=1500)
    templates = Templates()
    with ExitStack() as stack:
        found = {}
        for path, name in ((NOTHING, 'nothing'), (PLAIN, 'row_plain'), (ROW, 'row_counted')):
            loaded = compile_template(Path(sources, 'xdp_row.bpf.c'), {},
                                      [ProgramSpec(name, ProgType.XDP)]).instantiate()
            found[path] = stack.enter_context(loaded).programs[name]
        for path, slots in ((EMPTY, ()), (ARRAY, _SLOTS)):
            array = stack.enter_context(RootArray(here, RootSettings(pin_directory=''),
                                                  templates=templates))
            for index, name in enumerate(slots, 1):
                array.load(index, SlotProgram('own', Path(sources, 'xdp_slots.bpf.c'), name))
            found[path] = array.root_program
        yield found
