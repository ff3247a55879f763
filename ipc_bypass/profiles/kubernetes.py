"""What Kubernetes needs: a DaemonSet of the node, and the profile as a ConfigMap for pods."""

from __future__ import annotations

from ipc_bypass.profiles.compose import CAPABILITIES
from ipc_bypass.profiles.folder import CONTAINER_FOLDER, RULES, RUNNER

FILE = 'kubernetes.yaml'
_HOST_FOLDERS = {'bpf': '/sys/fs/bpf', 'cgroup': '/sys/fs/cgroup', 'modules': '/lib/modules',
                 'sources': '/usr/src'}
_INDENT = ' ' * 4


def text(kind: str, files: dict[str, str]) -> str:
    """
    Return the manifests, for `kubectl apply -f`.

    :param kind: of KINDS
    :param files: what the pods find in the profile's folder, text by name
    """
    data = '\n'.join(f'  {name}: |\n{_indented(content)}' for name, content in files.items())
    mounts = '\n'.join(f'            - {{name: {name}, mountPath: {path}}}'
                       for name, path in _HOST_FOLDERS.items())
    volumes = '\n'.join(f'        - {{name: {name}, hostPath: {{path: {path}}}}}'
                        for name, path in _HOST_FOLDERS.items())
    return f"""# /ipc_bypass on every machine, and the {kind} profile for pods. A pod takes it by:
#   volumes:    [{{name: profile, configMap: {{name: ipc-bypass-{kind}}}}}]
#   volumeMounts: [{{name: profile, mountPath: {CONTAINER_FOLDER}}}]
#   command:    [/ros_entrypoint.sh, python3, {CONTAINER_FOLDER}/{RUNNER}, --, ros2, run, ...]
# A network that carries no multicast needs the peers: ipc-bypass profile {kind} --peer NAME
apiVersion: v1
kind: ConfigMap
metadata: {{name: ipc-bypass-{kind}}}
data:
{data}
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: ipc-bypass
  labels: {{app: ipc-bypass}}
spec:
  selector: {{matchLabels: {{app: ipc-bypass}}}}
  template:
    metadata: {{labels: {{app: ipc-bypass}}}}
    spec:
      hostNetwork: true
      hostPID: true
      dnsPolicy: ClusterFirstWithHostNet
      containers:
        - name: ipc-bypass
          image: ipc_bypass
          command: [ipc-bypass, up, --params-file, {CONTAINER_FOLDER}/{RULES}]
          securityContext:
            capabilities:
              drop: [ALL]
              add: [{', '.join(CAPABILITIES)}]
            appArmorProfile: {{type: Unconfined}}
          resources:
            requests: {{cpu: 50m, memory: 160Mi}}
            limits: {{memory: 512Mi}}
          volumeMounts:
            - {{name: profile, mountPath: {CONTAINER_FOLDER}}}
{mounts}
      volumes:
        - {{name: profile, configMap: {{name: ipc-bypass-{kind}}}}}
{volumes}
"""


def _indented(content: str) -> str:
    """Return a file's text as a block of YAML, without changing a character of it."""
    return ''.join(f'{_INDENT}{line}' if line.strip() else '\n'
                   for line in content.splitlines(keepends=True)).rstrip('\n')
