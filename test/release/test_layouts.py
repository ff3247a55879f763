"""
Structs that programs and user space share have one layout on every machine of 64 bits.

x86-64 and AArch64 (System V ABI, AAPCS64) have one rule: a number of N bytes stands at the next
multiple of N, and a struct ends at the next multiple of its largest number. What this compiler
made is held against that rule, so that no other one can make anything else of it.
"""

import re

from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.uapi import bpf_syscall_number, ProgType
import pytest

_STRUCT = re.compile(r'^struct (\w+) \{', re.MULTILINE)
#: Headers whose structs are in maps, or are handed over by them.
HEADERS = ('ipc_bypass_common.h', 'pool_layout.h', 'proxy_path.h', 'tc_fast_path.h',
           'trace_path.h', 'udp_path.h', 'xdp_bypass.h', 'xdp_common.h', 'xdp_devmap.h',
           'xdp_filter.h', 'xdp_limiter.h', 'xdp_sampler.h', 'xdp_steering.h')


@pytest.fixture(scope='module')
def layouts(tmp_path_factory, privileged):
    """Return {struct: StructLayout} of all headers, as compiled here."""
    names = {}
    for header in HEADERS:
        text = bpf_source(header).read_text()
        names.update(dict.fromkeys(_STRUCT.findall(text)))
    lines = ['#include <uapi/linux/bpf.h>', '#define SLOT 0', '#define SMALL_SLOTS 1',
             '#define LARGE_SLOTS 1', '#define TRACE_BYTES 16',
             *(f'#include "{header}"' for header in HEADERS)]
    lines += [f'BPF_ARRAY(r7_{name}, struct {name}, 1);' for name in names]
    source = tmp_path_factory.mktemp('layouts') / 'r7_layouts.bpf.c'
    source.write_text('\n'.join([*lines, 'int r7_none(struct bpf_sock_ops *ops) { return 1; }']))
    with load_object(source, {}, [ProgramSpec('r7_none', ProgType.SOCK_OPS)],
                     [f'r7_{name}' for name in names]) as loaded:
        return {name: loaded.maps[f'r7_{name}'].value for name in names}


def differences(layout, where=''):
    """Yield what of a layout is not as the rule has it."""
    place, largest = 0, 1
    for name, field in layout.fields.items():
        here = f'{where}{layout.name}.{name}'
        if field.nested is not None:
            yield from differences(field.nested, f'{here}: ')
        unit = alignment(field.nested) if field.nested else alignment_of(field)
        largest = max(largest, unit)
        # Members of an anonymous union begin where the first of them does.
        if field.offset not in (next_multiple(place, unit), start_of_last(layout, name)):
            yield f'{here} is at {field.offset}, and the rule says {next_multiple(place, unit)}'
        place = max(place, field.offset + field.size)
    if layout.size != next_multiple(place, largest):
        yield f'{where}{layout.name} has {layout.size} bytes'


def next_multiple(place, unit):
    """Return the next multiple of `unit` from `place` on."""
    return (place + unit - 1) // unit * unit


def start_of_last(layout, name):
    """Return where the member before `name` begins, None where there is none."""
    names = list(layout.fields)
    number = names.index(name)
    return layout.fields[names[number - 1]].offset if number else None


def alignment_of(field):
    """Return the size of a field's elements."""
    elements = 1
    for length in field.shape:
        elements *= length
    return 1 if field.format == 's' else field.size // elements


def alignment(layout: StructLayout):
    """Return the size of the largest number in a struct."""
    return max(alignment(field.nested) if field.nested else alignment_of(field)
               for field in layout.fields.values())


def test_no_layout_is_left_to_the_compiler(layouts):
    assert len(layouts) > 40 and None not in layouts.values()
    found = [text for layout in layouts.values() for text in differences(layout)]
    assert found == []


def test_system_call_numbers(monkeypatch):
    """uapi/asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl."""
    for machine, number in (('x86_64', 321), ('aarch64', 280), ('sparc', -1)):
        monkeypatch.setattr('platform.machine', lambda machine=machine: machine)
        assert bpf_syscall_number() == number
