"""The rules of a running node: which port of a flow a rule enrolled, and how to change them."""

from ipc_bypass_interfaces.srv import EnrollPort, ListRules, WithdrawPort

#: Seconds between two questions for the rules, and for how long an answer is waited for.
_ASK_EVERY, _PATIENCE = 5.0, 3.0


class Rules:
    """
    What a node has enrolled, as it answers without anybody waiting.

    :param node: of rclpy, whose executor runs elsewhere
    :param name: full name of the node that is asked
    :param clock: seconds that never go back
    """

    def __init__(self, node, name, clock):
        """Make the clients; nothing is asked yet."""
        self._list = node.create_client(ListRules, f'{name}/list_rules')
        self._enroll = node.create_client(EnrollPort, f'{name}/enroll_port')
        self._withdraw = node.create_client(WithdrawPort, f'{name}/withdraw_port')
        self._clock, self._answer, self._asked = clock, None, None
        self.by_id = {}

    def refresh(self, at_once=False):
        """Ask again where it is time to; what is known stays until the answer is there."""
        now = self._clock()
        waits = self._answer is not None and now - self._asked < _PATIENCE
        due = at_once or self._asked is None or now - self._asked >= _ASK_EVERY
        if waits or not due or not self._list.service_is_ready():
            return
        if self._answer is not None:
            self._list.remove_pending_request(self._answer)
        self._asked, self._answer = now, self._list.call_async(ListRules.Request())
        self._answer.add_done_callback(self._take)

    def _take(self, answer):
        if answer is self._answer:
            self._answer = None
        if not answer.cancelled() and answer.exception() is None:
            self.by_id = {rule.id: rule for rule in answer.result().rules}

    def port_of(self, flow):
        """Return the port of a Flow message that its rule covers, else its lower one."""
        rule = self.by_id.get(flow.rule_id)
        ports = sorted((flow.local_port, flow.remote_port))
        if rule is not None:
            ports = [port for port in ports
                     if rule.port_first <= port <= rule.port_last] or ports
        return ports[0]

    def enroll(self, port, done):
        """Enroll a TCP port; `done` is called with a line of text later."""
        self._change(self._enroll, EnrollPort.Request(transport='tcp', port_first=port),
                     f'port {port} is enrolled', done)

    def withdraw(self, rule_id, done):
        """Withdraw a rule; `done` is called with a line of text later."""
        self._change(self._withdraw, WithdrawPort.Request(rule_id=rule_id),
                     f'rule {rule_id} is withdrawn', done)

    def _change(self, client, request, text, done):
        if not client.service_is_ready():
            done('the node does not answer')
            return

        def take(answer):
            if answer.cancelled() or answer.exception() is not None:
                done('the node did not answer')
                return
            result = answer.result()
            done(f'refused: {result.error_msg}' if result.error_code else text)
            self.refresh(at_once=True)
        client.call_async(request).add_done_callback(take)
