"""Checks of the SCIM service."""

import json
from urllib.parse import quote, urlencode

from check_base import Base

USERS = "/scim/v2/Users"
GROUPS = "/scim/v2/Groups"


class Scim(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    def ask(self, target, token="t0ken", **query):
        """Status and document."""
        if query:
            target += "?" + urlencode(query)
        self.client.request("GET", target,
                            headers={"Authorization": "Bearer " + token})
        self.response = self.client.getresponse()
        return self.response.status, json.loads(self.response.read())

    def settings(self, **settings):
        self.control(settings={"scim": settings})

    def ids(self, page):
        return [row["id"] for row in page[1]["Resources"]]

    def test_numbers(self):
        total = self.ask(USERS)[1]["totalResults"]
        self.assertEqual(len(self.ids(self.ask(USERS))), 20)
        last = self.ids(self.ask(USERS, startIndex=total - 9, count=100))
        self.assertEqual(len(last), 10)
        self.assertEqual(self.ids(self.ask(USERS, startIndex=total + 1)), [])
        self.assertEqual(len(self.ids(self.ask(USERS, count=1000))), 100)

    def test_quirks(self):
        first = self.ids(self.ask(USERS))
        self.settings(wraps=True)
        self.assertEqual(self.ids(self.ask(USERS, startIndex=9999)), first)
        self.settings(wraps=False, absent_resources=True, totals="text")
        page = self.ask(USERS, startIndex=9999)[1]
        self.assertNotIn("Resources", page)
        self.assertIsInstance(page["totalResults"], str)
        self.settings(totals=None, ignores_paging=True)
        page = self.ask(USERS, startIndex=50, count=5)
        self.assertNotIn("totalResults", page[1])
        self.assertEqual(self.ids(page), first)

    def test_cursors(self):
        self.assertNotIn("nextCursor", self.ask(USERS, cursor="")[1])
        self.settings(cursors="asked")
        self.assertNotIn("nextCursor", self.ask(USERS)[1])
        seen, cursor = [], ""
        while cursor is not None:
            page = self.ask(USERS, cursor=cursor, count=60)
            seen += self.ids(page)
            cursor = page[1].get("nextCursor")
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(len(seen), page[1]["totalResults"])
        self.settings(expired_cursors=1)
        refused = self.ask(USERS, cursor="c~60")
        self.assertEqual((refused[0], refused[1]["scimType"]),
                         (400, "expiredCursor"))
        self.assertEqual(self.ask(USERS, cursor="c~60")[0], 200)
        self.assertEqual(self.ask(USERS, cursor="x")[1]["scimType"],
                         "invalidCursor")

    def test_groups(self):
        group = self.ask(GROUPS)[1]["Resources"][0]
        self.assertEqual({m["type"] for m in group["members"]} -
                         {"User", "Group"}, set())
        self.settings(list_members=False)
        self.assertNotIn("members", self.ask(GROUPS)[1]["Resources"][0])
        self.assertEqual(self.ask(GROUPS + "/" + group["id"])[1]["members"],
                         group["members"])
        self.settings(groups=False)
        self.assertEqual(self.ask(GROUPS)[0], 404)

    def test_changes(self):
        since = 'filter=meta.lastModified ge "2026-06-01T00:00:00Z"'
        target = USERS + "?" + quote(since, safe="=")
        self.assertEqual(self.ids(self.ask(target)), [])
        uid = next(iter(self.ask(USERS)[1]["Resources"]))["userName"][:-10]
        self.control(edit={"people": {uid: {"title": "New"}}})
        self.assertEqual(self.ids(self.ask(target)), ["usr-" + uid])
        self.assertEqual(self.ask(USERS, filter='userName gt "a"')[0], 400)
        self.settings(filters=False)
        self.assertEqual(self.ask(target)[1]["scimType"], "invalidFilter")

    def test_logging_in(self):
        self.assertEqual(self.ask(USERS, token="x")[0], 401)
        self.assertEqual(self.response.getheader("WWW-Authenticate"), "Bearer")
        body = urlencode({"grant_type": "client_credentials",
                          "client_id": "cl&ient",
                          "client_secret": "s3cr+et%"})
        self.client.request("POST", "/scim/oauth/token", body)
        token = json.loads(self.client.getresponse().read())["access_token"]
        self.assertEqual(self.ask(USERS, token=token)[0], 200)
        self.control(expire_tokens=True)
        self.assertEqual(self.ask(USERS, token=token)[0], 401)
