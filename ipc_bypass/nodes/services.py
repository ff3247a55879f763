"""The services that change and list rules while the node runs."""

from ipc_bypass.kernel.errors import BypassError, RuleError
from ipc_bypass.nodes.conversions import rule_message
from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort


class RuleServices:
    """
    Answers ~/enroll_port, ~/withdraw_port, ~/list_rules and ~/enroll_domain.

    Every answer has an error_code of its service's constants and a one-line error_msg.

    :param node: the rclpy node that offers the services
    :param enrollment: the node's Enrollment
    :param is_configured: called without arguments, tells whether the node has a path
    :param is_active: the same, tells whether the path is attached
    """

    def __init__(self, node, enrollment, is_configured, is_active):
        """Create the services on `node`."""
        self._logger = node.get_logger()
        self._enrollment = enrollment
        self._is_configured = is_configured
        self._is_active = is_active
        for service, name, answer in (
                (EnrollPort, 'enroll_port', self._enroll_port),
                (WithdrawPort, 'withdraw_port', self._withdraw_port),
                (ListRules, 'list_rules', self._list_rules),
                (EnrollDomain, 'enroll_domain', self._enroll_domain)):
            node.create_service(service, f'~/{name}', self._guard(service, answer))

    def _guard(self, service, answer):
        """Return `answer` as a service callback that turns errors into codes."""
        def callback(request, response):
            if not self._is_configured():
                response.error_code = service.Response.NOT_CONFIGURED
                response.error_msg = 'the node is not configured: configure it first'
                return response
            try:
                answer(request, response)
            except RuleError as error:
                response.error_code = getattr(service.Response, error.code)
                response.error_msg = str(error)
                if error.rule_id and hasattr(response, 'rule_id'):
                    response.rule_id = error.rule_id
            except BypassError as error:
                response.error_code = service.Response.KERNEL_ERROR
                response.error_msg = str(error)
                self._logger.error(str(error))
            return response
        return callback

    def _enroll_port(self, request, response):
        rule = self._enrollment.enroll(
            request.transport, request.port_first, request.port_last, request.action)
        response.rule_id = rule.id
        self._logger.info(f'enrolled rule {rule.id}: {rule}')

    def _withdraw_port(self, request, response):
        rule = self._enrollment.withdraw(
            request.rule_id, request.transport, request.port_first, request.port_last)
        response.rule_id = rule.id
        self._logger.info(f'withdrew rule {rule.id}: {rule}')

    def _list_rules(self, request, response):
        response.rules = self._messages(self._enrollment.rules(request.transport))

    def _enroll_domain(self, request, response):
        rules = self._enrollment.enroll_domain(
            request.domain_id, request.participant_first, request.participant_last,
            udp=request.udp, udp_action=request.udp_action, tcp=request.tcp)
        response.rules = self._messages(rules)
        for rule in rules:
            self._logger.info(f'enrolled rule {rule.id} of {rule.origin}: {rule}')

    def _messages(self, rules):
        active = self._is_active()
        return [rule_message(rule, self._enrollment.obstacle(rule, active)) for rule in rules]
