"""The services of the node xdp_helper."""

from ipc_bypass.kernel.errors import BypassError, CompileError, RuleError, VerifierError
from ipc_bypass.nodes.xdp_messages import (
    filter_message,
    interface_message,
    rule_message,
    setting_lines,
)
from ipc_bypass.xdp.request_error import RequestError
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


class XdpServices:
    """
    Answers ~/attach, ~/detach, ~/load_slot, ~/unload_slot, ~/get_status and those of the rules.

    Every answer has an error_code of its service's constants and a one-line error_msg. What comes
    by a service is not trusted: an own program has to be in the folder that the parameters give.

    :param node: the rclpy node that offers the services
    :param helper: called without arguments, returns the XdpHelper, None where there is none
    :param status: called without arguments, returns the XdpStatus message as it is now
    :param limits: XdpServiceLimits
    """

    def __init__(self, node, helper, status, limits):
        """Create the services on `node`."""
        self._logger, self._limits = node.get_logger(), limits
        self._helper, self._status = helper, status
        for service, name, answer in (
                (XdpAttach, 'attach', self._attach),
                (XdpDetach, 'detach', self._detach),
                (XdpLoadSlot, 'load_slot', self._load_slot),
                (XdpUnloadSlot, 'unload_slot', self._unload_slot),
                (XdpAddRule, 'add_rule', self._add_rule),
                (XdpRemoveRule, 'remove_rule', self._remove_rule),
                (XdpListRules, 'list_rules', self._list_rules),
                (XdpGetStatus, 'get_status', self._get_status)):
            node.create_service(service, f'~/{name}', self._guard(service, answer))

    def _guard(self, service, answer):
        """Return `answer` as a service callback that turns errors into codes."""
        codes = service.Response

        def refuse(response, code, text):
            response.error_code = code
            response.error_msg = ' '.join(text.split())
            return response

        def callback(request, response):
            helper = self._helper()
            if helper is None:
                return refuse(response, getattr(codes, 'NOT_CONFIGURED', None)
                              or codes.NOT_ACTIVE,
                              'the node is not configured: configure it first')
            try:
                answer(helper, request, response)
            except (RequestError, RuleError) as error:
                if error.rule_id and hasattr(response, 'rule_id'):
                    response.rule_id = error.rule_id
                return refuse(response, getattr(codes, error.code, codes.KERNEL_ERROR),
                              str(error))
            except (CompileError, VerifierError) as error:
                self._logger.debug(f'the full log\n{error.log}')
                return refuse(response, getattr(codes, 'REFUSED', codes.KERNEL_ERROR),
                              str(error))
            except BypassError as error:
                self._logger.error(str(error))
                return refuse(response, codes.KERNEL_ERROR, str(error))
            except Exception as error:  # a service must answer
                self._logger.error(f'a fault in ipc_bypass: {type(error).__name__}: {error}')
                return refuse(response, codes.KERNEL_ERROR, f'{type(error).__name__}: {error}')
            return response
        return callback

    def _check_interface(self, helper, request):
        self._limits.check_interface(request.interface,
                                     {each.name for each in helper.status().interfaces})

    def _attach(self, helper, request, response):
        self._check_interface(helper, request)
        response.interfaces = [interface_message(each) for each in helper.attach(
            request.interface, request.mode)]
        self._logger.info(f'attached to {_names(response.interfaces)}, as a service asked')

    def _detach(self, helper, request, response):
        self._check_interface(helper, request)
        response.interfaces = [interface_message(each)
                               for each in helper.detach(request.interface)]
        self._logger.info(f'detached from {_names(response.interfaces)}, as a service asked')

    def _load_slot(self, helper, request, response):
        self._check_interface(helper, request)
        response.program_ids = helper.load_slot(
            request.interface, request.slot, request.program, trusted=False)
        self._logger.info(f'slot {request.slot} has {request.program}, as a service asked')

    def _unload_slot(self, helper, request, _response):
        self._check_interface(helper, request)
        helper.unload_slot(request.interface, request.slot)
        self._logger.info(f'slot {request.slot} is empty, as a service asked')

    def _add_rule(self, helper, request, response):
        self._limits.check_rule(request.rule)
        response.rule_id = helper.add_rule(request.rule)

    def _remove_rule(self, helper, request, response):
        response.rule_id = helper.remove_rule(request.rule_id, request.rule, origin='service')

    @staticmethod
    def _list_rules(helper, _request, response):
        response.settings = setting_lines(helper.filter_settings())
        response.rules = [rule_message(rule) for rule in helper.rules()]
        response.filters = [filter_message(name, status)
                            for name, status in helper.filters().items()]

    def _get_status(self, _helper, _request, response):
        response.status = self._status()


def _names(interfaces):
    return ', '.join(interface.name for interface in interfaces) or 'no interface'
