"""A process that has imported everything, and forks ranks on request: imports are paid once, not once a rank and run.

Started by `ranks.py`, which tells it over a socket what to run; nothing here imports the test suite.
"""

import faulthandler
import importlib.util
import os
import signal
import sys
from multiprocessing.connection import Client, Connection


def main(address: str) -> None:
    """Serve until the other side is gone."""
    import deepspeed  # noqa: F401
    import torch

    import mmalign.strategies
    import mmalign.training  # noqa: F401

    torch.set_num_threads(1)
    with Client(address) as connection:
        try:
            serve(connection)
        except EOFError:
            return


def serve(connection: Connection) -> None:
    """`("start", job)` answers with pids; `("poll", pids)` with the exit codes of those that have ended."""
    codes = dict[int, int]()
    while True:
        order, content = connection.recv()
        if order == "start":
            connection.send(start(**content))
            continue
        for pid in [pid for pid in content if pid not in codes]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        connection.send({pid: codes[pid] for pid in content if pid in codes})


def start(*, world_size, args, function, env, outputs, address, cwd) -> list[int]:
    """Fork the ranks into one process group of their own."""
    pids = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, pids[0] if pids else 0)
            become(rank, world_size, args, function, env, outputs[rank], address, cwd)
        os.setpgid(pid, pids[0] if pids else pid)
        pids.append(pid)
    return pids


def become(rank, world_size, args, function, env, output, port, cwd) -> None:
    """Be a rank as torchrun starts it, to the end."""
    code = 1
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.closerange(3, 64)
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        os.chdir(cwd)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(env)
        if world_size > 1:
            os.environ.update(torchrun_variables(rank, world_size, port))
        code = run(args, function)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(args, function) -> int:
    """A function of a test file, or the real command line."""
    if function is not None:
        path, name = function
        spec = importlib.util.spec_from_file_location("ranked", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["ranked"] = module
        spec.loader.exec_module(module)
        getattr(module, name)(*args)
        return 0
    from mmalign import cli

    sys.argv = ["mmalign", *args]
    cli.console()
    return 0


def torchrun_variables(rank, world_size, port) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "none",
    }


if __name__ == "__main__":
    main(sys.argv[1])
