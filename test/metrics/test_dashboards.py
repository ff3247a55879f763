"""The Grafana dashboard names metrics that there are, the Foxglove layout topics and fields."""

import importlib
import json
from pathlib import Path
import re

from metrics_tools import exposition
from prometheus_client.parser import text_string_to_metric_families
import pytest
from test_metrics_exporter import every

CONFIG = Path(__file__).resolve().parents[2] / 'config'
GRAFANA = json.loads((CONFIG / 'grafana' / 'ipc_bypass.json').read_text())
FOXGLOVE = json.loads((CONFIG / 'foxglove' / 'ipc_bypass.json').read_text())
#: Topics of the nodes, with their types.
TOPICS = {
    '/ipc_bypass/statistics': 'ipc_bypass_interfaces/BypassStatistics',
    '/ipc_bypass/flows': 'ipc_bypass_interfaces/FlowArray',
    '/ipc_bypass/events': 'ipc_bypass_interfaces/PacketBypassed',
    '/xdp_helper/status': 'ipc_bypass_interfaces/XdpStatus',
    '/sockmap_helper/status': 'ipc_bypass_interfaces/ProxyStatus',
    '/diagnostics': 'diagnostic_msgs/DiagnosticArray',
}
METRIC = re.compile(r'ipc_bypass_\w+')
HEADER = ('BypassStatistics', 'FlowArray')


@pytest.fixture(scope='module')
def exported():
    """Return {name of a sample: names of its labels} of everything that the exporter has."""
    found = {}
    for family in text_string_to_metric_families(exposition(every())):
        name = f'{family.name}_total' if family.type == 'counter' else family.name
        found.setdefault(name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions():
    return [target['expr'] for panel in GRAFANA['panels'] for target in panel.get('targets', ())]


def test_metrics_exist(exported):
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert named <= set(exported)
    assert len(named) > 25
    for variable in GRAFANA['templating']['list']:
        assert set(METRIC.findall(str(variable.get('definition', '')))) <= set(exported)


def test_labels_exist(exported):
    """What an expression groups or selects by, and what a legend names, the metrics have."""
    known = {'job', 'instance'}
    for panel in GRAFANA['panels']:
        for target in panel.get('targets', ()):
            text = target['expr']
            labels = known.union(*(exported[name] for name in METRIC.findall(text)))
            used = re.findall(r'[{,](\w+)=', text)
            for group in re.findall(r'by \(([^)]*)\)', text):
                used += [label.strip() for label in group.split(',')]
            used += re.findall(r'{{(\w+)}}', target['legendFormat'])
            assert set(used) <= labels, (panel['title'], set(used) - labels)
            assert text.count('(') == text.count(')') and text.count('{') == text.count('}')
            assert 'rate(' in text or '_total' not in text, panel['title']
            # Of several hosts a line is one, since no legend names them.
            assert re.match(r'(1 - )?(sum|max|min|topk)\b', text), panel['title']


def test_dashboard_can_be_imported():
    assert GRAFANA['schemaVersion'] >= 39 and GRAFANA['title'] and GRAFANA['uid']
    numbers = [panel['id'] for panel in GRAFANA['panels']]
    assert len(numbers) == len(set(numbers))
    places = set()
    for panel in GRAFANA['panels']:
        where = panel['gridPos']
        assert 0 <= where['x'] and where['x'] + where['w'] <= 24
        cells = {(x, y) for x in range(where['x'], where['x'] + where['w'])
                 for y in range(where['y'], where['y'] + where['h'])}
        assert not cells & places, panel['title']
        places |= cells
        if panel['type'] != 'row':
            assert panel['datasource']['uid'] == '${datasource}'
    source, *_ = GRAFANA['templating']['list']
    assert (source['name'], source['type'], source['query']) == (
        'datasource', 'datasource', 'prometheus')


def message_type(name):
    package, _, message = name.partition('/')
    return getattr(importlib.import_module(f'{package}.msg'), message)


def check_path(path):
    """Raise AssertionError unless a Foxglove message path leads to something."""
    topic = next((topic for topic in TOPICS if path == topic or path.startswith(f'{topic}.')),
                 None)
    assert topic, f'{path}: no such topic'
    kind = TOPICS[topic]
    for part in filter(None, path.removeprefix(topic).split('.')):
        match = re.fullmatch(r'(\w+)((?:\[[0-9:]*\])?)((?:\{\w+=="?\w+"?\})?)', part)
        assert match, f'{path}: {part}'
        name, index, where = match.groups()
        fields = message_type(kind).get_fields_and_field_types()
        assert name in fields, f'{path}: {kind} has no {name}'
        kind = fields[name]
        sequence = re.fullmatch(r'sequence<(.*?)(?:, \d+)?>', kind)
        assert bool(sequence) == bool(index), f'{path}: {name}'
        kind = sequence.group(1) if sequence else kind
        if where:
            assert where[1:].partition('==')[0] in \
                message_type(kind).get_fields_and_field_types(), path


def test_layout_paths():
    paths = [config['topicPath'] for config in FOXGLOVE['configById'].values()
             if config.get('topicPath')]
    paths += [config['topicToRender'] for config in FOXGLOVE['configById'].values()
              if 'topicToRender' in config]
    paths += [line['value'] for config in FOXGLOVE['configById'].values()
              for line in config.get('paths', ())]
    assert len(paths) > 20
    for path in paths:
        check_path(path)
    with pytest.raises(AssertionError):
        check_path('/ipc_bypass/statistics.no_such_field')
    with pytest.raises(AssertionError):
        check_path('/ipc_bypass/flows.flows.bytes')


def test_layout_panels():
    """Every panel is placed, and every place has its panel."""
    placed = []

    def walk(node):
        if isinstance(node, str):
            placed.append(node)
            return
        assert node['direction'] in ('row', 'column')
        walk(node['first'])
        walk(node['second'])
    walk(FOXGLOVE['layout'])
    for name in [name for name in placed if name.startswith('Tab!')]:
        for tab in FOXGLOVE['configById'][name]['tabs']:
            walk(tab['layout'])
    assert sorted(placed) == sorted(FOXGLOVE['configById'])
    assert {name.partition('!')[0] for name in placed} == {
        'Plot', 'Table', 'RawMessages', 'DiagnosticSummary', 'Tab'}


def test_reasons_exist():
    """Counters that the layout picks by name are the program's."""
    from ipc_bypass.kernel.sources import bpf_source
    header = bpf_source('ipc_bypass_common.h').read_text()
    names = re.findall(r'name=="passed_(\w+)"', json.dumps(FOXGLOVE).replace('\\', ''))
    assert names
    for name in names:
        assert f'PASS_{name.upper()} =' in header
