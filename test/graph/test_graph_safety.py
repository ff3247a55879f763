"""Looking changes nothing, acts on nothing, and who may not look is told so."""

from concurrent.futures import ThreadPoolExecutor
import ctypes
import json
import os

from graph_tools import fast_library, TOPIC, wait_for
from ipc_bypass.cli import main
from ipc_bypass.cli.doctor_graph import print_graph
from ipc_bypass.graph.entering import enter
from ipc_bypass.graph.model import End, Graph, Pair
from ipc_bypass.graph.processes import scan_processes
from ipc_bypass.graph.profiles import profile_findings
import pytest

_IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000  # uapi/linux/inotify.h


def test_cyclone_lives_on_beside_fast_dds(host):
    """A Fast DDS that asks for types ends Cyclone DDS 0.10: the join must not ask."""
    assert [peer.poll() for peer in host.all] == [None] * len(host.all)


def test_an_ordinary_user_is_told_what_is_out_of_sight(host):
    output, errors, _ = host.doctors['user']
    assert errors == ''
    graph = json.loads(output)['graph']
    assert graph['processes'] == graph['losses'] == []
    said = ' '.join(graph['cannot_see'])
    assert 'needs CAP_SYS_PTRACE; run with sudo' in said
    assert 'needs CAP_NET_RAW' in said


def test_the_command_and_its_exit_code(host):
    output, errors, code = host.doctors['table']
    assert errors == ''
    assert 'DDS processes' in output
    assert 'bpf(2)' not in output
    assert code in (0, 1)


def test_the_tables_name_steps_that_can_be_copied(host, capsys):
    print_graph(host.graph)
    output = capsys.readouterr().out
    assert TOPIC in output
    step = next(line for line in output.splitlines() if 'ipc-bypass run fastdds' in line)
    number, _, command = step.partition(' ')
    assert command == 'ipc-bypass run fastdds -- COMMAND'
    assert number in output.partition(step)[0]


def test_without_rclpy_the_processes_are_there(host):
    output, errors, _ = host.doctors['without rclpy']
    assert errors == ''
    graph = json.loads(output)['graph']
    assert host.publisher.pid in [process['pid'] for process in graph['processes']]
    assert any('rclpy is not installed' in line for line in graph['cannot_see'])


@pytest.mark.parametrize('words', [
    ['--domain', '233'], ['--domain', 'x'], ['--losses', '-1'], ['--message-size', '0'],
    ['--message-size', '1000000000000'], ['--no-graph', '--graph-only']])
def test_arguments_are_checked(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(['doctor', *words])
    assert caught.value.code == 2
    assert 'usage' in capsys.readouterr().err


def test_the_text_of_others_moves_no_cursor(capsys):
    graph = Graph(pairs=[Pair('/t\x1b[2J', 'T', End(1, 'a\x1b]0;x\x07'), End(2, 'b'))],
                  cannot_see=['it\x1b[1A'])
    print_graph(graph)
    assert not set('\x1b\x07') & set(capsys.readouterr().out)


def test_no_thread_enters_a_namespace_that_has_another_ones_path(containers):
    """The number of a process is used again; what is there then is not what was meant."""
    path = f'/proc/{containers[0].holder_pid}/ns/net'
    inode, outside = os.stat(path).st_ino, os.stat('/proc/self/ns/net').st_ino

    def try_to(number):
        try:
            enter(path, number)
        except ProcessLookupError:
            return 'refused'
        return os.stat('/proc/thread-self/ns/net').st_ino
    for number, answer in ((inode, inode), (inode + 1, 'refused'), (outside, outside)):
        # A thread of its own for each, which ends: it may be in another namespace then.
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(try_to, number).result() == answer
    assert os.stat('/proc/thread-self/ns/net').st_ino == outside


def test_a_configuration_that_is_no_plain_file_is_not_opened(peers, tmp_path):
    """The opening of a device can act, and a pipe's writer would find a reader."""
    pipe = tmp_path / 'pipe.xml'
    os.mkfifo(pipe)
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(_IN_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(pipe), _IN_OPEN) > 0
    # Which is a regular file by its kind, and what is read of it is gone.
    named = {'pipe': pipe, 'device': '/dev/zero', 'kernel': '/proc/kmsg'}
    processes = {name: peers.run(
        peers.a, 'sleep', '60', LD_PRELOAD=fast_library(), FASTDDS_DEFAULT_PROFILES_FILE=str(path))
        for name, path in named.items()}
    wait_for(*processes.values())
    said = {finding.where: finding.reason for finding in profile_findings(
        scan_processes().processes)}
    with pytest.raises(BlockingIOError):
        os.read(watch, 4096)
    os.close(watch)
    found = {name: next((reason for where, reason in said.items()
                         if where.endswith(f'({process.pid})')), '')
             for name, process in processes.items()}
    assert 'no regular file' in found['pipe']
    assert 'no regular file' in found['device']
    assert found['kernel'] == ''
