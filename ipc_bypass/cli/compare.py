"""`ipc-bypass compare`: measure each way with the user's messages, and say which to use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
import importlib.util
import json
import os
from pathlib import Path
import shutil
import sys
import time

from ipc_bypass.bench import containers, session
from ipc_bypass.bench.bypass import Bypass, NodeError, statistics_lines
from ipc_bypass.bench.signals import unwinding
from ipc_bypass.compare import applying, measure, messages, page, ways
from ipc_bypass.compare.recommend import recommend
from ipc_bypass.compare.table import table
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.profiles.settings import domain_of_environment
from rich.console import Console

_LEARN_SECONDS = 10.0
#: What measures a kind, and how one comes to it.
_NEEDS = {'fastdds': ('rclpy', 'source ROS 2: . /opt/ros/<distribution>/setup.sh'),
          'cyclonedds': ('ddsperf', 'apt-get install cyclonedds-tools'),
          'zenoh': ('zenoh', 'pip install eclipse-zenoh')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('--kind', choices=ways.KINDS, default='fastdds',
                        help='what the graph uses (default %(default)s)')
    given = parser.add_mutually_exclusive_group()
    given.add_argument('--message', type=messages.message, action='append', metavar='SIZE@HZ',
                       help='a message of the graph, such as 1M@30; may be given more than once '
                            '(default: 1M@30 and 200@1000)')
    given.add_argument('--config', type=Path, metavar='FILE',
                       help='take the messages from a YAML file: `messages: [{size: 1M, rate: '
                            '30}]`')
    given.add_argument('--learn', type=_seconds, nargs='?', const=_LEARN_SECONDS,
                       metavar='SECONDS',
                       help='learn them from the graph that runs in ROS_DOMAIN_ID '
                            f'(default {_LEARN_SECONDS:g} s)')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--containers', action='store_const', dest='placements',
                       const=(ways.CONTAINERS,),
                       help='only between two containers, each with a /dev/shm of its own')
    where.add_argument('--same-host', action='store_const', dest='placements',
                       const=(ways.SAME_HOST,),
                       help='only on one host, with one /dev/shm')
    parser.set_defaults(placements=ways.PLACEMENTS)
    session.add_common_arguments(parser)
    parser.add_argument('--chart', type=Path, metavar='FILE', default=Path('results/compare.png'),
                        help='write the chart to FILE, a PNG (default %(default)s)')
    parser.add_argument('--html', type=Path, metavar='FILE', default=Path('results/compare.html'),
                        help='write the page to FILE; it needs no other (default %(default)s)')
    parser.add_argument('--apply', action='store_true',
                        help='write the profile and the rules that follow; nothing where nothing '
                             'gains')
    parser.add_argument('--output', type=Path, metavar='FOLDER',
                        help='where --apply writes (default: as `ipc-bypass profile`)')


def run(args: argparse.Namespace) -> int:
    """Compare, report, and apply; return 0, or 1 where some way could not be measured."""
    domain = domain_of_environment()
    _need(args.kind)
    session.need('matplotlib', package='python3-matplotlib')
    console = session.console()
    started = time.monotonic()
    wanted = _messages(console, args)
    with unwinding():
        try:
            plan, measured, notes = _measure(console, args, wanted)
        finally:
            containers.remove_own()
    report = _report(plan, measured, notes)
    _show(console, report)
    _write(console, args, report)
    if args.apply:
        for line in applying.apply(report.recommendations, domain=domain, output=args.output,
                                   budget_bytes=messages.budget_bytes(plan.messages)):
            console.print(line, markup=False, soft_wrap=True)
    for failure in measured.failures:
        print(f'failed: {failure}', file=sys.stderr)
    console.print(f'Took {time.monotonic() - started:.0f} s')
    return 1 if measured.failures else 0


def _messages(console: Console, args: argparse.Namespace) -> tuple[messages.Message, ...]:
    """Return the messages that the options give; raises MessagesError."""
    if args.config is not None:
        return messages.load(args.config)
    if args.learn is None:
        return messages.limited(args.message or messages.DEFAULT)
    _need('fastdds')
    # A graph that is only measured with what is given needs no ROS 2.
    from ipc_bypass.compare import learn
    console.print(f'Learning for {args.learn:g} s from the graph of ROS domain '
                  f'{os.environ.get("ROS_DOMAIN_ID") or 0}')
    found = learn.learn(args.learn)
    for line in [*map(str, found.messages), *found.not_learned]:
        console.print(f'  {line}', markup=False)
    if not found.messages:
        raise messages.MessagesError(
            'learn the messages', 'no message was seen on any topic',
            next_step='start the graph, set its ROS_DOMAIN_ID, or give --message')
    return messages.limited(found.messages)


def _measure(console: Console, args: argparse.Namespace,
             wanted: tuple[messages.Message, ...]) -> tuple[measure.Plan, measure.Measured, list]:
    """Measure with the node where it starts; return the plan, what came, and notes."""
    containers.remove_leftovers()
    notes, left_out = list(page.machine()), {}
    with ExitStack() as stack:
        bypass = None
        try:
            # No rule for UDP, and so no pool: only what is measured is there.
            bypass = stack.enter_context(Bypass(ways.RULE_PORTS, domains=[],
                                                udp_path='loopback',
                                                budget_bytes=messages.budget_bytes(wanted)))
        except NodeError as error:
            left_out[ways.REDIRECTED] = str(error)
            console.print(f'Without {ways.REDIRECTED}: {error}', markup=False)
        plan = measure.plan(args.kind, args.placements, wanted, quick=args.quick,
                            repeats=args.repeat, left_out=left_out)
        console.print(f'{args.kind}: {"; ".join(map(str, plan.messages))}; about '
                      f'{plan.duration:.0f} s', markup=False)
        reporter = session.Reporter(console, plan.steps)
        with reporter.shown():
            measured = measure.measure(plan, begin=reporter.step)
        if bypass is not None:
            notes += _of_node(bypass)
    return plan, measured, notes + _left_out(plan, wanted)


def _of_node(bypass: Bypass) -> list[str]:
    """Return what the node says that it redirected."""
    try:
        said = statistics_lines(bypass.statistics())
    except NodeError as error:
        return [str(error)]
    return [line.strip() for line in said if 'redirected:' in line or 'NOTHING' in line]


def _left_out(plan: measure.Plan, wanted: Sequence[messages.Message]) -> list[str]:
    """Return a note for each thing that was not measured."""
    notes = [f'not measured, {way}: {reason}' for way, reason in plan.left_out.items()]
    notes += [f'not measured, {placement}, {reason}' for placement in plan.placements
              if (reason := ways.left_out(plan.kind, placement))]
    return notes + [f'not measured, since quick: {message}' for message in wanted
                    if message not in plan.messages]


def _report(plan: measure.Plan, measured: measure.Measured, notes: list[str]) -> page.Report:
    """Return the report, with what follows."""
    figures = tuple(measure.rows_of(plan, measured))
    return page.Report(
        plan, figures, tuple(recommend(figures, plan.kind, each) for each in plan.placements),
        tuple(measured.failures), tuple(notes))


def _show(console: Console, report: page.Report) -> None:
    """Print the tables and what follows from them."""
    for each in report.recommendations:
        figures = [row for row in report.rows if row.scenario == each.placement]
        console.print()
        console.print(table(f'{each.kind}, {each.placement}', figures,
                            report.plan.ways[each.placement]))
        console.print(each.text, style='bold', markup=False)
        for line in each.refused:
            console.print(f'  {line}', markup=False)
    console.print()
    for note in report.notes:
        console.print(f'  {note}', markup=False)


def _write(console: Console, args: argparse.Namespace, report: page.Report) -> None:
    """Write the chart, the page and the figures; the import takes a second or so."""
    from ipc_bypass.bench.chart import write_chart
    names = list(dict.fromkeys(way for each in report.plan.ways.values() for way in each))
    shown = [row for row in report.rows if row.metric != 'lost']
    picture = b''
    if shown:
        write_chart(args.chart, f'{args.kind}: how many times better than the default', shown,
                    names, ('p50_us', 'messages_per_s', 'cpu_ms_per_megabyte'))
        picture = args.chart.read_bytes()
        console.print(f'Chart: {args.chart}')
    page.write(args.html, report, picture)
    console.print(f'Page: {args.html}')
    if args.json is not None:
        page.save(args.json, json.dumps({
            'rows': [asdict(row) for row in report.rows],
            'recommendations': [asdict(each) for each in report.recommendations],
            'failures': report.failures, 'notes': report.notes}, indent=1) + '\n')
        console.print(f'Figures: {args.json}')


def _need(kind: str) -> None:
    """Raise UnsupportedError where what measures a kind is not there."""
    name, next_step = _NEEDS[kind]
    there = shutil.which(name) if kind == 'cyclonedds' else importlib.util.find_spec(name)
    if there is None:
        raise UnsupportedError(f'use {name}', 'it is not there', next_step=next_step)


def _seconds(text: str) -> float:
    """Return a time to learn in seconds; raises ArgumentTypeError."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 1 <= found <= 600:
        raise argparse.ArgumentTypeError(f'{text!r} is not 1 to 600 seconds')
    return found
