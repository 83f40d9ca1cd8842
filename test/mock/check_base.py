"""What the mock's own checks share: a server process and calls to it.

Waits for events only, never for time to pass, except where time is what is
being checked.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import unittest
from urllib.parse import urlencode

HERE = os.path.dirname(os.path.abspath(__file__))
CORPID = "ww0123456789abcdef"
API = "/wecom/cgi-bin"


class Running:
    """A server process; ends with its standard input."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "server.py"), "--stdin-guard",
             *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self):
        if self.process.stdin is not None:
            self.process.stdin.close()
            self.process.stdin = None
        self.process.stdout.close()
        return self.process.wait(10)


class Base(unittest.TestCase):
    arguments = ("--seed", "1", "--departments", "30", "--users", "150")

    @classmethod
    def setUpClass(cls):
        cls.server = Running(*cls.arguments)
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.tokens = {}
        self.client = self.connect()
        self.control(reset=True)

    def connect(self):
        client = http.client.HTTPConnection("127.0.0.1", self.server.port,
                                            timeout=15)
        self.addCleanup(client.close)
        return client

    def raw(self, where, body=None, client=None, **query):
        """The response object and its body."""
        client = client or self.client
        target = where + ("?" + urlencode(query) if query else "")
        client.request("POST" if body is not None else "GET", target, body)
        response = client.getresponse()
        return response, response.read()

    def control(self, **changes):
        response, body = self.raw("/_control", json.dumps(changes))
        self.assertEqual(response.status, 200, body)
        return json.loads(body)

    def state(self, **query):
        return json.loads(self.raw("/_control", client=self.connect(),
                                   **query)[1])

    def login(self, secret="app-secret", corpid=CORPID):
        return self.get("/gettoken", secret=None, corpid=corpid,
                        corpsecret=secret)

    def get(self, path, body=None, secret="app-secret", **query):
        if secret is not None:
            if secret not in self.tokens:
                self.tokens[secret] = self.login(secret)["access_token"]
            query["access_token"] = self.tokens[secret]
        response, text = self.raw(API + path, body, **query)
        self.assertEqual(response.status, 200)
        return json.loads(text)

    def code(self, path, body=None, **query):
        reply = self.get(path, body, **query)
        if reply["errcode"]:
            self.assertRegex(reply["errmsg"],
                             r", hint: \[\d+_\d+_\w+\], from ip: 127\.0\.0\.1")
        return reply["errcode"]

    def read_all(self, secret="app-secret"):
        """Departments by id, and people by uid with each one's copies."""
        units = self.get("/department/list", secret=secret)["department"]
        people = {}
        for unit in units:
            for row in self.get("/user/list", secret=secret,
                                department_id=unit["id"])["userlist"]:
                people.setdefault(row["userid"], []).append(row)
        return {unit["id"]: unit for unit in units}, people


def in_parallel(count, call):
    results = []
    threads = [threading.Thread(target=lambda: results.append(call()))
               for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
