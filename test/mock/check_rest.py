"""Checks of the plain service."""

import base64
import json
import time
from urllib.parse import quote, urlencode

from check_base import Base

PEOPLE = 120


class Rest(Base):
    arguments = ("--seed", "1", "--departments", "12", "--users", str(PEOPLE))

    def ask(self, target, body=None, method=None, **headers):
        """Status and document."""
        self.client.request(method or ("GET" if body is None else "POST"),
                            target, body, headers)
        self.response = self.client.getresponse()
        return self.response.status, json.loads(self.response.read())

    def people(self, target, **headers):
        status, page = self.ask("/rest/" + target, **headers)
        self.assertEqual(status, 200, page)
        return page

    def settings(self, **settings):
        self.control(settings={"rest": settings})

    def test_numbers(self):
        sizes = [len(self.people("page/people?page=%d" % n)["items"])
                 for n in (1, 2, 3, 4)]
        self.assertEqual(sizes, [50, 50, 20, 0])
        page = self.people("offset/people?start=100&size=30")
        self.assertEqual((len(page["items"]), page["total"]), (20, PEOPLE))
        self.settings(short_pages=True, wrong_total=2)
        page = self.people("offset/people?start=0")
        self.assertEqual((len(page["items"]), page["total"]), (49, 122))

    def test_cursors(self):
        seen, cursor = set(), None
        while True:
            page = self.people("cursor/people" + (
                "?cursor=" + quote(cursor, safe="") if cursor else ""))
            seen.update(row["id"] for row in page["items"])
            cursor = page["cursor"]
            if not page["more"]:
                break
        self.assertEqual(len(seen), PEOPLE)
        self.assertEqual(self.ask("/rest/cursor/people?cursor=x")[0], 400)
        page = self.ask("/rest/cursor/people", json.dumps({"cursor": cursor}))
        self.assertEqual(page[0], 200)

    def test_links(self):
        page = self.people("next/people")
        self.assertIn("/rest/next/people?from=50", page["links"]["next"])
        page = self.people("next/people?from=100")
        self.assertIsNone(page["links"]["next"])
        self.people("link/people?from=50")
        self.assertIn('/rest/link/people?from=100>; rel="next"',
                      self.response.getheader("Link"))
        self.people("link/people?from=100")
        self.assertIsNone(self.response.getheader("Link"))
        self.settings(link_base="http://elsewhere.test")
        self.assertTrue(self.people("v1/people")["links"]["next"]
                        .startswith("http://elsewhere.test/"))

    def test_logging_in(self):
        client = {"id": "us & them", "secret": "s3cr+t/%:="}
        pair = ":".join(quote(value, safe="") for value in client.values())
        basic = "Basic " + base64.b64encode(pair.encode()).decode()
        replies = [
            self.ask("/rest/token/get?" + urlencode(client)),
            self.ask("/rest/token/json", json.dumps(client)),
            self.ask("/rest/token/form", urlencode(client)),
            self.ask("/rest/token/basic", "", Authorization=basic)]
        for status, reply in replies:
            self.assertEqual(status, 200, reply)
        token = replies[0][1]["data"]["token"]
        self.assertEqual(self.ask("/rest/token/get?id=x")[0], 401)
        self.settings(login="header")
        self.assertEqual(self.ask("/rest/all/people")[0], 401)
        self.people("all/people", Authorization="Bearer " + token)
        self.control(expire_tokens=True)
        self.assertEqual(self.ask("/rest/all/people",
                                  Authorization="Bearer " + token)[0], 401)
        self.settings(login="key_query")
        self.people("all/people?" + urlencode({"key": "k3y/+&="}))
        self.settings(login="key_header")
        self.people("all/people", **{"X-Api-Key": "k3y/+&="})
        self.assertEqual(self.ask("/rest/all/people")[0], 401)

    def test_changes(self):
        last = self.people("all/changes")["last"]
        self.assertEqual(self.people("all/changes?after=%d" % last)["items"],
                         [])
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        uid = self.people("all/people")["items"][0]["id"]
        self.control(edit={"people": {uid: None}})
        for query in "after=%d" % last, "since=" + since:
            rows = self.people("all/changes?" + query)["items"]
            self.assertEqual([(row["id"], row["gone"]) for row in rows],
                             [(uid, True)])
        self.settings(changes="gone")
        self.assertEqual(self.ask("/rest/all/changes")[0], 410)

    def test_throttling(self):
        self.control(faults=[{"path": "/rest/*", "kind": "throttle",
                              "seconds": 0, "times": 1}])
        self.settings(throttle={"status": 429, "header": "X-Reset",
                                "value": "+5"})
        status, page = self.ask("/rest/all/people")
        self.assertEqual((status, page["error"]["code"]), (429, "slow_down"))
        wait = int(self.response.getheader("X-Reset")) - time.time()
        self.assertTrue(3 < wait <= 5, wait)
