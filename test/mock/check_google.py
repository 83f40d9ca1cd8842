"""Checks of the Google service."""

import gzip
import json
import os
import subprocess
import tempfile
import time
from urllib.parse import quote, urlencode

from check_base import Base
from check_okta import encode

SCOPE = "https://www.googleapis.com/auth/admin.directory.%s.readonly"
ALL = " ".join(SCOPE % name for name in ("user", "orgunit", "group"))
CUSTOMER = {"customer": "my_customer"}


class Google(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.key = os.path.join(folder.name, "key")
        for command in (["genpkey", "-algorithm", "RSA", "-out", cls.key],
                        ["pkey", "-in", cls.key, "-pubout", "-out",
                         cls.key + ".pub"]):
            subprocess.run(["openssl"] + command, check=True,
                           stderr=subprocess.DEVNULL)

    def setUp(self):
        super().setUp()
        with open(self.key + ".pub") as file:
            self.settings(public_key=file.read())

    def settings(self, **changes):
        self.control(settings={"google": changes})

    def ask(self, target, body=None, headers=(), **query):
        """Status and document."""
        headers = dict(headers)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        target = "/google" + target + ("?" + urlencode(query) if query
                                       else "")
        self.client.request("GET" if body is None else "POST", target,
                            body and urlencode(body), headers)
        self.response = self.client.getresponse()
        text = self.response.read()
        if self.response.getheader("Content-Encoding") == "gzip":
            text = gzip.decompress(text)
        return self.response.status, json.loads(text) if text else None

    def sign(self, **changes):
        now = int(time.time())
        claims = dict({
            "iss": "sync@proj.iam.gserviceaccount.com",
            "sub": "admin@corp.test", "scope": ALL, "iat": now,
            "exp": now + 3600,
            "aud": "https://oauth2.googleapis.com/token"}, **changes)
        plain = ".".join(encode(json.dumps(part).encode()) for part in (
            {"alg": "RS256", "typ": "JWT"}, claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=plain.encode(), stdout=subprocess.PIPE, check=True)
        return plain + "." + encode(done.stdout)

    def log_in(self, assertion, grant="jwt-bearer"):
        return self.ask("/token", {
            "grant_type": "urn:ietf:params:oauth:grant-type:" + grant,
            "assertion": assertion})

    def get(self, target, token=None, **query):
        if token is None and not self.tokens:
            self.tokens["it"] = self.log_in(self.sign())[1]["access_token"]
        token = token or self.tokens["it"]
        return self.ask("/admin/directory/v1" + target, None,
                        {"Authorization": "Bearer " + token}, **query)

    def rows(self, target, key, **query):
        found = []
        while True:
            status, page = self.get(target, **query)
            self.assertEqual(status, 200, page)
            found += page.get(key, [])
            if "nextPageToken" not in page:
                return found
            query["pageToken"] = page["nextPageToken"]

    def reason(self, target, **query):
        status, reply = self.get(target, **query)
        self.assertEqual(reply["error"]["code"], status)
        return status, reply["error"]["errors"][0]["reason"]

    def test_token_refused(self):
        now = int(time.time())
        late = "reasonable timeframe"
        for error, text, assertion in (
                ("invalid_grant", "Signature", self.sign()[:-8] + "AAAAAAAA"),
                ("invalid_grant", "not found", self.sign(iss="other")),
                ("invalid_grant", "audience", self.sign(aud="http://x.test")),
                ("invalid_grant", late, self.sign(exp=now + 3700)),
                ("invalid_grant", late, self.sign(iat=now - 4000,
                                                  exp=now - 400)),
                ("invalid_grant", late, self.sign(iat=now + 900)),
                ("invalid_grant", "Invalid email", self.sign(sub="x@y.test")),
                ("invalid_scope", "scope", self.sign(scope="openid"))):
            status, reply = self.log_in(assertion)
            self.assertEqual((status, reply["error"]), (400, error), text)
            self.assertIn(text, reply["error_description"])
        self.assertEqual(self.log_in(self.sign(), "other")[1]["error"],
                         "unsupported_grant_type")
        self.settings(delegated=["user"])
        status, reply = self.log_in(self.sign())
        self.assertEqual((status, reply["error"]),
                         (401, "unauthorized_client"))
        self.settings(clock_skew=7200)
        self.assertIn(late, self.log_in(self.sign())[1]["error_description"])

    def test_rights(self):
        person = self.get("/users", **CUSTOMER)[1]["users"][0]
        for changes, expected in (
                ({"sub": person["primaryEmail"]}, "forbidden"),
                ({"sub": None}, "forbidden"),
                ({"scope": SCOPE % "group"}, "insufficientPermissions")):
            token = self.log_in(self.sign(**changes))[1]["access_token"]
            self.assertEqual(self.reason("/users", token=token, **CUSTOMER),
                             (403, expected))
        self.control(expire_tokens=True)
        self.assertEqual(self.reason("/users", **CUSTOMER),
                         (401, "authError"))

    def test_users(self):
        rows = self.rows("/users", "users", maxResults=60, **CUSTOMER)
        people = json.loads(self.raw("/_control/directory")[1])["people"]
        left = [p for p in people if p["status"] == "left"]
        self.assertEqual(len({row["id"] for row in rows}),
                         len(people) - len(left))
        self.assertTrue(all(len(row["id"]) == 21 for row in rows))
        self.assertIn("1970-01-01T00:00:00.000Z",
                      [row["lastLoginTime"] for row in rows])
        self.assertEqual(len(self.get("/users", **CUSTOMER)[1]["users"]), 100)
        deleted = self.rows("/users", "users", showDeleted="true", **CUSTOMER)
        self.assertEqual(len(deleted), len(left))
        self.assertTrue(all("deletionTime" in row for row in deleted))
        self.settings(purged=[p["uid"] for p in left])
        self.assertNotIn("users", self.get("/users", showDeleted="true",
                                           **CUSTOMER)[1])
        full = self.get("/users", projection="full", **CUSTOMER)[1]["users"]
        self.assertIn("customSchemas", full[0])
        self.assertNotIn("customSchemas", rows[0])
        self.assertEqual(self.get("/users/" + rows[0]["id"])[1]["id"],
                         rows[0]["id"])

    def test_refused(self):
        self.assertEqual(self.reason("/users"), (400, "badRequest"))
        self.assertEqual(self.reason("/users", customer="other"),
                         (403, "forbidden"))
        self.assertEqual(self.reason("/users", maxResults=501, **CUSTOMER),
                         (400, "invalid"))
        self.assertEqual(self.reason("/users", pageToken="EAAw1.0.000000==",
                                     **CUSTOMER), (400, "invalid"))
        self.assertEqual(self.reason("/users/nobody"), (404, "notFound"))
        self.assertEqual(self.reason("/groups/none/members"),
                         (404, "notFound"))

    def test_limits(self):
        for reason, status in (("userRateLimitExceeded", 403),
                               ("quotaExceeded", 403),
                               ("rateLimitExceeded", 429)):
            self.settings(throttle=reason, retry_after="2")
            self.get("/users", **CUSTOMER)
            self.control(faults=[{"kind": "throttle", "seconds": 0}])
            self.assertEqual(self.reason("/users", **CUSTOMER),
                             (status, reason))
            self.assertEqual(self.response.getheader("Retry-After"), "2")
        self.control(faults=[{"kind": "busy", "times": 1}])
        self.assertEqual(self.reason("/users", **CUSTOMER),
                         (503, "backendError"))
        self.assertEqual(self.get("/users", **CUSTOMER)[0], 200)

    def test_etags(self):
        page = self.get("/users", **CUSTOMER)[1]
        self.assertEqual(self.ask(
            "/admin/directory/v1/users", None,
            {"Authorization": "Bearer " + self.tokens["it"],
             "If-None-Match": page["etag"]}, **CUSTOMER), (304, None))
        self.settings(gzip=True)
        self.assertEqual(self.get("/users", **CUSTOMER)[1]["etag"],
                         page["etag"])
        self.assertEqual(self.response.getheader("Content-Encoding"), "gzip")

    def units(self, kind="allIncludingParent"):
        page = self.get("/customer/my_customer/orgunits", type=kind)[1]
        return {row["name"]: row for row in page.get("organizationUnits", [])}

    def test_org_units(self):
        units = self.get("/customer/C03az79cb/orgunits",
                         type="allIncludingParent")[1]["organizationUnits"]
        paths = {row["orgUnitPath"] for row in units}
        self.assertEqual(len({path.lower() for path in paths}), 30)
        users = self.rows("/users", "users", **CUSTOMER)
        self.assertLessEqual({row["orgUnitPath"] for row in users}, paths)
        self.assertEqual(len([r for r in units
                              if "parentOrgUnitPath" not in r]), 1)
        self.control(directory="tiny")
        self.assertEqual(len(self.units()), 5)
        self.assertNotIn("Bluebird Tea Company", self.units("all"))
        self.assertEqual(len(self.units("children")), 3)
        before = self.units()["Platform Team"]
        self.assertEqual(before["orgUnitPath"], "/Engineering/Platform Team")
        self.control(edit={"departments": {"3": {"name": "Making"},
                                           "4": {"parent": 2}}})
        after = self.units()["Platform Team"]
        self.assertEqual(after["orgUnitPath"], "/Sales/Platform Team")
        self.assertEqual(after["orgUnitId"], before["orgUnitId"])
        self.control(edit={"departments": dict.fromkeys("2345")})
        self.assertNotIn("organizationUnits", self.get(
            "/customer/my_customer/orgunits", type="all")[1])

    def test_groups(self):
        self.control(directory="tiny")
        groups = {row["name"]: row for row in self.rows(
            "/groups", "groups", maxResults=2, **CUSTOMER)}
        self.assertEqual(len(groups), 5)
        self.assertEqual(groups["Sales"]["directMembersCount"], "4")
        where = "/groups/%s/members"
        kinds = {row["type"] for row in self.rows(
            where % groups["Bluebird Tea Company"]["id"], "members")}
        self.assertEqual(kinds, {"USER", "GROUP", "CUSTOMER", "EXTERNAL"})
        sales = self.rows(where % quote(groups["Sales"]["email"]), "members",
                          maxResults=3)
        self.assertEqual([row["role"] for row in sales],
                         ["OWNER", "MEMBER", "MEMBER", "MEMBER"])
        self.settings(hidden_groups=[2], missing_groups=[3])
        self.assertEqual(self.reason(where % groups["Sales"]["id"]),
                         (403, "forbidden"))
        self.assertEqual(self.reason(where % groups["Engineering"]["id"]),
                         (404, "notFound"))

    def test_odd_types(self):
        self.control(directory="tiny")
        self.settings(odd_types=True, archived=["li.na"], vary_case=True)
        rows = {row["name"]["fullName"]: row for row
                in self.rows("/users", "users", **CUSTOMER)}
        self.assertIsInstance(rows["Li Na"]["phones"], dict)
        self.assertTrue(rows["Li Na"]["archived"])
        self.assertNotIn("phones", rows["Sofia Lind"])
        self.assertEqual(rows["Emma Dubois"]["suspensionReason"], "ADMIN")
        self.assertEqual(rows["Li Na"]["orgUnitPath"], "/SALES")

    def test_circles(self):
        for kind, tokens in (("cursor_repeat", 1), ("endless_cursor", 5)):
            self.control(faults=[{"kind": kind, "path": "*/users"}])
            found, query = set(), dict(CUSTOMER)
            for _ in range(5):
                query["pageToken"] = self.get("/users", **query)[1][
                    "nextPageToken"]
                found.add(query["pageToken"])
            self.assertEqual(len(found), tokens)
