"""Who is left out by the list: the parameter `exclude`, and what was seen."""

from dataclasses import replace
import os
import pwd
import socket

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.tcp import exclusions
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings
import pytest
from support.steering import drained, object_ids, rules
from support.waiting import PATIENCE, wait_until
from unfit_tools import connect, whole_answer


def test_listed_programs_and_users(steer, other_ports, peer):
    nobody = pwd.getpwnam('nobody').pw_uid
    there_before = peer('ipcb_listed', 'recv', other_ports)
    with steer(other_ports, exclude=('ipcb_listed',)) as path:
        after = peer('ipcb_listed', 'recv', other_ports)
        fit = peer('ipcb_fit', 'recv', other_ports)
        for port in (there_before, after):
            assert whole_answer(port, b'0123456789') == b'0123456789'
        drained(path)
        counters = path.counters()
        assert counters['left_out_excluded'] == 2
        assert counters['redirected_bytes'] == 0
        assert counters['passed_excluded'] == 2
        assert [str(one) for one in path.excluded()] == [
            'ipcb_listed is left out: it is listed in `exclude`']
        path.apply(replace(path.settings, exclude=(f'user:{nobody}',)))
        assert whole_answer(fit, b'0123456789') == b'0123456789'
        assert path.counters()['redirected_bytes'] == 20
        os.setresuid(nobody, 0, 0)
        try:
            assert whole_answer(fit, b'0123456789') == b'0123456789'
        finally:
            os.setresuid(0, 0, 0)
        assert path.counters()['redirected_bytes'] == 20
        assert path.counters()['left_out_excluded'] == 3
        os.setresuid(nobody, 0, 0)
        try:
            of_nobody = socket.socket()
        finally:
            os.setresuid(0, 0, 0)
        with of_nobody:
            path.apply(replace(path.settings, exclude=()))
            of_nobody.connect(('127.0.0.1', fit))
            of_nobody.settimeout(PATIENCE)
            of_nobody.sendall(b'0123456789')
            assert of_nobody.recv(100) == b'0123456789'
        assert path.counters()['left_out_excluded'] == 3
        assert path.counters()['redirected_bytes'] == 40


def test_a_listener_that_is_older_than_the_rule(privileged, leaks, other_ports, peer):
    path = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory='', exclude=('ipcb_listed',)))
    path.configure()
    try:
        leaks.note(object_ids(path))
        path.activate()
        for left_out in (1, 2):
            # While there is no rule, nobody marks sockets that are made.
            port = peer('ipcb_listed', 'recv', other_ports)
            path.set_rules(rules((other_ports.first, other_ports.last)))
            assert whole_answer(port, b'0123456789') == b'0123456789'
            drained(path)
            assert path.counters()['left_out_excluded'] == left_out
            assert path.counters()['redirected_bytes'] == 0
            path.set_rules([])
        path.set_rules(rules((other_ports.first, other_ports.last)))
        with connect(port):
            wait_until(lambda: path.counters()['left_out_excluded'] == 3, 'it is left out')
            path.set_rules(rules((other_ports.first, other_ports.last)))
            wait_until(lambda: not path._opened_before._busy, 'it is looked for')
            # Its other end is entered: neither is older than the rule.
            assert path.counters()['left_out_opened_before'] == 0
    finally:
        path.cleanup()


def test_the_list_holds_without_the_search(steer, other_ports, peer):
    with steer(other_ports, exclude=('ipcb_listed',), find_unfit=False) as path:
        port = peer('ipcb_listed', 'recv', other_ports)
        assert whole_answer(port, b'0123456789') == b'0123456789'
        drained(path)
        assert path.counters()['left_out_excluded'] == 1
        assert path.counters()['redirected_bytes'] == 0


def test_names_that_are_no_text(path):
    name = 'ipcb\udcff\x1b[2J'
    path.apply(replace(path.settings, exclude=(name,)))
    try:
        one, = (one for one in path.excluded() if one.reason == 'listed')
        assert one.name == name
        assert str(one) == 'ipcb??[2J is left out: it is listed in `exclude`'
    finally:
        path.apply(replace(path.settings, exclude=()))


def test_a_list_that_is_full(privileged, leaks):
    """The oldest that was seen makes room, for names that user space notes and for others."""
    path = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory='', exclude=()))
    path.configure()
    try:
        leaks.note(object_ids(path))
        table, made = path._objects.maps['exclusions'], exclusions.Exclusions(path._objects)
        for port in range(1, table.max_entries + 3):
            made.add(os.getpid(), port, path._objects.enums['unfit']['UNFIT_ZEROCOPY'])
        assert {one.port for one in made.found()} == set(range(3, table.max_entries + 3))
        made.look()
        assert {one.port for one in made.found()} == set(range(4, table.max_entries + 3))
    finally:
        path.cleanup()


@pytest.mark.parametrize('entry', ['', 'name_of_sixteen_', 'user:nobody_of_this_name', '/bin/ls',
                                   'user:99999999999', '\ud800'])
def test_entries_that_are_none(entry):
    with pytest.raises(BypassError):
        exclusions.parse([entry])
