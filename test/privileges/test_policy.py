"""The SROS2 policy: what a running node offers is in it, and nothing else is."""

from pathlib import Path
import time
import xml.etree.ElementTree as ElementTree

from ipc_bypass.nodes.privileges import USED
from node_tools import HelperProcess, NodeProcess
import pytest
from rclpy.node import NodeNameNonExistentError
from support.waiting import PATIENCE, wait_until

POLICY = Path(__file__).resolve().parents[2] / 'config' / 'sros2' / 'policy.xml'
#: Elements of the policy's format 0.2.0, their attributes and what is in them.
FORM = {
    'policy': ({'version'}, {'enclaves'}), 'enclaves': (set(), {'enclave'}),
    'enclave': ({'path'}, {'profiles'}), 'profiles': (set(), {'profile'}),
    'profile': ({'ns', 'node'}, {'topics', 'services'}),
    'topics': ({'publish', 'subscribe'}, {'topic'}),
    'services': ({'reply', 'request'}, {'service'}), 'topic': (set(), set()),
    'service': (set(), set())}
_PARAMETERS = {
    'ipc_bypass': {'tcp_path': 'loopback', 'pin_directory': '', 'pool_size': 1 << 20,
                   'udp_path': 'auto'},
    'xdp_helper': {'slots': [''] * 8, 'pin_directory': '', 'service_interfaces': [],
                   'service_filter_ports': ['domain:own']},
    'sockmap_helper': {'kernel_path': 'never', 'health_interval_s': 0.0,
                       'service_listen_ports': ['1024-65535']},
    'tun_bridge': {'prefixes': []}}


def fits(element):
    """Assert that an element and what is in it have the format's form."""
    attributes, inner = FORM[element.tag]
    assert set(element.attrib) <= attributes
    if element.tag in ('topics', 'services'):
        assert len(element.attrib) == 1 and set(element.attrib.values()) == {'ALLOW'}
    else:
        assert set(element.attrib) == attributes
    assert {child.tag for child in element} <= inner
    for child in element:
        fits(child)


@pytest.fixture(scope='module')
def policy():
    """Return {enclave: {(kind, 'publish' or other right): names}} as written."""
    root = ElementTree.parse(POLICY).getroot()
    fits(root)
    assert root.get('version') == '0.2.0'
    found = {}
    for enclave in root.iter('enclave'):
        rights = found.setdefault(enclave.get('path'), {})
        profile, = enclave.iter('profile')
        for expressions in profile:
            right, = expressions.attrib
            names = [each.text for each in expressions]
            assert len(names) == len(set(names))
            rights.setdefault(right, set()).update(names)
    return found


@pytest.fixture(scope='module')
def nodes(privileged, client, tmp_path_factory):
    """Yield the four nodes by name; all of them start at once."""
    folder = tmp_path_factory.mktemp('nodes')
    made = {}
    try:
        for name, parameters in _PARAMETERS.items():
            parameters = {'autostart': True, 'control_socket': str(folder / 'pool.sock'),
                          **parameters}
            if name == 'ipc_bypass':
                made[name] = NodeProcess(client, folder, parameters)
            else:
                made[name] = HelperProcess(client, folder, name, parameters,
                                           command=(f'ipc_bypass.nodes.{name}',))
        yield made
    finally:
        for node in made.values():
            node.__exit__()


def endpoints(client, node):
    """Return what a node has, in the form of `policy`; names of its own begin with '~'."""
    space, _, name = node.name.rpartition('/')

    def short(full):
        return f'~{full[len(node.name) + 1:]}' if full.startswith(f'{node.name}/') else full
    return {right: {short(full) for full, _types in find(name, space)} for right, find in (
        ('publish', client.node.get_publisher_names_and_types_by_node),
        ('subscribe', client.node.get_subscriber_names_and_types_by_node),
        ('reply', client.node.get_service_names_and_types_by_node),
        ('request', client.node.get_client_names_and_types_by_node))}


def test_every_node_has_a_profile(policy):
    assert {f'/{name}' for name in USED} < policy.keys()
    assert policy.keys() - {f'/{name}' for name in USED} == {
        '/ipc_bypass_observer', '/ipc_bypass_operator'}


@pytest.mark.parametrize('name', _PARAMETERS)
def test_what_a_node_has_is_what_it_may(client, nodes, policy, name):
    """Nothing in it is missing from the policy, and nothing of the policy is not there."""
    allowed = {right: names for right, names in policy[f'/{name}'].items() if names}

    def same():
        time.sleep(0.1)
        try:
            found = endpoints(client, nodes[name])
        except NodeNameNonExistentError:  # not discovered yet
            return False
        return {right: names for right, names in found.items() if names} == allowed
    try:
        wait_until(same, 'they are the same', 4 * PATIENCE)
    except AssertionError:
        assert endpoints(client, nodes[name]) == allowed, nodes[name].output()
        raise


def test_observers_ask_for_what_is_there_and_changes_nothing(policy):
    answered = {f'{path}/{name[1:]}' for path, rights in policy.items()
                for name in rights.get('reply', ())}
    published = {f'{path}/{name[1:]}' if name.startswith('~') else name
                 for path, rights in policy.items() for name in rights['publish']}
    for path in ('/ipc_bypass_observer', '/ipc_bypass_operator'):
        assert policy[path]['request'] <= answered
        assert policy[path]['subscribe'] <= published
    assert all(name.rpartition('/')[2].startswith(('list_', 'get_'))
               for name in policy['/ipc_bypass_observer']['request'])
