"""The messages that a user gives, on the command line and in a file."""

import argparse

from ipc_bypass.compare import messages
from ipc_bypass.compare.messages import Message, MessagesError
import pytest


@pytest.mark.parametrize(('text', 'size', 'rate'), [
    ('1M@30', 1 << 20, 30.0), ('200@1000', 200, 1000.0), ('16k@0.5', 16384, 0.5),
    ('64M@1', 64 << 20, 1.0)])
def test_a_message_is_read(text, size, rate):
    assert messages.message(text) == Message(size, rate)


@pytest.mark.parametrize('text', [
    '', '1M', '@30', '1M@', '1M@x', '15@1', '65M@1', '1M@0', '1M@-1', '1M@20000', '1M@nan', 'x@1'])
def test_what_is_no_message_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        messages.message(text)


def test_a_file_is_read(tmp_path):
    path = tmp_path / 'messages.yaml'
    path.write_text('messages:\n- {size: 1M, rate: 30, topic: /camera}\n'
                    '- size: 200\n  rate: 1e3\n')
    assert messages.load(path) == (Message(1 << 20, 30.0, '/camera'), Message(200, 1000.0))


@pytest.mark.parametrize(('text', 'reason'), [
    ('', 'it has no list'), ('messages: []', 'it has no list'), ('a: [', 'it is no YAML'),
    ('messages: [5]', 'entry 1 is not'), ('messages: [{size: 1M}]', 'entry 1 is not'),
    ('messages: [{size: 1M, rate: 1, x: 2}]', 'entry 1 is not'),
    ('messages: [{size: 1M, rate: 1}, {size: 1, rate: 1}]', "entry 2: size '1'"),
    ('messages: [{size: 1M, rate: [1]}]', 'entry 1: rate')])
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path, text, reason):
    path = tmp_path / 'messages.yaml'
    path.write_text(text)
    with pytest.raises(MessagesError, match=reason) as caught:
        messages.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MessagesError, match='No such file'):
        messages.load(tmp_path / 'none.yaml')


def test_doubles_go_and_too_many_are_refused():
    assert messages.limited([Message(20, 1.0)] * 20) == (Message(20, 1.0),)
    with pytest.raises(MessagesError, match='there are 9'):
        messages.limited([Message(20 + number, 1.0) for number in range(9)])


def test_a_budget_holds_the_history_of_the_largest_message():
    assert messages.budget_bytes([Message(200, 1.0), Message(6 << 20, 1.0)]) == 60 << 20
    assert messages.budget_bytes([Message(200, 1.0)]) == 16 << 20
    assert messages.budget_bytes([Message(64 << 20, 1.0)]) == 256 << 20
