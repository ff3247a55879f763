import os
from pathlib import Path
import sys

from setuptools import find_packages, setup
from setuptools.command.egg_info import egg_info

PACKAGE = 'ipc_bypass'
INTERFACES = 'ipc_bypass_interfaces'
SOURCE = Path(__file__).resolve().parent


def require_interfaces():
    """
    Stop the build where the interface package can be found nowhere.

    colcon does not look for packages inside a package, so a plain `colcon build` skips the
    interfaces without a word, and the fault would first show when the node starts.
    """
    # colcon sets sys.prefix to where this package goes, which is beside an earlier build.
    here = Path(sys.prefix)
    prefixes = [here, here.parent / INTERFACES]
    for variable in ('AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'CMAKE_PREFIX_PATH'):
        for entry in filter(None, os.environ.get(variable, '').split(os.pathsep)):
            prefixes += [Path(entry), Path(entry) / INTERFACES]
    marker = Path('share/ament_index/resource_index/packages') / INTERFACES
    if any((prefix / marker).is_file() for prefix in prefixes):
        return
    # The folder as seen from where colcon runs: install/ is there, merged or not.
    workspace = next(
        (install.parent for install in (here, here.parent)
         if (install / '.colcon_install_layout').is_file()), SOURCE)
    folder = os.path.relpath(SOURCE / INTERFACES, workspace)
    sys.exit(
        f'{INTERFACES} was not found, since colcon does not look inside a package. Name it: '
        f'colcon build --base-paths . {folder}')


class EggInfo(egg_info):
    """The first step of every kind of build, with --symlink-install or without."""

    def run(self):
        require_interfaces()
        super().run()


def shared_files(*folders):
    """Return data_files that put each folder, as it is, under share/ipc_bypass."""
    found = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob('*')):
            hidden = any(part.startswith(('.', '__')) for part in path.parts)
            if path.is_file() and not hidden:
                found.setdefault(f'share/{PACKAGE}/{path.parent}', []).append(str(path))
    return list(found.items())


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        # lib/ipc_bypass, where ros2 run looks, is on nobody's PATH; bin is.
        ('bin', ['scripts/lib/ipc-bypass']),
        *shared_files('bench', 'bpf', 'config', 'launch', 'prebuilt', 'systemd'),
    ],
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=True,
    maintainer='ipc_bypass maintainers',
    maintainer_email='maintainers@ipc-bypass.invalid',
    description='A shorter way through the kernel for the local traffic of a DDS graph',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'bypass_node = ipc_bypass.nodes.bypass_node:main',
            'demo_listener = ipc_bypass.nodes.demo_listener:main',
            'demo_talker = ipc_bypass.nodes.demo_talker:main',
            'ipc-bypass = ipc_bypass.cli.main:main',
            'sockmap_helper = ipc_bypass.nodes.sockmap_helper:main',
            'tun_bridge = ipc_bypass.nodes.tun_bridge:main',
            'xdp_helper = ipc_bypass.nodes.xdp_helper:main',
        ],
        'ros2doctor.checks': ['IpcBypassGraphCheck = ipc_bypass.graph.ros2doctor:GraphCheck'],
        'ros2doctor.report': ['IpcBypassGraphReport = ipc_bypass.graph.ros2doctor:GraphReport'],
    },
    cmdclass={'egg_info': EggInfo},
)
