"""Many clients over HTTP at a time, good and bad ones, on one thread.

    clients.py slow --port P [--kinds silent,headers,body] [--count N] [--addresses N]
    clients.py idle --port P [--count N] [--addresses N] [--path PATH]
    clients.py push --port P --outcomes FILE [--connections N] [--first N] [--pushes N] [--people N]
        [--records N] [--announce N]

The key is in the environment, UDS_KEY.  Connections go to 127.0.0.1, and come
from 127.0.1.1 up to 127.0.1.ADDRESSES.  The output is one line per event: a
word, or a word and what there is to say of it, as JSON.  All end when their
input does, slow and idle ones also when the server has closed every connection,
pushes when all have been tried or every connection is broken.

slow: connects, sends the beginning of a request ("silent": nothing at all) and
then a byte per second.  "open" says how many connections there are, "end" how
they ended: closed by the server, reset, and which answers they got; and how
long the shortest lasted, in seconds.

idle: one good request, and then nothing on a connection that is kept alive;
"answered" comes when all have their reply, else as slow.

push: keep-alive connections that push people as fast as they are answered, each
person by uid, push n those from n * records up to the next, modulo people; the
first is push --first.  "some" comes after --announce successes, "end" when it
is over.  The file has a line for each push: its number, and the status that it
was answered with, or "broken" if the connection ended before it was.  A
connection that broke is not opened again.
"""

import argparse
import asyncio
import collections
import json
import os
import resource
import sys
import time

PATH = "/api/userData:push"
LARGE = 200_000
key = os.environ.get("UDS_KEY", "")


def say(event, **details):
    print(event, json.dumps(details), flush=True)


def head(method, path, *headers):
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: 127.0.0.1", *headers]
    return ("\r\n".join(lines) + "\r\n").encode()


def post(length):
    return head("POST", PATH, "Authorization: Bearer " + key, "Content-Type: application/json",
                "Content-Length: %d" % length) + b"\r\n"


# What a slow client sends at once; after that it goes on byte by byte.
BEGINNINGS = {
    "silent": b"",
    "headers": head("POST", PATH) + b"X-Slow: ",
    "body": post(1000) + b'{"dataType":"user",',
    "large": post(LARGE) + b'{"dataType":"user",',
}


async def connect(number, options):
    address = "127.0.1.%d" % (1 + number % options.addresses)
    return await asyncio.open_connection("127.0.0.1", options.port, local_addr=(address, 0))


async def read_reply(reader):
    """Status and body of the next reply; (None, b"") if there is none."""
    try:
        start = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in start.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(start.split(b" ", 2)[1]), await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        return None, b""


class Crowd:
    """Slow or idle clients, and how they end."""

    def __init__(self, options):
        self.options = options
        self.kinds = options.kinds.split(",")
        self.tried = 0
        self.opened = 0
        self.answers = 0
        self.lasted = []
        self.ends = collections.Counter()

    async def connect(self, number):
        """Reader and writer, or None; says "open" when everybody has tried."""
        try:
            pair = await connect(number, self.options)
            self.opened += 1
        except OSError:
            pair = None
            self.ends["refused"] += 1
        self.tried += 1
        if self.tried == self.options.count:
            say("open", connections=self.opened)
        return pair

    async def drip(self, writer):
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")

    async def take_replies(self, reader):
        """Until the server closes the connection."""
        while True:
            status, _ = await read_reply(reader)
            if status is None:
                break
            self.ends[str(status)] += 1
            self.answers += 1
            if self.answers == self.options.count:
                say("answered")
        self.ends["reset" if isinstance(reader.exception(), OSError) else "closed"] += 1

    async def client(self, number):
        began = time.monotonic()
        pair = await self.connect(number)
        if pair is None:
            return
        reader, writer = pair
        drip = None
        if self.options.command == "idle":
            writer.write(head("GET", self.options.path) + b"\r\n")
        else:
            kind = self.kinds[number % len(self.kinds)]
            writer.write(BEGINNINGS[kind])
            if kind != "silent":
                drip = asyncio.create_task(self.drip(writer))
        await self.take_replies(reader)
        if drip:
            drip.cancel()
        self.lasted.append(time.monotonic() - began)
        writer.close()

    async def run(self):
        await asyncio.gather(*(self.client(i) for i in range(self.options.count)))
        say("end", ends=self.ends, shortest=round(min(self.lasted, default=0), 3))


class Pushes:
    """Pushes over connections that are kept, and what they were answered."""

    def __init__(self, options):
        self.options = options
        self.next = options.first
        self.successes = 0
        self.outcomes = {}

    def body(self, push):
        uids = [(push * self.options.records + i) % self.options.people for i in range(self.options.records)]
        return json.dumps({"dataType": "user", "records": [
            {"uid": "u%d" % uid, "username": "u%d" % uid, "nickname": "n%d" % push} for uid in uids]}).encode()

    async def client(self, number):
        try:
            reader, writer = await connect(number, self.options)
        except OSError:
            return
        while self.next < self.options.first + self.options.pushes:
            push = self.next
            self.next += 1
            body = self.body(push)
            writer.write(post(len(body)) + body)
            status, reply = await read_reply(reader)
            self.outcomes[push] = "broken" if status is None else status
            if status is None:
                break
            if status == 200 and json.loads(reply)["code"] == 0:
                self.successes += 1
                if self.successes == self.options.announce:
                    say("some")
        writer.close()

    async def run(self):
        await asyncio.gather(*(self.client(i) for i in range(self.options.connections)))
        with open(self.options.outcomes, "w", encoding="ascii") as file:
            for push, outcome in sorted(self.outcomes.items()):
                print(push, outcome, file=file)
        say("end", outcomes=collections.Counter(str(o) for o in self.outcomes.values()))


async def until_input_ends():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1000):
        pass


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("slow", "idle", "push"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--addresses", type=int, default=1)
    parser.add_argument("--kinds", default="silent,headers,body,large")
    parser.add_argument("--path", default="/healthz")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--pushes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--people", type=int, default=10 ** 9)
    parser.add_argument("--records", type=int, default=1)
    parser.add_argument("--announce", type=int, default=1)
    parser.add_argument("--outcomes")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    work = asyncio.create_task((Pushes if options.command == "push" else Crowd)(options).run())
    guard = asyncio.create_task(until_input_ends())
    await asyncio.wait((work, guard), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    # open connections end with the process
    sys.stdout.flush()
    os._exit(0 if work.done() else 1)


asyncio.run(main())
