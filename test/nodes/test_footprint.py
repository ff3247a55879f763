"""The active node is hardly larger than an empty lifecycle node, and idle when nothing happens."""

import os
from pathlib import Path
import subprocess
import sys
import time

from support.waiting import wait_until

EMPTY = """
import rclpy
from rclpy.lifecycle import LifecycleNode
rclpy.init()
node = LifecycleNode('n7_empty')
node.trigger_configure()
node.trigger_activate()
print('active', flush=True)
rclpy.spin(node)
"""
MOST_RESIDENT = 1.3
MOST_CPU = 0.01
IDLE_SECONDS = 10
SETTLE_SECONDS = 2
#: Modules and libraries that must not be in the node's process (rclpy itself brings numpy, yaml).
HEAVY = ('bcc', 'pyroute2', 'rich', 'matplotlib', 'libbcc', 'libLLVM', 'libclang')


def resident_bytes(pid):
    """Return the resident size of a process, `Rss` of /proc/PID/smaps_rollup."""
    for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
        if line.startswith('Rss:'):
            return int(line.split()[1]) * 1024
    raise AssertionError('no Rss in smaps_rollup')


def cpu_seconds(pid):
    """Return the processor time of a process and of its children that ended."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    # utime, stime, cutime, cstime are fields 14 to 17 of proc(5), counted from 1.
    return sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')


def children(pid):
    """Return the processor time of a process's children that ended, and those that run."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    running = [path.read_text().strip() for path in Path(f'/proc/{pid}/task').glob('*/children')]
    return fields[13:15], [text for text in running if text]


def settle(pid):
    """Wait until the children that a start has are done: none runs, none ended for a while."""
    def nothing_happens():
        before = children(pid)
        time.sleep(SETTLE_SECONDS)
        return not before[1] and children(pid) == before
    wait_until(nothing_happens, 'no child is at work')


def test_resident_size_and_idle_processor(start, ports, record_property):
    node = start(rules=[f'tcp:{ports.first}-{ports.last}'])
    node.bring_up()
    with subprocess.Popen([sys.executable, '-c', EMPTY], stdout=subprocess.PIPE) as empty:
        try:
            settle(node.process.pid)
            assert empty.stdout.readline() == b'active\n'
            before, begin = cpu_seconds(node.process.pid), time.monotonic()
            time.sleep(IDLE_SECONDS)
            share = (cpu_seconds(node.process.pid) - before) / (time.monotonic() - begin)
            ratio = resident_bytes(node.process.pid) / resident_bytes(empty.pid)
        finally:
            empty.kill()
    record_property('resident_ratio', f'{ratio:.3f}')
    record_property('idle_cpu_percent', f'{100 * share:.2f}')
    print(f'resident: {ratio:.3f} times an empty node; idle: {100 * share:.2f} % of a core')
    assert ratio <= MOST_RESIDENT
    assert share < MOST_CPU


def test_nothing_heavy_is_loaded(start):
    """Neither as a module nor as a library."""
    node = start()
    node.bring_up()
    mapped = Path(f'/proc/{node.process.pid}/maps').read_text()
    assert 'rclpy' in mapped
    assert [name for name in HEAVY if f'/{name}' in mapped] == []
    code = ('import sys, ipc_bypass.nodes.bypass_node; '
            f'print([name for name in {HEAVY!r} if name in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr


def test_children_end(start):
    """The compiler's process is gone when the node is active, and stays away."""
    node = start()
    node.bring_up()
    settle(node.process.pid)
