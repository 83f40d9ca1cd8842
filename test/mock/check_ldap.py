"""Checks of the directory that answers as Active Directory does: its BER by
examples, what it says by a client that others wrote, ldapsearch."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import unittest

import ber
from check_base import HERE
from ldap_replay import CONTEXT, DELETED, fits, guid_bytes, Entry

LDAPSEARCH = shutil.which("ldapsearch")
USER = {"objectClass": ["top", "person", "user"], "objectCategory": "CN=Person,CN=Schema,CN=Configuration," + CONTEXT}


class Ber(unittest.TestCase):
    def test_lengths(self):
        for length in (0, 1, 127, 128, 255, 256, 65535, 65536):
            data = ber.octets(b"x" * length)
            self.assertEqual(ber.take(data), (4, b"x" * length, len(data)))
        self.assertEqual(ber.octets(b"x" * 128)[:3], b"\x04\x81\x80")
        self.assertEqual(ber.octets(b"x" * 256)[:4], b"\x04\x82\x01\x00")

    def test_numbers(self):
        for value, data in ((0, "020100"), (127, "02017f"), (128, "02020080"), (-1, "0201ff"), (-129, "0202ff7f"), (65536, "0203010000")):
            self.assertEqual(ber.integer(value).hex(), data)
            self.assertEqual(ber.number(ber.take(ber.integer(value))[1]), value)

    def test_messages(self):
        # examples of RFC 4511's own encoding, byte by byte
        self.assertEqual(ber.message(1, ber.result(0x61)).hex(), "300c02010161070a010004000400")
        self.assertEqual(ber.message(2, ber.entry("dc=x", [("cn", [b"a", b"b"])])).hex(),
                         "301b02010264160404" + b"dc=x".hex() + "300e300c0402636e3106040161040162")
        bind = bytes.fromhex("300c020101600702010304008000")
        self.assertEqual(ber.message_length(bind), len(bind))
        self.assertEqual(ber.read_message(bind), (1, "bind", {"version": 3, "name": "", "method": 0x80, "password": ""}, {}))

    def test_filters(self):
        text = ber.tlv(0xa0, ber.tlv(0xa4, ber.octets("cn"), ber.tlv(0x30, ber.octets("a", 0x80), ber.octets("b", 0x82))),
                       ber.tlv(0xa2, ber.tlv(0xa5, ber.octets("uid"), ber.octets("7"))))
        tag, content, _ = ber.take(text)
        self.assertEqual(ber.read_filter(tag, content),
                         ("and", [("sub", "cn", [(0, b"a"), (2, b"b")]), ("not", ("ge", "uid", b"7"))]))

    def test_cut_off(self):
        whole = ber.message(2, ber.entry("dc=x", [("cn", [b"a"])]))
        for length in range(1, len(whole)):
            self.assertRaises(ber.Malformed, ber.take, whole[:length])
        self.assertRaises(ber.Malformed, ber.message_length, b"GET / HTTP/1.1")

    def test_tests(self):
        entry = Entry("CN=x")
        entry.set("cn", [b"Alice Doe"])
        entry.set("userAccountControl", [b"514"])
        entry.set("uSNChanged", [b"10"])
        for test, expected in (
                (("eq", "CN", b"alice doe"), True), (("sub", "cn", [(0, b"al"), (1, b"e d"), (2, b"OE")]), True),
                (("sub", "cn", [(0, b"al"), (2, b"x")]), False), (("ge", "uSNChanged", b"9"), True), (("ge", "uSNChanged", b"11"), False),
                (("ext", "userAccountControl", "1.2.840.113556.1.4.803", b"2"), True),
                (("ext", "userAccountControl", "1.2.840.113556.1.4.803", b"16"), False),
                (("present", "mail"), False), (("not", ("present", "mail")), True)):
            self.assertEqual(fits(entry, test), expected, test)

    def test_guid(self):
        # the vector of Microsoft's own directory
        self.assertEqual(base64.b64encode(guid_bytes("58db6349-9136-4f8a-aec4-503f4fe8abf8")), b"SWPbWDaRik+uxFA/T+ir+A==")


class Running:
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "ldap_replay.py")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, universal_newlines=True)
        self.port = int(self.process.stdout.readline())

    def control(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


class Plain(unittest.TestCase):
    """What it does on its own wire."""

    @classmethod
    def setUpClass(cls):
        cls.server = Running()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.server.control(reset=True)
        self.socket = socket.create_connection(("127.0.0.1", self.server.port), 15)
        self.addCleanup(self.socket.close)

    BIND = ber.message(1, ber.tlv(0x60, ber.integer(3), ber.octets(""), ber.octets("", 0x80)))

    def test_hang(self):
        self.server.control(faults=[{"op": "bind", "kind": "hang"}])
        self.socket.sendall(self.BIND)
        self.assertEqual(self.server.control(wait="held")["counters"]["held"], 1)
        self.socket.close()
        self.assertEqual(self.server.control(wait="closed")["counters"]["closed"], 1)

    def test_once(self):
        self.server.control(faults=[{"op": "bind", "kind": "result", "code": 51, "times": 1}])
        self.socket.sendall(self.BIND + self.BIND)
        data = b""
        while len(data) < 28:
            data += self.socket.recv(1000)
        self.assertEqual((data[9], data[23]), (51, 0))

    def test_reset(self):
        self.server.control(faults=[{"op": "bind", "kind": "reset"}])
        self.socket.sendall(self.BIND)
        self.assertRaises(ConnectionResetError, self.socket.recv, 1000)

    def test_cut(self):
        self.server.control(faults=[{"op": "bind", "kind": "cut"}])
        self.socket.sendall(self.BIND)
        data = b""
        while True:
            more = self.socket.recv(1000)
            if not more:
                break
            data += more
        self.assertEqual(len(data), 500)
        self.assertGreater(ber.message_length(data), 500)


@unittest.skipUnless(LDAPSEARCH, "no ldapsearch (package ldap-utils)")
class Client(unittest.TestCase):
    """What a client of others' understands of it."""

    @classmethod
    def setUpClass(cls):
        cls.server = Running()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        people = {"CN=P%d,OU=Sales,%s" % (i, CONTEXT): dict(USER, sAMAccountName="p%d" % i, userAccountControl=512) for i in range(7)}
        self.server.control(reset=True)
        self.server.control(put={"OU=Sales," + CONTEXT: {"objectClass": "organizationalUnit"}, **people})
        self.server.control(put={"CN=all," + CONTEXT: {"objectClass": "group", "member": list(people)}})

    def search(self, *arguments, bind=("-D", "reader@corp.example.test", "-w", "Passw0rd!x9")):
        done = subprocess.run([LDAPSEARCH, "-x", "-LLL", "-o", "ldif-wrap=no", "-H", "ldap://127.0.0.1:%d" % self.server.port, *bind, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=30,
                              env=dict(os.environ, LDAPNOINIT="1"))
        return done.returncode, done.stdout, done.stderr

    def test_root(self):
        code, out, _ = self.search("-b", "", "-s", "base", "defaultNamingContext", "highestCommittedUSN", bind=())
        self.assertEqual(code, 0)
        self.assertIn("defaultNamingContext: " + CONTEXT, out)

    def test_refusals(self):
        code, _, err = self.search("-b", CONTEXT, bind=("-D", "reader@corp.example.test", "-w", "nope"))
        self.assertEqual(code, 49)
        self.assertIn("AcceptSecurityContext error, data 52e,", err)
        self.server.control(settings={"refused": {"reader@corp.example.test": "533"}})
        self.assertIn("data 533,", self.search("-b", CONTEXT)[2])
        code, _, err = self.search("-b", CONTEXT, bind=())
        self.assertEqual(code, 1)
        self.assertIn("a successful bind must be completed", err)

    def test_pages(self):
        self.server.control(settings={"max_page": 3})
        filter_ = "(&(objectCategory=person)(objectClass=user))"
        code, out, _ = self.search("-b", CONTEXT, filter_, "1.1")
        self.assertEqual((code, out.count("dn: ")), (4, 3))
        for size in (1, 2, 3, 1000):
            code, out, _ = self.search("-E", "pr=%d/noprompt" % size, "-b", CONTEXT, filter_, "1.1")
            self.assertEqual((code, out.count("dn: ")), (0, 7), size)

    def test_circles(self):
        self.server.control(settings={"endless": True})
        client = subprocess.Popen([LDAPSEARCH, "-x", "-H", "ldap://127.0.0.1:%d" % self.server.port, "-D", "reader@corp.example.test",
                                   "-w", "Passw0rd!x9", "-E", "pr=3/noprompt", "-b", CONTEXT, "(objectClass=person)", "1.1"],
                                  stdout=subprocess.DEVNULL, env=dict(os.environ, LDAPNOINIT="1"))
        self.assertGreaterEqual(self.server.control(wait="requests", at_least=50)["counters"]["requests"], 50)
        client.kill()
        client.wait()

    def test_refused_cookies(self):
        self.server.control(settings={"refused_cookies": 1})
        arguments = ("-E", "pr=3/noprompt", "-b", CONTEXT, "(objectClass=person)", "1.1")
        self.assertEqual([self.search(*arguments)[0] for _ in range(2)], [53, 0])

    def test_ranges(self):
        self.server.control(settings={"max_range": 3})
        for wanted, shown in (("member", "member;range=0-2: "), ("member;range=3-*", "member;range=3-5: "), ("member;range=6-*", "member;range=6-*: "),
                              ("member;range=1-1", "member;range=1-1: ")):
            code, out, _ = self.search("-b", "CN=all," + CONTEXT, "-s", "base", "(objectClass=*)", wanted)
            self.assertEqual(code, 0)
            self.assertIn(shown, out)
        self.assertEqual(self.search("-b", "CN=all," + CONTEXT, "-s", "base", "(objectClass=*)", "member;range=7-*")[0], 1)

    def test_changes(self):
        usn = self.server.control()["usn"]
        self.server.control(move={"OU=Sales," + CONTEXT: "OU=Trade," + CONTEXT})
        self.server.control(delete=["CN=P3,OU=Trade," + CONTEXT])
        code, out, _ = self.search("-b", CONTEXT, "(uSNChanged>=%d)" % (usn + 1), "1.1")
        self.assertEqual(out.strip(), "dn: OU=Trade," + CONTEXT)
        code, out, _ = self.search("-b", DELETED, "-E", "!showDeleted", "(isDeleted=TRUE)", "lastKnownParent", "objectGUID")
        self.assertIn("lastKnownParent: OU=Trade," + CONTEXT, out)
        self.assertEqual(self.search("-b", DELETED, "(isDeleted=TRUE)", "1.1")[0], 32)
        code, out, _ = self.search("-b", "<WKGUID=18E2EA80684F11D2B9AA00C04F79F805,%s>" % CONTEXT, "-E", "!showDeleted", "(isDeleted=TRUE)", "1.1")
        self.assertEqual(out.count("dn:"), 1)
        code, out, _ = self.search("-b", "CN=all," + CONTEXT, "-s", "base", "(objectClass=*)", "member")
        self.assertEqual((out.count("OU=Trade"), out.count("member: ")), (6, 6))

    def test_referrals(self):
        self.server.control(settings={"referrals": ["ldap://zones.example.test/DC=x"]})
        self.assertIn("# refldap://zones.example.test/DC=x", self.search("-b", CONTEXT, "(objectClass=user)", "1.1")[1])
        self.assertEqual(self.search("-b", "DC=other,DC=test")[0], 10)


if __name__ == "__main__":
    unittest.main()
