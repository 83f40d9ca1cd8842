#!/usr/bin/env python3
"""Runs random sequences of steps against a scratch server and the model.

After each step the database must be what the model says.  Prints TAP, one
test for each hundred sequences, and of a sequence that fails the seed, the
steps as SQL, and what differs.

    run.py [--sequences N] [--seed S] [--jobs J] [--failures F] [--with SWITCH]

Needs initdb, pg_ctl and psql on the path, of an installation that has uds.
Each sequence has a seed of its own, S, S + 1 and so on, so "--seed 17
--sequences 1" runs the one that was reported as seed 17 again.  SEQUENCES,
SEED and JOBS in the environment do the same.
"""

import argparse
import multiprocessing
import os
import sys

from database import Database, Directory, Server
from play import Play
from sequence import SWITCHES, Maker

PER_TEST = 100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sequences", type=int, default=int(os.environ.get("SEQUENCES") or 1000))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or 1))
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 2))
    parser.add_argument("--failures", type=int, default=3, help="stop after so many")
    parser.add_argument("--with", dest="switches", action="append", default=[],
                        choices=sorted(SWITCHES), help="something that is left out else")
    parser.add_argument("--socket", help="a running server, instead of one of its own")
    return parser.parse_args()


def work(number, options, socket, jobs, results):
    """One process: every jobs-th sequence, in a database of its own."""
    switches = dict(SWITCHES, **dict.fromkeys(options.switches, True))
    directory = Directory()
    database = Database(socket, directory)
    last = options.seed + options.sequences
    try:
        for seed in range(options.seed + number, last, jobs):
            maker = Maker(seed, switches)
            play = Play(database, maker.sources(), switches)
            results.put((seed, play.report(seed, maker.steps())))
    except Exception as error:          # the parent waits for a word
        results.put((None, "process %d: %r\nafter\n%s" % (number, error, database.log())))
        raise
    finally:
        database.close()
        directory.close()
    results.put((None, None))


class Tap:
    """A test for each hundred sequences, as they come."""

    def __init__(self, options):
        self.options = options
        self.reports = []               # of the present hundred
        self.done = self.tests = self.failures = 0

    def add(self, report):
        self.done += 1
        if report:
            self.failures += 1
            self.reports.append(report)
        if self.done % PER_TEST == 0 or self.done == self.options.sequences:
            self.tell()

    def tell(self):
        self.tests += 1
        print("%sok %d - %d sequences from seed %d" % (
            "not " if self.reports else "", self.tests, self.done, self.options.seed))
        for report in self.reports:
            print("# " + report.replace("\n", "\n# "))
        sys.stdout.flush()
        self.reports = []

    def collect(self, results, jobs):
        """Until all processes are done, or enough has failed."""
        while jobs and self.failures < self.options.failures:
            seed, report = results.get()
            if seed is not None:
                self.add(report)
                continue
            jobs -= 1
            if report:
                self.failures += 1
                self.reports.append(report)
                break
        if self.reports:
            self.tell()
        print("1..%d" % self.tests)


def main():
    options = arguments()
    jobs = min(options.jobs, options.sequences)
    server = None if options.socket else Server()
    socket = options.socket or server.socket
    results = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=work, args=(i, options, socket, jobs, results),
                                       daemon=True) for i in range(jobs)]
    tap = Tap(options)
    try:
        for worker in workers:
            worker.start()
        tap.collect(results, jobs)
    finally:
        for worker in workers:
            worker.terminate()
        if server:
            server.stop()
    return 1 if tap.failures else 0


if __name__ == "__main__":
    sys.exit(main())
