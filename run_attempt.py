"""The program that runs one attempt of a task: `run_attempt.py SEQ ATTEMPT HOLDER`.

attempt_process.py starts it, with the number of the task and what its lease is known by. An exit
code other than 0 says that the attempt was not begun.
"""

import logging
import os
import signal
import sys
from contextlib import suppress
from functools import partial

from flask import Flask

import config
import database
import services
import task_queue
from app import create_app
from leases import LeaseLost
from worker import Pool

ENDING = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run the attempt; SIGTERM or SIGINT has it put the task back in the queue."""
    keep_to_one_processor()
    logging.disable(logging.WARNING)  # the service has told what is doubtful about its settings
    app = create_app()
    logging.disable(logging.NOTSET)
    pool = services.get(Pool, app)

    def end(*_: object) -> None:
        for number in ENDING:  # a second signal must not wait in `set` for the first
            signal.signal(number, lambda *_: None)
        pool.stopping.set()

    for number in ENDING:
        signal.signal(number, end)
    check_schema(app)
    # By the loop of the service's own threads: a fault of ours is logged, and the lease runs out.
    pool.run(partial(run, app, pool), sys.exit)


def keep_to_one_processor() -> None:
    """Leave the other processors to requests, which else wait for one for some milliseconds.

    Little is lost: the work evaluates and writes in turns. Its evaluations keep to the same one.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def check_schema(app: Flask) -> None:
    """Raise SystemExit where this code has another schema than the service that has begun it."""
    with app.app_context():
        state = database.state()
    if database.OTHER in state:
        config.refuse_start(state)


def run(app: Flask, pool: Pool) -> bool:
    """Carry out the task whose lease was handed over; return False, as there is no other one."""
    seq, attempt, holder = sys.argv[1:]
    with app.app_context(), suppress(LeaseLost):
        pool.carry_out(task_queue.taken_over(int(seq), int(attempt), holder))
    return False


if __name__ == "__main__":  # pragma: no branch - it is a program
    main()
