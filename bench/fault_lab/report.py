"""What a soak found, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
import os
import statistics

from fault_lab.bpf_calls import Walk
from fault_lab.trial import Trial

_LINES = 12


def summary(trials: Sequence[Trial], walks: Sequence[Walk], seconds: float,
            sizes: dict[str, list[int]]) -> dict:
    """
    Return a soak's figures.

    :param sizes: of the node that lives through all of it: {'rss_bytes', 'fds', 'threads'}
    """
    by_fault: dict[str, list[Trial]] = {}
    for trial in trials:
        by_fault.setdefault(trial.fault, []).append(trial)
    return {
        'seconds': seconds, 'kernel': os.uname().release, 'load': os.getloadavg()[0],
        'sent_bytes': sum(trial.sent_bytes for trial in trials),
        'lost_bytes': sum(trial.lost_bytes for trial in trials),
        'problems': sum(len(trial.problems) for trial in trials)
        + sum(len(walk.problems) for walk in walks),
        'node': sizes,
        'faults': {name: _figures(found) for name, found in by_fault.items()},
        'calls': [asdict(walk) for walk in walks],
        'trials': [trial.as_dict() for trial in trials]}


def _figures(trials: Sequence[Trial]) -> dict:
    times = {name: [getattr(trial, name) for trial in trials]
             for name in ('plain_s', 'new_plain_s', 'gap_s')}
    return {'trials': len(trials), 'problems': sum(bool(trial.problems) for trial in trials),
            'sent_bytes': sum(trial.sent_bytes for trial in trials),
            'lost_bytes': sum(trial.lost_bytes for trial in trials),
            **{f'{name}_median': statistics.median(found) for name, found in times.items()},
            **{f'{name}_max': max(found) for name, found in times.items()},
            'told': trials[-1].told}


def markdown(report: dict) -> str:
    """Return the figures as tables."""
    lines = [
        f"{report['seconds'] / 60:.1f} minutes on kernel {report['kernel']}, "
        f"{report['sent_bytes'] / 1e9:.1f} GB sent, {report['lost_bytes']} bytes lost, "
        f"{report['problems']} problems.", '',
        '| fault | trials | problems | bytes lost | open connections by TCP, s: median (longest) '
        '| new ones by TCP, s: median (longest) | longest silence of a reader, s |',
        '|---|---|---|---|---|---|---|']
    for name, told in report['faults'].items():
        lines.append(
            f"| {name} | {told['trials']} | {told['problems']} | {told['lost_bytes']} "
            f"| {told['plain_s_median']:.2f} ({told['plain_s_max']:.2f}) "
            f"| {told['new_plain_s_median']:.2f} ({told['new_plain_s_max']:.2f}) "
            f"| {told['gap_s_max']:.2f} |")
    if report['calls']:
        lines += ['', '| step | calls of bpf(2) | made to fail | refused in one line '
                  '| went on without | problems |', '|---|---|---|---|---|---|']
        for walk in report['calls']:
            lines.append(f"| {walk['step']} | {walk['calls']} | {walk['tried']} "
                         f"| {walk['refused']} | {walk['went']} | {len(walk['problems'])} |")
    for name, values in report['node'].items():
        if values:
            shown = [f'{value / 1e6:.1f} MB' if name.endswith('bytes') else str(value)
                     for value in (values[0], max(values), values[-1])]
            lines += ['', f'The node that lived through all of it: {name} {shown[0]} at first, '
                      f'{shown[1]} at most, {shown[2]} at the end.']
    problems = [f"{trial['fault']}: {problem}" for trial in report['trials']
                for problem in trial['problems']]
    problems += [f"{walk['step']}: {problem}" for walk in report['calls']
                 for problem in walk['problems']]
    lines += ['', *(f'- {problem}' for problem in problems[:_LINES])]
    if len(problems) > _LINES:
        lines.append(f'- and {len(problems) - _LINES} more, in the JSON file')
    return '\n'.join(lines).rstrip() + '\n'
