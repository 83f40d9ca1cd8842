"""Checks of the Keycloak service."""

import base64
import json
from urllib.parse import quote_plus, urlencode

from check_base import Base

REALM = "/realms/staff"
CLIENT = "user sync"
SECRET = "s&cret: 100%/+=?"


class Keycloak(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    def ask(self, target, body=None, authorization=None, **query):
        """Status and document."""
        headers = {}
        if authorization:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        target = "/keycloak" + target + ("?" + urlencode(query) if query
                                         else "")
        self.client.request("GET" if body is None else "POST", target,
                            body and urlencode(body), headers)
        self.response = self.client.getresponse()
        return self.response.status, json.loads(self.response.read())

    def log_in(self, secret=SECRET, encode=quote_plus, realm=REALM, **form):
        pair = "%s:%s" % (encode(CLIENT), encode(secret))
        return self.ask(
            realm + "/protocol/openid-connect/token",
            dict({"grant_type": "client_credentials"}, **form),
            "Basic " + base64.b64encode(pair.encode()).decode())

    def get(self, target, **query):
        if not self.tokens:
            self.tokens["it"] = "Bearer " + self.log_in()[1]["access_token"]
        return self.ask("/admin" + REALM + target, None, self.tokens["it"],
                        **query)

    def rows(self, target, size=100, **query):
        """Entries of all pages, up to the empty one."""
        found, first = [], 0
        while True:
            status, page = self.get(target, first=first, max=size, **query)
            self.assertEqual(status, 200, page)
            if not page:
                return found
            found += page
            first += size

    def settings(self, **changes):
        self.control(settings={"keycloak": changes})

    def test_token(self):
        status, reply = self.log_in()
        self.assertEqual((status, reply["expires_in"]), (200, 60))
        self.assertEqual(self.ask(
            REALM + "/protocol/openid-connect/token",
            {"grant_type": "client_credentials", "client_id": CLIENT,
             "client_secret": SECRET})[0], 200)

    def test_token_refused(self):
        for expected, arguments in (
                ((401, "invalid_client"), {"secret": "wrong"}),
                ((401, "invalid_client"), {"encode": str}),
                ((404, "Realm does not exist"), {"realm": "/realms/other"}),
                ((400, "unsupported_grant_type"), {"grant_type": "password"})):
            status, reply = self.log_in(**arguments)
            self.assertEqual((status, reply["error"]), expected)
        self.settings(old_errors=True)
        self.assertEqual(self.log_in("wrong")[1]["error"],
                         "unauthorized_client")

    def test_token_ends(self):
        self.assertEqual(self.get("/users")[0], 200)
        self.control(expire_tokens=True)
        self.assertEqual(self.get("/users"),
                         (401, {"error": "HTTP 401 Unauthorized"}))

    def test_users(self):
        count = self.get("/users/count")[1]
        rows = self.rows("/users", briefRepresentation="false")
        self.assertEqual(len({row["id"] for row in rows}), count)
        self.assertEqual(len(self.get("/users")[1]), 100)
        self.assertEqual(len(self.get("/users/", max=-1)[1]), count)
        names = [row["username"] for row in rows]
        self.assertEqual(names, sorted(name.lower() for name in names))
        self.assertTrue(all(isinstance(value, list) for row in rows
                            for value in row["attributes"].values()))
        brief = self.get("/users", briefRepresentation="true")[1][0]
        self.assertNotIn("attributes", brief)
        self.assertEqual(self.get("/users/" + rows[0]["id"])[1], rows[0])
        self.assertEqual(self.get("/users/nobody"),
                         (404, {"error": "User not found"}))

    def test_federated(self):
        self.control(directory="tiny")
        self.settings(federated=["marco.rossi"])
        found = [row for row in self.rows("/users") if row["id"][:2] == "f:"]
        self.assertEqual([row["username"] for row in found], ["marco.rossi"])
        self.assertIn("federationLink", found[0])

    def test_rights(self):
        self.control(directory="tiny")
        self.settings(hidden_people=["anna.keller", "li.na"])
        self.assertEqual(len(self.get("/users", first=0, max=3)[1]), 2)
        self.assertEqual(len(self.rows("/users", 4)), 10)
        self.assertEqual(self.get("/users/count")[1], 12)
        self.settings(count="visible")
        self.assertEqual(self.get("/users/count")[1], 10)
        self.settings(rights=["query-users"], count="all")
        self.assertEqual(self.get("/users"), (200, []))
        self.assertEqual(self.get("/users/count")[1], 12)
        self.assertEqual(self.get("/groups")[0], 403)
        self.settings(old_errors=True)
        self.assertEqual(self.get("/groups")[1], {"error": "unknown_error"})

    def test_shift(self):
        self.settings(shift=1)
        rows = self.rows("/users")
        self.assertEqual(len({row["id"] for row in rows}),
                         self.get("/users/count")[1] - 1)

    def below(self, group, brief="false"):
        """What a reader that knows all dialects makes of a group."""
        found = {group["id"]: group}
        for child in group.get("subGroups", ()):
            found.update(self.below(child, brief))
        if group.get("subGroupCount"):
            for child in self.rows("/groups/%s/children" % group["id"],
                                   briefRepresentation=brief):
                found.update(self.below(child, brief))
        return found

    def test_dialects(self):
        found = {}
        for dialect in "nested", "lazy", "hierarchy":
            self.settings(dialect=dialect)
            found[dialect] = {}
            for top in self.rows("/groups", briefRepresentation="false"):
                found[dialect].update(self.below(top))
        self.assertEqual(len(found["nested"]), 30)
        self.assertEqual(set(found["lazy"]), set(found["nested"]))
        self.assertEqual(set(found["hierarchy"]), set(found["nested"]))
        self.assertEqual(self.get("/groups/count")[1], {"count": 30})
        self.assertEqual(self.get("/groups/count", top="true")[1],
                         {"count": 1})
        top = self.get("/groups")[1][0]
        self.assertNotIn("attributes", top)
        self.assertNotIn("parentId", top)
        self.settings(dialect="nested")
        self.assertEqual(self.get("/groups/%s/children" % top["id"])[0], 404)

    def test_children(self):
        self.control(directory="tiny", edit={"departments": {
            str(number): {"parent": 2} for number in range(100, 112)}})
        everybody = {}
        for top in self.rows("/groups"):
            everybody.update(self.below(top))
        largest = max(everybody.values(), key=lambda g: g["subGroupCount"])
        where = "/groups/%s/children" % largest["id"]
        self.assertEqual(len(self.rows(where, 3)), largest["subGroupCount"])
        self.assertEqual(largest["subGroupCount"], 12)
        self.assertEqual(len(self.get(where)[1]), 10)
        self.settings(leave_out_empty=True)
        self.assertNotIn("subGroups", self.get("/groups")[1][0])

    def test_members(self):
        self.control(directory="tiny")
        groups = {}
        for top in self.rows("/groups", briefRepresentation="false"):
            groups.update({g["name"]: g for g in self.below(top).values()})
        sales = groups["Sales"]
        self.assertEqual(sales["path"], "/Bluebird Tea Company/Sales")
        members = self.rows("/groups/%s/members" % sales["id"], 2,
                            briefRepresentation="true")
        self.assertEqual([row["username"] for row in members],
                         ["anna.keller", "li.na", "marco.rossi",
                          "sofia.lind"])
        self.assertEqual(sales["attributes"]["owner"], [members[0]["id"]])
        self.settings(hidden_groups=[2])
        self.assertEqual(self.get("/groups/%s/members" % sales["id"]),
                         (403, {"error": "HTTP 403 Forbidden"}))
        self.assertEqual(self.get("/groups/none/members")[0], 404)

    def test_proxy(self):
        self.control(faults=[{"kind": "throttle", "seconds": 0}])
        self.client.request("GET", "/keycloak/admin/realms/staff/users")
        response = self.client.getresponse()
        self.assertIn(b"<html>", response.read())
        self.assertEqual((response.status, response.getheader("Retry-After")),
                         (429, "1"))
        self.control(faults=[{"kind": "busy", "path": "*/users"}])
        self.assertEqual(self.get("/users")[1]["error"], "unknown_error")
