"""docs/kernel_support.md is what its data and the generator say, for every kernel and suite."""

import json

from vm import kernel, machine, matrix, support_page
from vm.expected import REFUSED
from vm.suites import SUITES

_REASON = 'attach sk_skb: it cannot; use kernel 5.13 or later'


def _outcome(version, entries):
    tests = [{'test': f'test/x.py::test_{number}', 'suite': suite, 'outcome': outcome,
              'reason': reason, 'seconds': 0.1, 'properties': properties}
             for number, (suite, outcome, reason, properties) in enumerate(entries)]
    return matrix.Outcome(version, machine.Result(0, '', ''), f'{version}.0-1-amd64', tests)


def test_the_page_is_up_to_date():
    """The page in the repository is made of the data beside it."""
    data = json.loads(support_page.DATA.read_text())
    assert support_page.PAGE.read_text() == support_page.page(data)


def test_the_data_have_every_kernel_and_suite():
    """Each kernel ran each suite, none failed, and what is refused is what is expected."""
    data = json.loads(support_page.DATA.read_text())
    assert list(data) == list(kernel.RELEASES)
    for version, found in data.items():
        assert list(found['suites']) == list(SUITES), version
        for name, entry in found['suites'].items():
            assert entry['state'] != 'fails', (version, name, entry)
            expected = REFUSED.get(version, {}).get(name, ())
            assert all(any(part in reason for part in expected) for reason in entry['reasons'])
        assert found['instructions'], version


def test_an_outcome_in_words():
    """Works, refused, in part, fails: each from the outcomes of tests."""
    passed, refused = ('tcp', 'passed', '', {}), ('tcp', 'refused', _REASON, {})
    for entries, state in (([passed], 'works'), ([refused], 'refused'),
                           ([passed, refused], 'in part'), ([], 'fails'),
                           ([passed, ('tcp', 'failed', 'assert 1 == 2', {})], 'fails'),
                           ([passed, ('tcp', 'not run', '', {})], 'fails')):
        assert matrix.in_words(_outcome('6.1', entries), 'tcp')[0] == state


def test_a_refusal_has_to_be_expected(monkeypatch):
    """Refused on a kernel that has it, refused for another reason, not run."""
    monkeypatch.setitem(REFUSED, '5.10', {'tcp': ('it cannot',)})
    refused = [('tcp', 'refused', _REASON, {})]
    assert matrix.faults(_outcome('5.10', refused), 'tcp') == []
    assert matrix.faults(_outcome('6.1', refused), 'tcp')
    assert matrix.faults(_outcome('5.10', [('tcp', 'refused', 'no memory', {})]), 'tcp')
    assert matrix.faults(_outcome('5.10', [('tcp', 'skipped', 'it cannot', {})]), 'tcp')
    assert matrix.faults(_outcome('5.10', []), 'tcp')


def test_a_page_of_made_up_kernels():
    """What a kernel refuses, notes and costs stands in the page; without dates or places."""
    outcome = _outcome('5.10', [
        ('tcp', 'refused', _REASON, {}),
        ('safe', 'passed', '', {'tcp': {'selected': 'loopback', 'reasons': {},
                                        'notes': ['slow here']}}),
        ('verifier', 'passed', '', {'instructions': {'msg_steer': 12345}})])
    text = support_page.page({'5.10': support_page.summary(outcome)})
    assert f'- {SUITES["tcp"].title}, refused: {_REASON}' in text
    assert '- TCP: slow here' in text
    assert '| `msg_steer` | 12,345 |' in text
    assert '/root/' not in text


def test_a_short_form_does_not_take_the_place_of_the_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(support_page, 'DATA', tmp_path / 'data.json')
    monkeypatch.setattr(support_page, 'PAGE', tmp_path / 'page.md')
    passed = ('tcp', 'passed', '', {})

    def page(count, quick, outcome=passed):
        support_page.update(_outcome('6.1', [outcome] * count), quick=quick)
        return support_page.PAGE.read_text()
    assert 'works (2 of 2, short form)' in page(2, True)
    assert 'works (3 of 3, short form)' in page(3, True)
    assert 'works (9 of 9)' in page(9, False)
    assert 'works (9 of 9)' in page(2, True)
    assert '**fails** (0 of 1, short form)' in page(1, True, ('tcp', 'failed', 'no', {}))
