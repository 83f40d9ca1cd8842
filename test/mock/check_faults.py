"""Checks of the faults, and of the start and the end of the program."""

import gzip
import http.client
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from check_base import API, Base, Running, in_parallel


class Faults(Base):
    LIST = "/department/list"

    def setUp(self):
        super().setUp()
        self.get(self.LIST)

    def fault(self, kind, **more):
        more.setdefault("path", "*/department/list")
        self.control(faults=[dict(more, kind=kind)])

    def fetch(self, client=None):
        return self.raw(API + self.LIST, client=client,
                        access_token=self.tokens["app-secret"])

    def fails(self, kind, *errors, **more):
        """A hit by this fault breaks the connection."""
        self.fault(kind, times=1, **more)
        with self.assertRaises(errors):
            self.fetch(self.connect())
        self.assertEqual(self.code(self.LIST), 0)

    def test_broken_connections(self):
        self.fails("drop", http.client.RemoteDisconnected)
        self.fails("reset", ConnectionResetError)
        self.fails("reset_body", ConnectionResetError,
                   http.client.IncompleteRead)
        self.fails("truncate", http.client.IncompleteRead)
        self.fails("truncate_chunked", http.client.IncompleteRead)

    def test_raw(self):
        self.fails("raw", http.client.BadStatusLine, text="SSH-2.0-x\r\n")
        self.fault("raw", times=1, more="z", times_more=3, end="keep",
                   bytes=1, interval_ms=1,
                   text="HTTP/1.1 299 Odd\r\nContent-Length: 3\r\n\r\n")
        response, body = self.fetch()
        self.assertEqual((response.status, body), (299, b"zzz"))
        self.assertEqual(self.code(self.LIST), 0)

    def test_echo(self):
        token = self.tokens["app-secret"]
        self.fault("echo", times=1)
        reply = self.get(self.LIST)
        self.assertEqual(reply["errcode"], 99999)
        self.assertIn(token, reply["errmsg"])
        self.fault("echo", times=1, where="html")
        response, body = self.fetch()
        self.assertEqual(response.status, 500)
        self.assertIn(token.encode(), body)
        self.fault("echo", times=1, where="page", field="name")
        reply = self.get(self.LIST)
        self.assertEqual(reply["errcode"], 0)
        self.assertIn(token, reply["debug"])
        self.assertIn(token, reply["department"][0]["name"])

    def test_close_after_reply(self):
        self.fault("close", times=1)
        client = self.connect()
        self.assertEqual(self.fetch(client)[0].status, 200)
        self.assertEqual(client.sock.recv(1), b"")

    def test_codes(self):
        for kind, more, code in (
                ("errcode", {"code": 40001, "errmsg": "stopped"}, 40001),
                ("busy", {"times": 2}, -1), ("trusted_ip", {}, 60020)):
            self.fault(kind, **more)
            self.assertEqual(self.code(self.LIST), code)
            self.assertEqual(self.code(self.LIST), code)
        self.fault("busy", times=2, after=1)
        self.assertEqual([self.code(self.LIST) for _ in range(4)],
                         [0, -1, -1, 0])
        self.fault("errcode", code=45009, every=3)
        self.assertEqual([self.code(self.LIST) for _ in range(6)],
                         [0, 0, 45009, 0, 0, 45009])

    def test_throttle(self):
        self.fault("throttle", seconds=0.4, after=1)
        self.assertEqual(self.code(self.LIST), 0)
        start = time.monotonic()
        self.assertEqual(self.code(self.LIST), 45009)
        while self.code(self.LIST) == 45009:
            self.assertLess(time.monotonic() - start, 10)
        self.assertGreaterEqual(time.monotonic() - start, 0.4)
        self.assertEqual(self.code(self.LIST), 0)

    def test_query_and_method(self):
        self.fault("busy", path="*/user/list", query={"department_id": 2})
        self.assertEqual(self.code("/user/list", department_id=1), 0)
        self.assertEqual(self.code("/user/list", department_id=2), -1)
        self.fault("busy", method="POST")
        self.assertEqual(self.code(self.LIST), 0)

    def test_concurrency(self):
        self.control(latency_ms=300, faults=[
            {"path": "*/department/list", "kind": "concurrency", "limit": 2}])
        codes = in_parallel(2, lambda: json.loads(
            self.fetch(self.connect())[1])["errcode"])
        self.assertEqual(sorted(codes), [0, 45033])
        self.assertEqual(self.code(self.LIST), 0)

    def test_status_and_redirect(self):
        self.fault("status", status=429, retry_after="2")
        response = self.fetch()[0]
        self.assertEqual(response.status, 429)
        self.assertEqual(response.getheader("Retry-After"), "2")
        self.fault("redirect", location="http://127.0.0.1:1/x")
        response = self.fetch()[0]
        self.assertEqual(response.status, 302)
        self.assertEqual(response.getheader("Location"),
                         "http://127.0.0.1:1/x")

    def test_bodies(self):
        self.fault("html")
        response, body = self.fetch()
        self.assertEqual(response.getheader("Content-Type"), "text/html")
        self.fault("empty")
        self.assertEqual(self.fetch()[1], b"")
        self.fault("invalid_json")
        with self.assertRaises(ValueError):
            json.loads(self.fetch()[1])
        self.fault("bad_utf8")
        with self.assertRaises(UnicodeDecodeError):
            self.fetch()[1].decode()
        self.fault("nul_escape", index=2)
        body = self.fetch()[1]
        self.assertIn(b"\\u0000", body)
        self.assertIn("\0", json.loads(body)["department"][2]["name"])
        self.fault("lone_surrogate")
        self.assertIn(b"\\ud800", self.fetch()[1])

    def test_wrong_shape(self):
        for shape, kind in (("object", dict), ("string", str),
                            ("null", type(None)), ("scalars", list)):
            self.fault("wrong_shape", shape=shape)
            self.assertIsInstance(json.loads(self.fetch()[1])["department"],
                                  kind)
        self.fault("wrong_shape", shape="missing")
        self.assertNotIn("department", json.loads(self.fetch()[1]))
        self.fault("wrong_shape", shape="array")
        self.assertIsInstance(json.loads(self.fetch()[1]), list)

    def test_large(self):
        self.fault("huge", mb=3)
        response, body = self.fetch()
        self.assertIsNone(response.getheader("Content-Length"))
        self.assertGreater(len(body), 3 << 20)
        self.assertEqual(len(json.loads(body)["department"]), 30)
        self.fault("huge", mb=3, declare=True)
        response, body = self.fetch()
        self.assertEqual(int(response.getheader("Content-Length")), len(body))
        self.fault("gzip_bomb", mb=20)
        response, body = self.fetch()
        self.assertEqual(response.getheader("Content-Encoding"), "gzip")
        self.assertLess(len(body), 1 << 20)
        self.assertEqual(json.loads(gzip.decompress(body))["errcode"], 0)
        self.fault("many_headers", count=90)
        self.assertEqual(self.fetch()[0].getheader("X-Filler-89"), "v" * 64)

    def test_slow(self):
        self.fault("slow", bytes=2000, interval_ms=20)
        body = self.fetch()[1]
        self.assertEqual(json.loads(body)["errcode"], 0)

    def test_hang_is_released(self):
        self.fault("hang")
        done = []
        client = self.connect()
        thread = threading.Thread(
            target=lambda: done.append(self.fetch(client)[1]))
        thread.start()
        self.assertEqual(self.state(wait="held", path="*/list")["held"], 1)
        none = self.state(wait="held", path="*/get", timeout=0.01)
        self.assertEqual(none["held"], 1)
        self.assertEqual(done, [])
        self.control(release=True)
        thread.join(10)
        self.assertEqual(json.loads(done[0])["errcode"], 0)
        self.assertEqual(self.state()["held"], 0)

    def test_hang_notices_the_client_leaving(self):
        self.fault("hang")
        client = self.connect()
        client.request("GET", API + self.LIST)
        self.state(wait="held")
        client.close()
        deadline = time.monotonic() + 10
        while self.state()["held"]:
            self.assertLess(time.monotonic(), deadline)

    def test_mistakes_are_named(self):
        for faults in ([{"kind": "no such"}], [{"kind": "drop", "cod": 1}]):
            response, body = self.raw("/_control",
                                      json.dumps({"faults": faults}))
            self.assertEqual(response.status, 400)
            self.assertIn("ValueError", json.loads(body)["error"])


class Process(unittest.TestCase):
    def test_port_file_and_stop(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "port")
        server = Running("--tiny", "--port-file", path)
        with open(path) as port_file:
            self.assertEqual(int(port_file.read()), server.port)
        client = http.client.HTTPConnection("127.0.0.1", server.port,
                                            timeout=10)
        client.request("POST", "/_control", json.dumps({"faults": [
            {"path": "*", "kind": "hang"}]}))
        client.getresponse().read()
        client.request("GET", API + "/gettoken")
        self.assertEqual(server.stop(), 0)
        with self.assertRaises(ConnectionError):
            client.getresponse()
        client.close()

    def test_lifetime(self):
        server = Running("--tiny", "--lifetime", "0.05")
        self.addCleanup(server.stop)
        self.assertEqual(server.process.wait(10), 0)

    def test_parent(self):
        parent = subprocess.Popen(["sleep", "60"])
        server = Running("--tiny", "--parent-pid", str(parent.pid))
        self.addCleanup(server.stop)
        self.assertIsNone(server.process.poll())
        parent.kill()
        parent.wait()
        self.assertEqual(server.process.wait(10), 0)

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl")
    def test_tls(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        key, cert = (os.path.join(folder, n) for n in ("key", "cert"))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
             "-keyout", key, "-out", cert, "-days", "2", "-subj",
             "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = Running("--tiny", "--tls-cert", cert, "--tls-key", key)
        self.addCleanup(server.stop)
        context = ssl.create_default_context(cafile=cert)
        client = http.client.HTTPSConnection("127.0.0.1", server.port,
                                             timeout=10, context=context)
        self.addCleanup(client.close)
        for _ in range(2):
            client.request("GET", API + "/gettoken")
            self.assertEqual(json.loads(client.getresponse().read())
                             ["errcode"], 41002)
