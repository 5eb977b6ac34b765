"""Several processes on one CPU, as torchrun would start them, for the tests: each runs one function
and sends back what it returns.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import traceback

HEAVY = ["labkit.stages.ppo", "labkit.stages.sft", "peft", "trl.trainer.sft_trainer", "datasets"]
context = multiprocessing.get_context("forkserver")  # what is heavy is imported once
context.set_forkserver_preload(HEAVY)


def several(world: int, work, *args, seconds: float = 300) -> list:
    """[what work(*args) returns in each of `world` processes, by rank]: an exception where it
    raised one, None where it died. `work` is a function of a module.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = [context.Pipe(duplex=False) for _ in range(world)]
    started = [
        context.Process(target=one, args=(rank, world, port, end, work, args))
        for rank, (_, end) in enumerate(ends)
    ]
    for process in started:
        process.start()
    for _, end in ends:
        end.close()
    found = []
    for mine, _ in ends:
        with contextlib.suppress(EOFError):
            found.append(mine.recv() if mine.poll(seconds) else TimeoutError("it hangs"))
            continue
        found.append(None)
    for process in started:
        process.join(5)
        if process.is_alive():
            process.kill()
    return found


def one(rank, world, port, end, work, args):
    """A process: where torchrun says where it stands, it does its work and sends the result."""
    import torch

    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    if rank:
        sys.addaudithook(writes)
    try:
        end.send(work(*args))
    except BaseException as error:
        traceback.print_exc()
        end.send(type(error)(str(error)))
    os._exit(0)


def writes(event, given):
    """An audit hook that raises where anything is written or moved in the runs folder."""
    moves = ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree")
    written = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
    if (written or event in moves) and os.environ["LABKIT_RUNS"] in str(given[0]):
        raise AssertionError(f"rank {os.environ['RANK']} writes: {event} {given[0]}")
