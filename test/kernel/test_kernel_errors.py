"""Errors: one line, the cause, the next step."""

import errno

from ipc_bypass.kernel import errors
import pytest


def test_an_error_is_one_line_with_cause_and_next_step():
    error = errors.BypassError('load\nx', 'first line\n  second', errno=errno.EPERM,
                               next_step='try\nagain', log='a\nb')
    assert str(error) == 'load x: first line second; try again'
    assert (error.errno, error.log, error.next_step) == (errno.EPERM, 'a\nb', 'try again')


def test_a_reason_comes_from_errno_when_none_is_given():
    assert str(errors.PinError('pin', errno=errno.EROFS)) == 'pin: Read-only file system'
    assert str(errors.PinError('pin')) == 'pin'


def test_a_rule_error_has_a_code():
    error = errors.RuleError('enroll', 'port 0', code=3)
    assert error.code == 3
    assert isinstance(error, errors.BypassError)


@pytest.mark.parametrize('kind', errors.BypassError.__subclasses__())
def test_every_class_says_what_it_stands_for(kind):
    assert kind.__doc__
    assert issubclass(kind, RuntimeError)
