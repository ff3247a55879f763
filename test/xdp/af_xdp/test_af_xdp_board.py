"""The board of statistics: a real echo shows itself, and what is dead or nonsense is left out."""

import os

from ipc_bypass.xdp.af_xdp.statistics_board import DEFAULT_FOLDER, HeldFile, read_board
from support.waiting import wait_until
from test_af_xdp_command import command


def test_an_echo_is_shown_while_it_lives(lab):
    with command(lab[0], 'echo', 'near0', '--period', '0.1', '--pin-directory', '',
                 '--frames', '256', '--ring-entries', '128') as process:
        def shown():
            return [each for each in read_board() if each.pid == process.pid]
        wait_until(shown, 'the echo is on the board')
        entry, = shown()
        assert (entry.statistics.interface, entry.statistics.queue) == ('near0', 0)
        assert set(entry.statistics.drops()) >= {'dropped', 'rx_ring_full', 'transmit_full'}
    assert not [each for each in read_board() if each.pid == process.pid]
    assert not [name for name in os.listdir(DEFAULT_FOLDER)
                if name.startswith(f'{process.pid}_')]


def test_what_is_dead_goes_and_nonsense_is_left_out(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / '1_0.json').write_text('{}')
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        held = HeldFile(place, '2_0.json')
        for text in ('', '{"interface": "x', '[1]', '{"namespace": 1}', 'x' * 5000):
            held.write(text)
            assert read_board(str(tmp_path)) == []
        assert os.listdir(tmp_path) == ['2_0.json']
        held.close()
    finally:
        os.close(place)
    assert os.listdir(tmp_path) == []
