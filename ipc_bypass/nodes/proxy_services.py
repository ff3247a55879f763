"""The services ~/add_forward, ~/remove_forward and ~/list_forwards of the node sockmap_helper."""

from dataclasses import replace
import ipaddress

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.proxy_messages import connection_message, forward_message
from ipc_bypass.proxy.endpoint import Endpoint, plain_address
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass_interfaces.srv import AddForward, ListForwards, RemoveForward


class ProxyServices:
    """
    Answers the services; every answer has an error_code and a one-line error_msg.

    :param node: the rclpy node that offers them
    :param helper: called without arguments, returns the ProxyHelper, None where there is none
    :param networks: what forwards of services may connect to
    :param ports: inclusive port ranges at which they may listen
    """

    def __init__(self, node, helper, networks, ports):
        """Create the services on `node`."""
        self._logger, self._helper = node.get_logger(), helper
        self._networks, self._ports = networks, ports
        for service, name, answer in ((AddForward, 'add_forward', self._add),
                                      (RemoveForward, 'remove_forward', self._remove),
                                      (ListForwards, 'list_forwards', self._list)):
            node.create_service(service, f'~/{name}', self._guard(service.Response, answer))

    def _guard(self, codes, answer):
        """Return `answer` as a service callback that turns errors into codes."""
        def callback(request, response):
            helper = self._helper()
            code, text = 0, ''
            if helper is None:
                code = codes.NOT_CONFIGURED
                text = 'the node is not configured: configure it first'
            else:
                try:
                    answer(helper, request, response)
                except ForwardError as error:
                    # Another forward's address is as taken as another process's.
                    name = {'ALREADY_FORWARDED': 'ADDRESS_IN_USE'}.get(error.code, error.code)
                    code, text = getattr(codes, name, codes.KERNEL_ERROR), str(error)
                except BypassError as error:
                    code, text = codes.KERNEL_ERROR, str(error)
                except Exception as error:  # a service must answer
                    self._logger.error(f'a fault in ipc_bypass: {type(error).__name__}: {error}')
                    code, text = codes.KERNEL_ERROR, f'{type(error).__name__}: {error}'
            response.error_code, response.error_msg = code, ' '.join(text.split())
            return response
        return callback

    def _add(self, helper, request, response):
        forward = helper.settings.defaults()
        changes = {'listen': Endpoint.parse(request.listen),
                   'backend': Endpoint.parse(request.backend),
                   'proxy_protocol': request.proxy_protocol or forward.proxy_protocol}
        for name in ('path', 'idle_timeout_s', 'connect_timeout_s', 'max_connections'):
            value = getattr(request, name)
            if value:
                changes[name] = max(value, 0.0) if name == 'idle_timeout_s' else value
        forward = replace(forward, **changes).check()
        # What was checked is what it connects to: the name is not looked up again.
        response.forward_id = helper.add(forward, self._allowed(forward))
        self._logger.info(f'forward {response.forward_id}: {forward}, as a service asked')

    def _remove(self, helper, request, _response):
        if not self._networks:
            raise _forbidden('remove a forward')
        # What the configuration forwards is not the graph's to take over.
        forward = helper.remove(request.forward_id, request.close_connections, 'service')
        self._logger.info(f'no longer forward {request.forward_id}: {forward}, as a service asked')

    @staticmethod
    def _list(helper, request, response):
        response.forwards = [forward_message(each) for each in helper.report().forwards
                             if request.forward_id in (0, each.id)]
        if request.connections:
            response.connections = [connection_message(each) for each in helper.connections(
                request.forward_id, request.connections)]

    def _allowed(self, forward):
        """Return the addresses of a backend that services may name; raises ForwardError."""
        if not self._networks:
            raise _forbidden('add a forward')
        port = forward.listen.port
        if not any(first <= port <= last for first, last in self._ports):
            raise ForwardError(f'listen at port {port}', 'services may not', code='NOT_ALLOWED',
                               next_step='add it to the parameter service_listen_ports')
        targets = forward.backend.resolve()
        for target in targets:
            address = ipaddress.ip_address(plain_address(target.host))
            if not any(address in network for network in self._networks):
                raise ForwardError(f'forward to {address}', 'services may not connect there',
                                   code='NOT_ALLOWED',
                                   next_step='add its prefix to the parameter service_backends')
        return targets


def _forbidden(what):
    return ForwardError(what, 'services change nothing here', code='NOT_ALLOWED',
                        next_step='set the parameter service_backends')
