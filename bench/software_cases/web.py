"""What speaks HTTP: nginx to curl and wrk, with TLS too, git, and WebSocket."""

from __future__ import annotations

import os
from pathlib import Path
import re
import sys
import time

from software_cases.place import Case, file_digest, Outcome, tree_digest, Wrong

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.{port}.pid;
error_log {folder}/nginx.{port}.log;
events {{ worker_connections 1024; }}
http {{ access_log off; client_max_body_size 1g; sendfile {sendfile};
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}{listen}; root {folder}; {server} }} }}
"""
_TLS = 'ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;'
_GIT = """
location ~ ^/git/ {{
  fastcgi_pass unix:{folder}/cgi.{port};
  fastcgi_param SCRIPT_FILENAME {backend};
  fastcgi_param GIT_PROJECT_ROOT {folder};
  fastcgi_param GIT_HTTP_EXPORT_ALL 1;
  fastcgi_param REMOTE_USER test;
  fastcgi_param PATH_INFO $uri;
  fastcgi_param QUERY_STRING $query_string;
  fastcgi_param REQUEST_METHOD $request_method;
  fastcgi_param CONTENT_TYPE $content_type;
  fastcgi_param CONTENT_LENGTH $content_length;
  fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
}}
"""


class _Nginx(Case):
    """A server of files, in one process."""

    listen, server, sendfile = '', '', 'on'

    def prepare(self):
        self._nginx = self.place.program('nginx', 'nginx-light')

    def serve(self, port):
        folder = self.place.folder
        config = folder / f'nginx.{port}.conf'
        config.write_text(_NGINX.format(
            folder=folder, port=port, listen=self.listen, sendfile=self.sendfile,
            server=self.server.format(folder=folder, port=port, **self.values())))
        self.place.start(self._nginx.path, '-p', folder, '-c', config, '-g', 'user root;',
                         environment=self._nginx.environment, port=port)

    def values(self):
        """Return what else the text `server` names."""
        return {}


class Wrk(_Nginx):
    """Many keep-alive connections to nginx: no socket error, no answer but 200."""

    name = 'wrk on nginx'
    _SIZE = 5000

    def measure(self, port):
        self.place.file('page', self._SIZE)
        seconds = 1 if self.place.quick else 4
        said = self.place.run('wrk', '-t', 1, '-c', 50, '-d', f'{seconds}s', '--latency',
                              f'http://127.0.0.1:{port}/page').decode()
        if 'Socket errors' in said or 'Non-2xx' in said:
            raise Wrong('run wrk', said.strip().splitlines()[-1])
        count = int(re.search(r'(\d+) requests in', said)[1])
        value, unit = re.search(r'50%\s+([\d.]+)(us|ms|s)', said).groups()
        scale = {'us': 1, 'ms': 1e3, 's': 1e6}[unit]
        return Outcome({'requests_per_s': float(re.search(r'Requests/sec:\s+([\d.]+)', said)[1]),
                        'p50_us': float(value) * scale},
                       least_bytes=self._SIZE * count, most_bytes=(self._SIZE + 1000) *
                       (count + 100))


class Curl(_Nginx):
    """A large file, by its hash; nginx sends it with sendfile(2)."""

    name, scheme = 'curl from nginx', 'http'

    def measure(self, port):
        path = self.place.file('large', (32 if self.place.quick else 512) << 20)
        size, target = path.stat().st_size, self.place.folder / f'got.{port}'
        began = time.monotonic()
        self.place.run('curl', '-sS', '--insecure', '--noproxy', '*', '--max-time', 60, '-o',
                       target, f'{self.scheme}://127.0.0.1:{port}/large')
        elapsed = time.monotonic() - began
        content = file_digest(target)
        if content != file_digest(path):
            raise Wrong('compare what curl got', 'it is not the file')
        return Outcome({'megabytes_per_s': size / 1e6 / elapsed}, content, size,
                       int(size * 1.02) + 20_000)


class CurlTls(Curl):
    """The same by TLS, in user space."""

    name, scheme, listen, server = 'curl from nginx, TLS', 'https', ' ssl', _TLS

    def prepare(self):
        super().prepare()
        self.place.run('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
                       'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=localhost',
                       '-days', 2, '-keyout', self.place.folder / 'key.pem', '-out',
                       self.place.folder / 'cert.pem')


class Git(_Nginx):
    """Clone, push, fetch and fsck through git-http-backend behind nginx."""

    name, server = 'git over HTTP', _GIT

    def prepare(self):
        super().prepare()
        self._wrap = self.place.program('fcgiwrap', 'fcgiwrap')
        self._environment = {
            **{name: value for name, value in os.environ.items()
               if not name.lower().endswith('_proxy') and not name.startswith('GIT_')},
            'HOME': str(self.place.folder), 'GIT_CONFIG_NOSYSTEM': '1',
            'GIT_AUTHOR_NAME': 'a', 'GIT_AUTHOR_EMAIL': 'a@localhost',
            'GIT_COMMITTER_NAME': 'a', 'GIT_COMMITTER_EMAIL': 'a@localhost',
            'GIT_TERMINAL_PROMPT': '0'}
        # The server's process is root's; the repository has to be, too.
        self._git('config', '--global', 'safe.directory', '*')
        self._git('config', '--global', 'init.defaultBranch', 'main')
        self._source = self.place.folder / 'source'
        self._git('init', '-q', self._source)
        for number in range(2 if self.place.quick else 40):
            (self._source / f'file{number}').write_bytes(os.urandom(200_000))
            self._commit(self._source, f'commit {number}')

    def values(self):
        folder = Path(self._git('--exec-path').decode().strip())
        return {'backend': folder / 'git-http-backend'}

    def serve(self, port):
        repository = self.place.folder / 'git' / f'{port}.git'
        self._git('clone', '-q', '--bare', self._source, repository)
        self._git('-C', repository, 'config', 'http.receivepack', 'true')
        self.place.start(self._wrap.path, '-s', f'unix:{self.place.folder}/cgi.{port}',
                         environment={**self._wrap.environment, **self._environment,
                                      'LD_LIBRARY_PATH':
                                      self._wrap.environment['LD_LIBRARY_PATH']})
        super().serve(port)

    def measure(self, port):
        url = f'http://127.0.0.1:{port}/git/{port}.git'
        one, two = (self.place.folder / f'{name}.{os.urandom(4).hex()}' for name in ('a', 'b'))
        began = time.monotonic()
        self._git('clone', '-q', url, one)
        self._git('clone', '-q', url, two)
        (one / 'new').write_bytes(os.urandom(3 << 20))  # more than a buffer: sent in chunks
        self._commit(one, 'new')
        self._git('-C', one, 'push', '-q', 'origin', 'HEAD')
        self._git('-C', two, 'pull', '-q', '--ff-only')
        elapsed = time.monotonic() - began
        repository = self.place.folder / 'git' / f'{port}.git'
        for place in (one, two, repository):
            self._git('-C', place, 'fsck', '--full', '--strict')
        heads = {self._git('-C', place, 'rev-parse', 'HEAD') for place in (one, two, repository)}
        if len(heads) != 1 or tree_digest(one) != tree_digest(two):
            raise Wrong('compare the clones', f'heads {heads}')
        for place in (one, two):
            (place / 'new').unlink()
        size = sum(path.stat().st_size for path in self._source.glob('file*'))
        return Outcome({'elapsed_us': 1e6 * elapsed},
                       [tree_digest(place) for place in (one, two, self._source)],
                       least_bytes=2 * size + 2 * (3 << 20))

    def _commit(self, folder, text):
        self._git('-C', folder, 'add', '-A')
        self._git('-C', folder, 'commit', '-q', '-m', text)

    def _git(self, *arguments):
        return self.place.run('git', *arguments, environment=self._environment)


class WebSocket(Case):
    """As rosbridge: JSON and binary, in fragments, compressed or not, pings, a proper close."""

    name = 'WebSocket'
    _PEER = Path(__file__).with_name('websocket_peer.py')

    def serve(self, port):
        self.place.start(sys.executable, self._PEER, 'serve', port, port=port)

    def measure(self, port):
        rounds = 20 if self.place.quick else 200
        size, content, median = self.place.run(
            sys.executable, self._PEER, 'talk', port, rounds).decode().split()
        return Outcome({'p50_us': float(median)}, content, int(size))


CASES = (Wrk, Curl, CurlTls, Git, WebSocket)
