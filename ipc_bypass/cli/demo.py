"""`ipc-bypass demo`: Cyclone DDS between two containers, before and after, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from ipc_bypass.bench import dds, dds_command
from ipc_bypass.bench.session import add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    add_common_arguments(parser)
    parser.add_argument('--chart', type=Path, metavar='FILE', default=Path('results/demo.png'),
                        help='write the chart to FILE, a PNG (default %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Run the containers scenario and return the exit status."""
    return dds_command.measure_and_report(
        dds.plan([dds.CONTAINERS], quick=args.quick, repeats=args.repeat),
        title='Cyclone DDS between two containers', json_file=args.json, chart=args.chart)
