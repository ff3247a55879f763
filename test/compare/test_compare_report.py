"""What a person gets: the page, the table, and what --apply writes."""

from html.parser import HTMLParser
import json

from ipc_bypass.compare import applying, measure, page, ways
from ipc_bypass.compare.messages import DEFAULT, Message
from ipc_bypass.compare.recommend import Recommendation
from ipc_bypass.compare.table import table
from ipc_bypass.kernel.errors import BypassError
import pytest
import yaml


@pytest.fixture
def rows(row):
    """Return rows with a better and a worse figure."""
    return (row('default', 'round trip', 'p50_us', 1000),
            row('tcp', 'round trip', 'p50_us', 100),
            row('default', 'at 30 Hz', 'lost', 0), row('tcp', 'at 30 Hz', 'lost', 3),
            row('default', 'flat out', 'messages_per_s', 500),
            row('tcp', 'flat out', 'messages_per_s', 250))


def advice(way, placement='containers', kind='fastdds'):
    return Recommendation(kind, placement, way, f'Use {way} <now>')


class Page(HTMLParser):
    """Notes what a page refers to, and which elements are open at its end."""

    def __init__(self):
        super().__init__()
        self.sources, self.open, self.text = [], [], ''

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ('src', 'href')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file(rows, tmp_path):
    report = page.Report(measure.plan('fastdds', ['containers'], DEFAULT), rows,
                         (advice('tcp'),), ('udp: it <ended>',), page.machine())
    path = tmp_path / 'below' / 'compare.html'
    page.write(path, report, b'\x89PNG')
    read = Page()
    read.feed(path.read_text())
    assert read.open == []
    assert read.sources == ['data:image/png;base64,iVBORw==']
    for text in ('Use tcp <now>', 'udp: it <ended>', '1 MB round trip, p50 µs', '100 (10×)',
                 '250 (0.50×)', 'Linux '):
        assert text in read.text
    assert [entry.name for entry in path.parent.iterdir()] == ['compare.html']


def test_a_page_that_cannot_be_written_is_one_line(rows, tmp_path):
    (tmp_path / 'file').write_text('')
    report = page.Report(measure.plan('fastdds', ['containers'], DEFAULT), rows, ())
    with pytest.raises(BypassError, match='write .*compare.html'):
        page.write(tmp_path / 'file' / 'compare.html', report, b'')


def test_the_table_has_a_column_a_way_and_marks_the_best(rows):
    shown = table('x', rows, ['default', 'udp', 'tcp'])
    cells = [list(column.cells) for column in shown.columns]
    assert cells[1] == ['1,000', '[bold]0[/]', '[bold]500[/]']
    assert cells[2] == ['-', '-', '-']
    assert cells[3] == ['[bold]100 (10×)[/]', '3', '250 (0.50×)']


def test_nothing_is_written_where_nothing_gains(tmp_path):
    said = applying.apply([advice('default'), advice('default', 'same-host')], domain=0,
                          output=tmp_path / 'x')
    assert said == ['Nothing gains: things are left as they are, and nothing was written.']
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kind', ways.KINDS)
def test_redirected_gives_a_profile_rules_and_how_to_use_them(kind, tmp_path):
    said = '\n'.join(applying.apply([advice('tcp redirected', kind=kind)], domain=3,
                                    output=tmp_path / 'x', budget_bytes=62914560))
    rules = yaml.safe_load((tmp_path / 'x' / 'rules.yaml').read_text())['/**']['ros__parameters']
    assert rules['rules'] == ['tcp:8162-8399:accelerate']
    assert rules['budget_bytes'] == 62914560
    assert json.loads((tmp_path / 'x' / 'profile.json').read_text())['kind'] == kind
    assert f'python3 {tmp_path}/x/run_with_port.py -- COMMAND' in said
    assert f'ipc-bypass up --params-file {tmp_path}/x/rules.yaml' in said


def test_shared_memory_is_a_profile_without_a_node(tmp_path):
    said = '\n'.join(applying.apply([advice('shared memory', 'same-host')], domain=0,
                                    output=tmp_path / 'x'))
    assert '<type>SHM</type>' in (tmp_path / 'x' / 'fastdds.xml').read_text()
    assert 'ipc-bypass up' not in said


@pytest.mark.parametrize(('kind', 'variable'), [
    ('fastdds', 'FASTDDS_BUILTIN_TRANSPORTS=UDPv4'), ('cyclonedds', 'CYCLONEDDS_URI=')])
def test_udp_is_a_variable(kind, variable, tmp_path):
    said = '\n'.join(applying.apply([advice('udp', kind=kind)], domain=0, output=tmp_path / 'x'))
    assert variable in said
    assert list(tmp_path.iterdir()) == []


def test_two_placements_with_two_ways_have_two_folders(tmp_path):
    said = applying.apply([advice('tcp redirected'), advice('shared memory', 'same-host')],
                          domain=0, output=tmp_path / 'x')
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['x-containers', 'x-same-host']
    assert 'For containers, tcp redirected:' in said
    said = applying.apply([advice('tcp'), advice('default', 'same-host')], domain=0,
                          output=tmp_path / 'y')
    assert (tmp_path / 'y' / 'fastdds.xml').exists()
    assert said[-1] == 'For same-host: leave things as they are.'


def test_messages_are_named_with_their_topic():
    assert str(Message(1 << 20, 30.0, '/camera')) == '1 MB at 30 Hz (/camera)'
    assert str(Message(200, 0.5)) == '200 B at 0.5 Hz'
