"""Checks of the Okta service."""

import base64
import json
import os
import re
import subprocess
import tempfile
import time
from urllib.parse import urlencode, urlsplit

from check_base import Base

TOKEN = "SSWS 00QCjAl4MlV-WPXM"
CLIENT = "0oa1service0app00001"
LINK = re.compile(r'<([^>]*)>; *rel="?(\w+)"?')


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Okta(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    def ask(self, target, body=None, authorization=TOKEN, **query):
        """Status and document; target may be a whole link."""
        if target.startswith("http"):
            parts = urlsplit(target)
            target = parts.path + "?" + parts.query
        else:
            target = "/okta" + target + ("?" + urlencode(query) if query
                                         else "")
        self.client.request("GET" if body is None else "POST", target,
                            body and urlencode(body),
                            {"Authorization": authorization})
        self.response = self.client.getresponse()
        return self.response.status, json.loads(self.response.read())

    def next_link(self):
        text = ", ".join(value for key, value in self.response.getheaders()
                         if key.lower() == "link")
        return {rel: link for link, rel in LINK.findall(text)}.get("next")

    def rows(self, target, **query):
        status, found = self.ask(target, **query)
        self.assertEqual(status, 200, found)
        link = self.next_link()
        while link:
            found += self.ask(link)[1]
            link = self.next_link()
        return found

    def code(self, target, **query):
        return self.ask(target, **query)[1]["errorCode"]

    def statuses(self, **query):
        return {row["status"] for row in self.rows("/api/v1/users", **query)}

    def test_users(self):
        self.assertEqual(self.statuses(), {"ACTIVE", "SUSPENDED", "STAGED"})
        left = self.rows("/api/v1/users",
                         filter='status eq "DEPROVISIONED"')
        self.assertTrue(left)
        self.assertEqual({row["status"] for row in left}, {"DEPROVISIONED"})
        self.assertEqual(len(left) + len(self.rows("/api/v1/users")), 250)
        self.assertIn("DEPROVISIONED", self.statuses(
            search='lastUpdated gt "2025-01-31T10:00:00.000Z"'))

    def test_links(self):
        for style in "two", "joined", "lower":
            self.control(settings={"okta": {"link_style": style,
                                            "page_size": 60}})
            self.ask("/api/v1/users", limit=200)
            links = [pair for pair in self.response.getheaders()
                     if pair[0].lower() == "link"]
            self.assertEqual(len(links), 2 if style == "two" else 1)
            self.assertIn(",", self.next_link())
            self.assertEqual(len({row["id"] for row
                                  in self.rows("/api/v1/users")}), 244)
        self.control(settings={"okta": {"loop": True}})
        self.ask("/api/v1/users")
        link = self.next_link()
        self.ask(link)
        self.assertEqual(self.next_link(), link)

    def test_refused(self):
        self.assertEqual(self.code("/api/v1/users", authorization="SSWS no"),
                         "E0000011")
        self.assertEqual(self.code("/api/v1/users", limit=201), "E0000001")
        for wrong in ('status ne "ACTIVE"', 'Status eq "ACTIVE"',
                      'lastUpdated gt "2026-01-31T10:00:00Z"', "status"):
            self.assertEqual(self.code("/api/v1/users", filter=wrong),
                             "E0000031", wrong)
        self.assertEqual(self.code("/api/v1/groups/no/users"), "E0000007")
        self.control(settings={"okta": {"slow_limit": 50}})
        self.assertEqual(self.ask("/api/v1/users")[0], 500)
        self.assertEqual(self.ask("/api/v1/users", limit=50)[0], 200)

    def test_groups(self):
        groups = self.rows("/api/v1/groups")
        self.assertEqual(len(groups), 31)
        self.assertEqual({g["type"] for g in groups},
                         {"BUILT_IN", "OKTA_GROUP", "APP_GROUP"})
        everyone = next(g for g in groups if g["type"] == "BUILT_IN")
        self.assertEqual(len(self.rows(
            "/api/v1/groups/%s/users" % everyone["id"])), 244)

    def test_scope(self):
        self.control(settings={"okta": {"api_tokens": {
            "narrow": {"scope": [3]}}}})
        narrow = self.ask("/api/v1/groups", authorization="SSWS narrow")[1]
        self.assertTrue(0 < len(narrow) < 30)
        self.assertNotIn("BUILT_IN", [g["type"] for g in narrow])

    def test_stamps(self):
        self.control(directory="tiny")
        self.ask("/api/v1/users")
        since = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.control(edit={"people": {"li.na": {"departments": [5]},
                                      "anna.keller": {"title": "CEO"}}})
        changed = 'lastUpdated gt "%s"' % since
        self.assertEqual(
            {row["profile"]["displayName"] for row in
             self.rows("/api/v1/users", filter=changed)} - {"Li Na"},
            {"Anna Keller"})
        self.assertEqual(self.rows("/api/v1/groups", filter=changed), [])
        self.assertEqual(
            sorted(g["profile"]["name"] for g in self.rows(
                "/api/v1/groups", filter=changed +
                ' or lastMembershipUpdated gt "%s"' % since)
                if g["type"] != "BUILT_IN"),
            ["Finance & People", "Sales"])

    def test_limits(self):
        self.control(settings={"okta": {"clock_skew": 3600, "reset_in": 5}},
                     faults=[{"kind": "throttle", "seconds": 0}])
        self.assertEqual(self.code("/api/v1/users"), "E0000047")
        reset = int(self.response.getheader("X-Rate-Limit-Reset"))
        self.assertTrue(3598 < reset - time.time() - 5 < 3602)
        self.assertEqual(self.response.getheader("X-Rate-Limit-Remaining"),
                         "0")

    # Tokens

    def make_key(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.key = os.path.join(folder.name, "key")
        for command in (["genpkey", "-algorithm", "RSA", "-out", self.key],
                        ["pkey", "-in", self.key, "-pubout", "-out",
                         self.key + ".pub"]):
            subprocess.run(["openssl"] + command, check=True,
                           stderr=subprocess.DEVNULL)
        with open(self.key + ".pub") as file:
            self.control(settings={"okta": {"public_key": file.read()}})

    def sign(self, header=(), **changes):
        now = int(time.time())
        claims = dict({
            "iss": CLIENT, "sub": CLIENT, "iat": now, "exp": now + 300,
            "aud": "http://127.0.0.1:%d/okta/oauth2/v1/token"
            % self.server.port, "jti": os.urandom(8).hex()}, **changes)
        plain = ".".join(encode(json.dumps(part).encode()) for part in (
            dict({"alg": "RS256", "kid": "key-1"}, **dict(header)), claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=plain.encode(), stdout=subprocess.PIPE, check=True)
        return plain + "." + encode(done.stdout)

    def log_in(self, assertion, scope="okta.users.read"):
        return self.ask("/oauth2/v1/token", {
            "grant_type": "client_credentials", "scope": scope,
            "client_assertion_type": "urn:ietf:params:oauth:"
            "client-assertion-type:jwt-bearer",
            "client_assertion": assertion})

    def test_signed(self):
        self.make_key()
        good = self.sign()
        status, reply = self.log_in(good)
        self.assertEqual(status, 200, reply)
        token = "Bearer " + reply["access_token"]
        self.assertEqual(self.ask("/api/v1/users", authorization=token)[0],
                         200)
        self.assertEqual(self.ask("/api/v1/groups", authorization=token)[0],
                         403)
        self.control(expire_tokens=True)
        self.assertEqual(self.ask("/api/v1/users", authorization=token)[0],
                         401)
        now = int(time.time())
        for why, assertion in (
                ("jti", good), ("signature", self.sign()[:-8] + "AAAAAAAA"),
                ("kid", self.sign({"kid": "other"})),
                ("alg", self.sign({"alg": "none"})),
                ("aud", self.sign(aud="http://other.test")),
                ("iss", self.sign(sub="other")),
                ("exp", self.sign(exp=now - 5)),
                ("exp", self.sign(exp=now + 4000))):
            status, reply = self.log_in(assertion)
            self.assertEqual((status, reply["error"]),
                             (401, "invalid_client"), why)
            self.assertIn(why, reply["error_description"])
        self.assertEqual(self.log_in(self.sign(), "openid")[1]["error"],
                         "invalid_scope")
