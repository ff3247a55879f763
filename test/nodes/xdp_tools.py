"""The node xdp_helper as a process, and the namespaces that it serves."""

from contextlib import contextmanager
import os
from pathlib import Path

from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import XdpStatus
from ipc_bypass_interfaces.srv import (
    XdpAddRule,
    XdpAttach,
    XdpDetach,
    XdpGetStatus,
    XdpListRules,
    XdpLoadSlot,
    XdpRemoveRule,
    XdpUnloadSlot,
)
from node_tools import HelperProcess
from support.leaks import PIN_PREFIX
from support.xdp import veth_lab

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / 'config' / 'xdp_helper.yaml'
SERVICES = {'attach': XdpAttach, 'detach': XdpDetach, 'load_slot': XdpLoadSlot,
            'unload_slot': XdpUnloadSlot, 'add_rule': XdpAddRule, 'remove_rule': XdpRemoveRule,
            'list_rules': XdpListRules, 'get_status': XdpGetStatus}


class XdpProcess(HelperProcess):
    """The node as a process that serves the namespace `space` (None: ours), without any slot."""

    services = SERVICES

    def __init__(self, client, folder, space, pins, *, before=(), **parameters):
        """Start it; `before` are words before the command, as those of setpriv."""
        super().__init__(
            client, folder, 'xdp_helper',
            {'pin_directory': pins, 'slots': [''] * 8, **parameters},
            command=('xdp_node_process', f'/run/netns/{space.name}') if space
            else ('ipc_bypass.nodes.xdp_helper',), prefix=before,
            environment={'PYTHONPATH': os.pathsep.join(
                [str(HERE), *filter(None, [os.environ.get('PYTHONPATH')])])})

    def status(self):
        """Return the list that its ~/status are added to."""
        return self.client.listen(XdpStatus, f'{self.name}/status', LATCHED)

    def look(self):
        """Return {interface's name: XdpInterface} as they are now."""
        answer = self.ask('get_status')
        assert answer.error_code == 0, answer.error_msg
        return {interface.name: interface for interface in answer.status.interfaces}


def inside_namespace(space):
    """Return the words before a command that have it run in a network namespace."""
    return 'nsenter', f'--net=/run/netns/{space.name}'


@contextmanager
def lab(client):
    """Yield (near, far, client, pins); near0 in near is what the node gets."""
    with veth_lab() as (near, far):
        yield near, far, client, f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_x'
