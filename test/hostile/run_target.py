"""Fuzz one target with atheris (libFuzzer): `run_target.py NAME SECONDS FOLDER`."""

from pathlib import Path
import sys

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main():
    """Run until the time is over or an input fails; new inputs are kept in the folder."""
    name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    from isolation import isolate
    from mutations import inputs, load
    isolate()
    with atheris.instrument_imports(include=['ipc_bypass']):
        target = load(name)
    found = folder / 'found'
    found.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs(name)):
        (found / f'seed-{number}').write_bytes(data)
    atheris.Setup([
        sys.argv[0], f'-max_total_time={seconds}', f'-artifact_prefix={folder}/',
        '-print_final_stats=1', '-timeout=20', '-rss_limit_mb=3072',
        f"-max_len={getattr(target, 'LONGEST', 4096)}", str(found)], target.one)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
