"""`ipc-bypass bench`: measure here and now what a path gains."""

from __future__ import annotations

import argparse
import importlib

#: name on the command line -> module with SUMMARY, add_arguments(parser) and run(args).
BENCHES = {'dds': 'ipc_bypass.bench.dds_command',
           'proxy': 'ipc_bypass.bench.proxy_command',
           'small-writes': 'ipc_bypass.bench.small_writes',
           'udp': 'ipc_bypass.bench.udp_command',
           'xdp': 'ipc_bypass.bench.xdp_command'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each bench."""
    commands = parser.add_subparsers(metavar='BENCH', required=True)
    for name, module_name in BENCHES.items():
        module = importlib.import_module(module_name)
        bench = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(bench)
        bench.set_defaults(run_bench=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen bench and return the exit status."""
    return args.run_bench(args)
