"""Checks of the Entra service."""

import json
from urllib.parse import urlencode, urlsplit

from check_base import Base

TENANT = "3a1e6c1c-5a0b-4a51-9f0e-2b8e6a7d1f00"
SELECT = "id,userPrincipalName,displayName,mobilePhone,accountEnabled"
LINK = "@odata.nextLink"
DELTA = "@odata.deltaLink"


class Entra(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    def ask(self, target, body=None, token=None, **query):
        """Status and document; target may be a whole link."""
        if target.startswith("http"):
            parts = urlsplit(target)
            target = parts.path + "?" + parts.query
        else:
            target = "/entra" + target
            if query:
                target += "?" + urlencode({
                    "$" + key: value for key, value in query.items()})
        headers = {}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if token:
            headers["Authorization"] = "Bearer " + token
        self.client.request("GET" if body is None else "POST", target,
                            body and urlencode(body), headers)
        self.response = self.client.getresponse()
        return self.response.status, json.loads(self.response.read())

    def log_in(self, tenant=TENANT, **changes):
        return self.ask("/login/%s/oauth2/v2.0/token" % tenant, dict({
            "grant_type": "client_credentials",
            "client_id": "11111111-2222-3333-4444-555555555555",
            "client_secret": "s3~cr.et-_&=+%x",
            "scope": "https://graph.test/.default"}, **changes))

    def graph(self, target, **query):
        if not self.tokens:
            self.tokens["graph"] = self.log_in()[1]["access_token"]
        if not target.startswith("http"):
            target = "/graph/v1.0" + target
        return self.ask(target, None, self.tokens["graph"], **query)

    def rows(self, target, **query):
        """Entries of all pages, and the delta link."""
        status, page = self.graph(target, **query)
        self.assertEqual(status, 200, page)
        found = list(page["value"])
        while LINK in page:
            self.assertNotIn(DELTA, page)
            page = self.graph(page[LINK])[1]
            found += page["value"]
        return found, page.get(DELTA)

    def code(self, target, **query):
        return self.graph(target, **query)[1]["error"]["code"]

    def people(self, status=None):
        people = json.loads(self.raw("/_control/directory")[1])["people"]
        return [p for p in people if status in (None, p["status"])]

    def test_token_refused(self):
        for status, number, arguments in (
                (401, 7000215, {"client_secret": "wrong"}),
                (400, 700016, {"client_id": "wrong"}),
                (400, 90002, {"tenant": "common"}),
                (400, 70011, {"scope": "User.Read"}),
                (400, 70003, {"grant_type": "password"})):
            got, reply = self.log_in(**arguments)
            self.assertEqual((got, reply["error_codes"]), (status, [number]))
            self.assertIn("AADSTS%d" % number, reply["error_description"])

    def test_token_expires(self):
        self.assertEqual(self.graph("/users")[0], 200)
        self.control(expire_tokens=True)
        self.assertEqual(self.code("/users"), "InvalidAuthenticationToken")

    def test_list(self):
        rows, delta = self.rows("/users", select=SELECT, top=999)
        self.assertIsNone(delta)
        self.assertEqual(len(rows), 250 - len(self.people("left")))
        self.assertEqual(set(rows[0]), set(SELECT.split(",")))
        self.assertIn(None, [row["mobilePhone"] for row in rows])
        guests = [r for r in rows if "#EXT#" in r["userPrincipalName"]]
        self.assertTrue(guests)
        self.assertNotIn("department", self.rows("/users")[0][0])

    def test_refused(self):
        self.assertEqual(self.graph("/users", select="skills")[0], 501)
        self.assertEqual(self.graph("/users", top=1000)[0], 400)
        self.assertEqual(self.graph("/users", skip=10)[0], 400)
        self.assertEqual(self.graph("/groups/none/members")[0], 404)
        self.control(settings={"entra": {"permissions": ["User.Read.All"]}})
        self.assertEqual(self.code("/groups"), "Authorization_RequestDenied")

    def test_groups(self):
        groups = self.rows("/groups")[0]
        self.assertEqual(len(groups), 30)
        kinds = set()
        for group in groups:
            where = "/groups/%s/" % group["id"]
            for member in self.rows(where + "members", select="id")[0]:
                kinds.add(member["@odata.type"].rsplit(".", 1)[1])
                if member["@odata.type"].endswith("group"):
                    self.assertEqual(
                        [p["id"] for p in self.rows("/groups/%s/memberOf" %
                                                    member["id"])[0]],
                        [group["id"]])
        self.assertEqual(kinds, {"user", "group", "device"})

    def test_delta(self):
        self.control(directory="tiny", settings={"entra": {"page_size": 5}})
        rows, link = self.rows("/users/delta", select=SELECT)
        self.assertEqual(len(rows), 12)
        self.assertEqual(self.rows(link)[0], [])
        by_name = {row["displayName"]: row for row in rows}
        self.assertNotIn("mobilePhone", by_name["Sofia Lind"])
        self.control(edit={"people": {
            "li.na": None, "tom.becker": {"status": "left"},
            "anna.keller": {"mobile": None, "title": "not selected"},
            "emma.dubois": {"title": "CEO"}, "jonas.holm": {"uid": "j"}}})
        changes = {row["id"]: row for row in self.rows(link)[0]}
        self.assertEqual(
            changes[by_name["Li Na"]["id"]]["@removed"]["reason"], "deleted")
        self.assertEqual(
            changes[by_name["Tom Becker"]["id"]]["@removed"]["reason"],
            "changed")
        self.assertIsNone(
            changes[by_name["Anna Keller"]["id"]]["mobilePhone"])
        self.assertEqual(changes[by_name["Jonas Holm"]["id"]]
                         ["userPrincipalName"], "j@corp.test")
        self.assertEqual(len(changes), 4)

    def test_delta_of_groups(self):
        self.control(directory="tiny")
        rows, link = self.rows("/groups/delta", select="displayName,members")
        self.assertEqual(len({row["id"] for row in rows}), 5)
        self.assertGreater(len(rows), 5)
        self.control(edit={"people": {"li.na": {"departments": [5]}}})
        changes = self.rows(link)[0]
        self.assertEqual(
            sorted(("@removed" in row["members@delta"][0], row["displayName"])
                   for row in changes),
            [(False, "Finance & People"), (True, "Sales")])

    def test_delta_begins_now(self):
        rows, link = self.rows("/users/delta", deltatoken="latest")
        self.assertEqual(rows, [])
        self.assertEqual(self.rows(link)[0], [])

    def test_delta_tokens_end(self):
        link = self.rows("/users/delta")[1]
        self.control(settings={"entra": {"delta_tokens": "gone"}})
        self.assertEqual(self.graph(link)[0], 410)
        self.assertIn("/users/delta?$deltatoken=",
                      self.response.getheader("Location"))
        self.control(settings={"entra": {"delta_tokens": "expired"}})
        self.assertEqual(self.code(link), "Directory_ExpiredPageToken")
        self.assertEqual(self.graph("/users/delta")[0], 200)

    def test_odd_rounds(self):
        self.control(settings={"entra": {
            "empty_pages": True, "duplicates": True, "page_size": 50}})
        rows = self.rows("/users/delta", select=SELECT)[0]
        last = {row["id"]: row.get("displayName") for row in rows}
        self.assertIn("of yesterday", [r.get("displayName") for r in rows])
        self.assertNotIn("of yesterday", last.values())
        self.control(settings={"entra": {"link_base": "http://other.test"}})
        page = self.graph("/users/delta")[1]
        self.assertTrue(page[LINK].startswith("http://other.test/graph/"))

    def test_circles(self):
        self.control(faults=[{"kind": "cursor_repeat", "path": "*/delta"}],
                     settings={"entra": {"page_size": 50}})
        first = self.graph("/users/delta")[1]
        second = self.graph(first[LINK])[1]
        self.assertEqual(first[LINK], second[LINK])
        self.control(faults=[{"kind": "endless_cursor", "path": "*/delta"}])
        links = set()
        page = self.graph("/users/delta")[1]
        for _ in range(12):
            links.add(page[LINK])
            page = self.graph(page[LINK])[1]
        self.assertEqual(len(links), 12)

    def test_throttled(self):
        self.control(faults=[{"kind": "throttle", "seconds": 0}])
        self.assertEqual(self.ask("/graph/v1.0/users")[0], 429)
        self.assertEqual(self.response.getheader("Retry-After"), "1")
