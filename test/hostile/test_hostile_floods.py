"""Small floods of connections at enrolled ports; `scripts/fuzz --floods` has the long form."""

import json


def test_floods(run_script):
    """Maps and memory are bounded, what is left out is counted, and bystanders go on."""
    code, said, errors = run_script('flood_lab.py', 600, 400, 500, 128)
    assert code == 0, errors[-4000:]
    steps = {step['flood']: step for step in map(json.loads, said.splitlines())}
    assert set(steps) == {'port scan', 'SYN flood', 'connections', 'churn'}
    assert steps['connections']['flows'] <= 2 * 128
    assert steps['connections']['left_out_table_full'] > 600
    # The scan may be over before a bystander's next round trip.
    assert all(all(step['ratios']) for name, step in steps.items() if name != 'port scan')
