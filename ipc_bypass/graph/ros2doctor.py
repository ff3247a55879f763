"""
The graph as a check and a report of `ros2 doctor`.

ros2doctor loads these by the entry points `ros2doctor.checks` and `ros2doctor.report`, and is
not needed by anything else here: it is imported when it asks.
"""

from __future__ import annotations

import os

from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.graph.survey import by_way, Request, survey

CATEGORY = 'ipc_bypass'


class GraphCheck:
    """Fails where pairs do not match, and warns of limits and configurations."""

    def category(self) -> str:
        """Return what links the check to its report."""
        return CATEGORY

    def check(self):
        """Return a ros2doctor Result."""
        from ros2doctor.api import Result
        from ros2doctor.api.format import doctor_error, doctor_warn
        result, graph = Result(), _graph()
        for pair in graph.pairs:
            if pair.way == 'incompatible':
                doctor_error(printable(f'{pair.topic}: {pair.reason}'))
                result.add_error()
        for finding in (*graph.profiles, *graph.limits):
            if finding.level == 'warning':
                doctor_warn(printable(f'{finding.what} {finding.where}: {finding.reason}; '
                                      f'{finding.next_step}'))
                result.add_warning()
        return result


class GraphReport:
    """Lists the pairs with their way, reason and next step."""

    def category(self) -> str:
        """Return what links the report to its check."""
        return CATEGORY

    def report(self):
        """Return a ros2doctor Report."""
        from ros2doctor.api import Report
        report, graph = Report('IPC_BYPASS GRAPH'), _graph()
        report.add_to_report('processes', str(len(graph.processes)))
        for way, count in by_way(graph.pairs).items():
            report.add_to_report(f'pairs by {way}', str(count))
        for pair in graph.pairs:
            if not pair.infrastructure:
                ends = f'{pair.publisher.node or pair.publisher.comm} ({pair.publisher.pid}) -> ' \
                       f'{pair.subscriber.node or pair.subscriber.comm} ({pair.subscriber.pid})'
                step = f' -> {pair.next_step}' if pair.next_step else ''
                report.add_to_report(printable(pair.topic or 'topic not known'),
                                     printable(f'{ends}: {pair.way}, {pair.reason}{step}'))
        for line in graph.cannot_see:
            report.add_to_report('cannot see', line)
        return report


_graphs: list = []


def _graph():
    """Return the graph of this process's ROS domain, looked at once for check and report."""
    if not _graphs:
        text = os.environ.get('ROS_DOMAIN_ID') or '0'
        _graphs.append(survey(Request(domain=int(text) if text.isdecimal() else None)))
    return _graphs[0]
