"""The mock's program: command line, control calls, wiring, end of life.

Owns the list of services, the directory in use, the counters of what was
asked, and /_control, by which tests steer the rest while it runs.  Everything
happens on the one thread of httpd.Loop.
"""

import argparse
import collections
import fnmatch
import json
import os
import signal
import socket
import ssl
import sys
import time

from dingtalk import DingTalk
from directory import generate, tiny
from entra import Entra
from faults import Fault
from feishu import Feishu, Lark
from google import Google
from httpd import Loop, Reply, Server
from keycloak import Keycloak
from okta import Okta
from rest import Rest
from scim import Scim
from wecom import WeCom

SERVICES = {service.name: service for service in (
    DingTalk,
    Entra,
    Feishu,
    Google,
    Keycloak,
    Lark,
    Okta,
    Rest,
    Scim,
    WeCom,
)}
CONTROL = "/_control"
KEPT_REQUESTS = 1000
# Steps of one control call, in the order in which they are taken.
STEPS = ("reset", "latency_ms", "directory", "mutate", "edit", "settings",
         "faults", "add_faults", "expire_tokens", "release", "stop")


class Waiter:
    """A control call that is answered when a counter is high enough."""

    def __init__(self, name, path, least, reply):
        self.name = name
        self.path = path
        self.least = least
        self.reply = reply


class Mock:
    """The application behind the server."""

    def __init__(self, loop, names, make_directory, latency_ms=0):
        self.loop = loop
        self.server = None
        self.start_directory = make_directory
        self.start_latency = latency_ms
        self.waiters = []
        self.held = {}
        self.in_flight = collections.Counter()
        self.directory = make_directory()
        self.services = {name: SERVICES[name](self) for name in names}
        self.latency_ms = latency_ms
        self.faults = []
        self.clear_counters()

    def clear_counters(self):
        self.by_path = collections.Counter()
        self.requests = 0
        self.in_flight_max = sum(self.in_flight.values())
        self.last = collections.deque(maxlen=KEPT_REQUESTS)

    def __call__(self, request):
        if request.path == CONTROL or request.path.startswith(CONTROL + "/"):
            return self.control(request)
        path = request.path
        try:
            reply = self.respond(request)
        except Exception:
            self.in_flight[path] -= 1
            raise

        def done():
            self.in_flight[path] -= 1
            self.held.pop(reply, None)
            self.wake()

        reply.done = done
        if reply.delay is None:
            self.held[reply] = path
        elif not reply.delay:
            reply.delay = self.latency_ms / 1000
        self.wake()
        return reply

    def respond(self, request):
        self.in_flight[request.path] += 1
        self.in_flight_max = max(self.in_flight_max,
                                 sum(self.in_flight.values()))
        self.requests += 1
        self.by_path[request.path] += 1
        seen = self.note(request)
        for service in self.services.values():
            if request.path.startswith(service.prefix + "/"):
                break
        else:
            return Reply(404, b"no service has this path", "text/plain")

        def normal():
            return service.handle(request, request.path[len(service.prefix):])

        for fault in self.due_faults(request):
            seen["fault"] = fault.kind
            return fault.apply(request, service, normal)
        return normal()

    def due_faults(self, request):
        """All faults count the request, the first one that is due acts."""
        overlap = self.in_flight[request.path]
        return [f for f in self.faults if f.due(request, overlap)][:1]

    def note(self, request):
        headers = request.headers
        seen = {"number": self.requests, "time": round(time.time(), 3),
                "connection": request.connection, "method": request.method,
                "path": request.path, "query_keys": list(request.query),
                "authorization": headers.get("authorization"),
                "headers": {key: value for key, value in headers.items()
                            if key != "authorization"},
                "body": request.body[:500].decode("utf-8", "replace"),
                "fault": None}
        self.last.append(seen)
        return seen

    def counter(self, name, path="*"):
        """Requests held, in flight, or all, of the paths that match."""
        held = collections.Counter(self.held.values())
        counts = {"held": held, "requests": self.by_path,
                  "in_flight": self.in_flight}[name]
        return sum(count for key, count in counts.items()
                   if fnmatch.fnmatchcase(key, path))

    def wake(self):
        """Answer the waiting control calls whose condition came true."""
        for waiter in list(self.waiters):
            if self.counter(waiter.name, waiter.path) >= waiter.least:
                self.answer_waiter(waiter)

    def answer_waiter(self, waiter):
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            reply = as_json(self.state())
            waiter.reply.body = reply.body
            waiter.reply.connection.release()

    def control(self, request):
        try:
            if request.path == CONTROL + "/directory":
                return as_json(self.directory.as_dict())
            if request.method != "POST":
                return self.show(request)
            changes = json.loads(request.body)
            unknown = sorted(set(changes) - set(STEPS))
            if unknown:
                raise ValueError("unknown keys: %s" % ", ".join(unknown))
            result = {"ok": True}
            for step in STEPS:
                if step in changes:
                    said = getattr(self, "do_" + step)(changes[step])
                    if said is not None:
                        result[step] = said
            return as_json(result)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return as_json({"ok": False, "error": "%s: %s"
                            % (type(error).__name__, error)}, 400)

    def show(self, request):
        """State now, or when the counter named by wait has at_least."""
        query = request.query
        if "wait" not in query:
            return as_json(self.state(int(query.get("last", 20))))
        waiter = Waiter(query["wait"], query.get("path", "*"),
                        int(query.get("at_least", 1)), as_json({}))
        if self.counter(waiter.name, waiter.path) >= waiter.least:
            return as_json(self.state())
        waiter.reply.delay = None
        waiter.reply.done = lambda: self.forget(waiter)
        self.waiters.append(waiter)
        self.loop.later(float(query.get("timeout", 10)),
                        lambda: self.answer_waiter(waiter))
        return waiter.reply

    def forget(self, waiter):
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    def state(self, last=20):
        return {
            "port": self.server.port,
            "services": {name: {"prefix": service.prefix,
                                "settings": service.settings}
                         for name, service in self.services.items()},
            "latency_ms": self.latency_ms,
            "directory": {"departments": len(self.directory.departments),
                          "people": len(self.directory.people)},
            "requests": self.requests,
            "by_path": dict(self.by_path),
            "in_flight": self.counter("in_flight"),
            "in_flight_max": self.in_flight_max,
            "held": len(self.held),
            "connections": {"open": len(self.server.connections),
                            "accepted": self.server.accepted},
            "faults": [fault.as_dict() for fault in self.faults],
            "last": list(self.last)[-last:] if last > 0 else [],
        }

    def do_reset(self, value):
        """Everything as it was at the start; what hangs goes on."""
        if not value:
            return
        self.faults = []
        self.do_release(True)
        self.clear_counters()
        self.latency_ms = self.start_latency
        self.directory = self.start_directory()
        for service in self.services.values():
            service.reset()

    def do_latency_ms(self, value):
        self.latency_ms = float(value)

    def do_directory(self, value):
        self.directory = tiny() if value == "tiny" else generate(**value)

    def do_mutate(self, value):
        return self.directory.mutate(**value)

    def do_edit(self, value):
        self.directory.edit(**value)

    def do_settings(self, value):
        for name, changes in value.items():
            self.services[name].configure(changes)

    def do_faults(self, value):
        self.faults = [Fault(spec) for spec in value]

    def do_add_faults(self, value):
        self.faults = self.faults + [Fault(spec) for spec in value]

    def do_expire_tokens(self, value):
        for service in self.services.values():
            service.expire_tokens()

    def do_release(self, value):
        for reply in list(self.held):
            reply.connection.release()

    def do_stop(self, value):
        # Later, so that this call still gets its answer.
        self.loop.later(0.05, self.loop.stop)


def as_json(document, status=200):
    text = json.dumps(document, ensure_ascii=False, indent=1)
    return Reply(status, text.encode("utf-8", "surrogatepass") + b"\n")


def write_port(path, port):
    """A reader never sees half of it."""
    scratch = "%s.%d" % (path, os.getpid())
    with open(scratch, "w") as out:
        out.write("%d\n" % port)
    os.replace(scratch, path)


def watch_parent(loop, pid):
    """Stop when that process is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        loop.stop()
        return
    except PermissionError:
        pass
    loop.later(0.25, lambda: watch_parent(loop, pid))


def watch_stdin(loop):
    """Stop at the end of the standard input."""
    def ready(mask):
        if not os.read(0, 4096):
            loop.stop()
    try:
        loop.selector.register(0, 1, ready)
    except OSError:
        # A file or the null device, which is at its end.
        loop.stop()


def watch_signals(loop):
    """Stop on SIGTERM and SIGINT also while nothing else happens."""
    inner, outer = socket.socketpair()
    for end in inner, outer:
        end.setblocking(False)
    signal.set_wakeup_fd(outer.fileno())
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, lambda *_: loop.stop())
    loop.selector.register(inner, 1, lambda mask: inner.recv(64))
    return inner, outer


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Simulated directory services on the loopback address.")
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 picks a free one")
    add("--port-file", help="the port is written there, in one go")
    add("--service", action="append", choices=sorted(SERVICES),
        help="may be repeated; all of them where it is not given")
    add("--seed", default="1")
    add("--departments", type=int, default=20)
    add("--users", type=int, default=200)
    add("--tiny", action="store_true", help="the small readable directory")
    add("--latency-ms", type=float, default=0)
    add("--tls-cert")
    add("--tls-key")
    add("--lifetime", type=float, default=900, help="seconds, then it ends")
    add("--parent-pid", type=int, help="end when this process is gone")
    add("--stdin-guard", action="store_true",
        help="end at the end of the standard input")
    return parser.parse_args()


def main():
    options = parse_arguments()
    tls = None
    if options.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls_cert, options.tls_key)

    def make_directory():
        if options.tiny:
            return tiny()
        return generate(options.seed, options.departments, options.users)

    loop = Loop()
    mock = Mock(loop, options.service or sorted(SERVICES), make_directory,
                options.latency_ms)
    mock.server = Server(loop, mock, options.port, tls)
    keep = watch_signals(loop)
    loop.later(options.lifetime, loop.stop)
    if options.parent_pid:
        loop.later(0, lambda: watch_parent(loop, options.parent_pid))
    if options.stdin_guard:
        loop.later(0, lambda: watch_stdin(loop))
    if options.port_file:
        write_port(options.port_file, mock.server.port)
    print("ready on %s://127.0.0.1:%d"
          % ("https" if tls else "http", mock.server.port), flush=True)
    try:
        loop.run()
    finally:
        mock.server.close()
        signal.set_wakeup_fd(-1)
        for end in keep:
            end.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
