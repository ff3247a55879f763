"""
The node xdp_helper with its work in another network namespace: `-m xdp_node_process PATH`.

Its DDS is made before this process enters the namespace, and so stays where the tests' is: Fast
DDS looks for a host's addresses once a process, which can then not talk in two namespaces.
"""

import sys

from ipc_bypass.kernel.namespaces import enter
from ipc_bypass.nodes.lifecycle import serve
from ipc_bypass.nodes.xdp_helper import XdpHelperNode


class Inside(XdpHelperNode):
    """The node; the thread that serves it, and those that it starts, are in the namespace."""

    def take_privileges(self, privileges):
        """Enter the namespace, once DDS is there."""
        enter(sys.argv[1])
        super().take_privileges(privileges)


if __name__ == '__main__':
    sys.exit(serve(Inside, program='xdp_helper'))
