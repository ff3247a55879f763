"""Find the one useful line in a compiler's or verifier's log."""

from __future__ import annotations

import re

# What BCC calls the text that it compiles.
_VIRTUAL = '/virtual/main.c'
_LOCATION = re.compile(r'^; (?P<text>.*?)\s*@ main\.c:(?P<line>\d+)$')
# Lines of a verifier's log that tell a state, a figure or a hint and no reason.
_NOISE = re.compile(r'^(;|\d+: |processed \d|verification time|stack depth|max_states|'
                    r'mark_precise|from \d+|regs=|parent |last_idx|HINT|bpf: |arg#\d+ .* type)')

# What old kernels say of what they do not know: reason and next step.
_LACKING = (
    # Any atomic operation but an addition without an answer, kernel/bpf/verifier.c before 5.12.
    (re.compile('BPF_STX uses reserved fields'),
     'the kernel has no atomic compare and exchange in programs', 'use kernel 5.12 or later'),
    # bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes: enum bpf_func_id.
    (re.compile(r'invalid func unknown#(188|189|190)\b'),
     'the kernel has no helper to read packets of several buffers', 'use kernel 5.18 or later'),
    (re.compile(r'invalid func unknown#(\d+)'),
     'the kernel lacks a helper function of programs', 'use a later kernel'),
)


def compile_log(log: str, name: str) -> str:
    """Return a compiler's log with the name of the file in place of BCC's."""
    return log.replace(_VIRTUAL, name)


def compile_reason(log: str) -> str:
    """Return the first error of a compiler's log as 'file:line: error: text', '' if none."""
    errors = [line for line in log.splitlines() if re.search(r'\b(fatal )?error: ', line)]
    if not errors:
        return ''
    # Without the column, which BCC's rewriting of the text moves.
    first = re.sub(r'^(\S+?:\d+):\d+:', r'\1:', errors[0].strip())
    return first + (f' (and {len(errors) - 1} more)' if len(errors) > 1 else '')


def verifier_log(log: str, name: str, source: str) -> str:
    """
    Return a verifier's log with file names and line numbers of the source.

    BCC puts lines before the text and into each function, so the log's numbers are shifted; the
    first location of a program is its function's own line, which tells by how much.

    :param name: the file's name
    :param source: its text
    """
    lines = source.splitlines()
    places: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        places.setdefault(line.strip(), []).append(number)
    shift = None
    answer = []
    for line in log.splitlines():
        match = _LOCATION.match(line)
        if match and match['line'] != '0':
            at, known = int(match['line']), places.get(match['text'].strip(), [])
            if shift is None:
                shift = at - known[0] + 1 if known else 0
            # The same text may stand at several lines: take the nearest.
            real = min(known, key=lambda place: abs(place - (at - shift)), default=at - shift)
            line = f'; {match["text"].strip()} @ {name}:{real}'
        answer.append(line)
    return '\n'.join(answer)


def verifier_reason(log: str) -> str:
    """Return the last meaningful line of a verifier's log, with the source line before it."""
    lines = [line.strip() for line in log.splitlines()]
    for index in range(len(lines) - 1, -1, -1):
        if not lines[index] or _NOISE.match(lines[index]):
            continue
        for place in reversed(lines[:index]):
            match = re.match(r'^; (?P<text>.+?)(?: @ (?P<place>\S+:\d+))?$', place)
            if match:
                where = f'{match["place"]}: ' if match['place'] else ''
                return f'{where}{lines[index]} at "{match["text"].strip()}"'
        return lines[index]
    return ''


def lacking(reason: str) -> tuple[str, str] | None:
    """Return what a verifier's reason says the kernel lacks, and the next step; else None."""
    return next(((meaning, next_step) for said, meaning, next_step in _LACKING
                 if said.search(reason)), None)
