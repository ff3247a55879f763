"""What the files of profiles say, and that those who write and read them agree."""

import json
import os
from pathlib import Path
import stat
import subprocess
import xml.etree.ElementTree as ElementTree

from hypothesis import given, strategies
from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.profiles import containers, folder, kinds, run_with_port
from ipc_bypass.profiles.settings import (
    buffer_advice,
    domain_of_environment,
    ProfileError,
    Settings,
    settings,
)
from ipc_bypass.rules.rtps import LAST_DOMAIN, tcp_ports
from ipc_bypass.rules.table import parse
import pytest
import yaml

KINDS = sorted(kinds.KINDS)


@given(domain=strategies.integers(0, LAST_DOMAIN))
def test_ports_of_a_domain_are_its_own(domain):
    ports = settings(domain).ports
    first, last = tcp_ports(domain)
    assert first <= ports[0] <= ports[-1] <= last
    assert len(ports) > 100


@pytest.mark.parametrize('text', ['x', '1-', '0-5', '9-1', '1-65536', '1-2-3', '-1'])
def test_refuses_ports(text):
    with pytest.raises(ProfileError, match='FIRST-LAST'):
        settings(0, ports=text)


@pytest.mark.parametrize('peer', ['', 'a b', '"', 'a<b', 'x' * 300, '-a', 'a/b', "'", '${X}'])
def test_refuses_peers(peer):
    with pytest.raises(ProfileError, match='no host name and no address'):
        settings(0, peers=(peer,))


@pytest.mark.parametrize('address', ['lo', '::1', '1.2.3', '1.2.3.4/8'])
def test_refuses_addresses(address):
    with pytest.raises(ProfileError, match='no IPv4 address'):
        settings(0, address=address)


def test_domain_of_the_environment(monkeypatch):
    for text, domain in (('', 0), ('7', 7)):
        monkeypatch.setenv('ROS_DOMAIN_ID', text)
        assert domain_of_environment() == domain
    for text in ('x', '-1', str(LAST_DOMAIN + 1), '1.5'):
        monkeypatch.setenv('ROS_DOMAIN_ID', text)
        with pytest.raises(ProfileError, match='ROS_DOMAIN_ID'):
            domain_of_environment()


def test_refuses_domains():
    with pytest.raises(RuleError):
        settings(LAST_DOMAIN + 1)


@pytest.mark.parametrize('kind', KINDS)
def test_writes_what_is_needed(kind, written):
    result = written(kind, ports='7500-7510')
    assert {path.name for path in result.folder.iterdir()} == set(result.files)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in result.folder.iterdir())
    description = json.loads((result.folder / run_with_port.DESCRIPTION).read_text())
    assert description['ports'] == [7500, 7510]
    rules = yaml.safe_load((result.folder / folder.RULES).read_text())['/**']['ros__parameters']
    rule = parse(rules['rules'][0])
    assert (rule.port_first, rule.port_last, rule.action) == (7500, 7510, 'accelerate')


@pytest.mark.parametrize('options', [
    {}, {'shared_memory': True}, {'udp_peers': True}, {'address': '127.0.0.1'},
    {'peers': ('robot-2', '192.0.2.7')}])
def test_fast_dds_xml(options):
    namespace = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    text = kinds.text('fastdds', settings(0, **options))
    assert '\n\n' not in text
    root = ElementTree.fromstring(text)
    locators = [locator[0].tag.removeprefix(namespace) for locator in root.findall(
        f'.//{namespace}defaultUnicastLocatorList/{namespace}locator')]
    # Data by one transport: a second one would carry all of it again.
    expected = ['tcpv4'] if not options.get('udp_peers') else ['tcpv4', 'udpv4']
    assert locators == ([] if options.get('shared_memory') else expected)
    transports = [element.text for element in root.findall(
        f'.//{namespace}userTransports/{namespace}transport_id')]
    assert ('ipc_bypass_shm' in transports) == bool(options.get('shared_memory'))
    named = [element.text for element in root.findall(f'.//{namespace}initialPeersList//'
                                                      f'{namespace}address')]
    assert set(named) >= set(options.get('peers', ()))


def test_cyclone_tries_each_port_of_each_peer():
    wanted = settings(0, ports='7500-7502', peers=('robot-2',))
    root = ElementTree.fromstring(kinds.text('cyclonedds', wanted))
    namespace = '{https://cdds.io/config}'
    assert [peer.get('address') for peer in root.iter(f'{namespace}Peer')] == [
        f'{host}:{port}' for host in ('127.0.0.1', 'robot-2') for port in (7500, 7501, 7502)]


def test_zenoh_reads_its_profile(written):
    zenoh = pytest.importorskip('zenoh', reason='needs eclipse-zenoh')
    config = zenoh.Config.from_file(str(written('zenoh').file))
    assert json.loads(config.get_json('listen/endpoints')) == ['tcp/0.0.0.0:0']
    assert json.loads(config.get_json('transport/shared_memory/enabled')) is False


@pytest.mark.parametrize('kind', KINDS)
def test_containers(kind, tmp_path):
    result = containers.write(kind, settings(7), tmp_path)
    services = yaml.safe_load((tmp_path / 'compose.yaml').read_text())['services']
    assert set(services) == {'node', 'talker', 'listener', 'ipc_bypass'}
    assert services['node']['env_file'] == [folder.ENVIRONMENT]
    environment = dict(line.split('=', 1) for line in
                       (tmp_path / folder.ENVIRONMENT).read_text().splitlines())
    assert any(value.endswith(f'{folder.CONTAINER_FOLDER}/{result.file.name}')
               for value in environment.values())
    config, daemon_set = yaml.safe_load_all((tmp_path / 'kubernetes.yaml').read_text())
    # A pod finds what stands in the folder, character for character.
    for name, text in config['data'].items():
        assert text.rstrip('\n') == (tmp_path / name).read_text().rstrip('\n')
    assert daemon_set['kind'] == 'DaemonSet'
    if kind == 'cyclonedds':
        assert services['talker']['networks']['graph']['ipv4_address'] in result.file.read_text()


def test_a_reader_never_sees_half_a_file(written):
    before = written('fastdds').file
    held = before.open()
    again = written('fastdds', ports='7600-7610')
    assert held.read() == before.read_text()
    held.close()
    assert not [path for path in again.folder.iterdir() if path.name.startswith('.')]


def test_says_where_it_cannot_write():
    with pytest.raises(ProfileError, match='--output'):
        folder.write('fastdds', settings(0), Path('/proc/nowhere'))


def test_exports_can_be_evaluated(tmp_path):
    path = tmp_path / "it's here" / 'f.xml'
    lines = folder.exports('fastdds', str(path))
    done = subprocess.run(['sh', '-c', lines + 'echo "$FASTDDS_DEFAULT_PROFILES_FILE"'],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)


def test_small_buffers_have_advice():
    assert buffer_advice(Settings(buffer_bytes=212992)).startswith('sysctl -w net.core.wmem_max=')
    assert not buffer_advice(Settings())


def test_kind_of_rmw():
    assert [kinds.kind_of_rmw(name) for name in (
        'rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp', 'rmw_cyclonedds_cpp', 'rmw_zenoh_cpp',
        'rmw_connextdds')] == ['fastdds', 'fastdds', 'cyclonedds', 'zenoh', '']


def test_where_profiles_go(monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    monkeypatch.setenv('XDG_CONFIG_HOME', '/home/somebody/.config')
    assert folder.default_folder('zenoh', 3) == Path(
        '/home/somebody/.config/ipc_bypass/profiles/zenoh-3')
