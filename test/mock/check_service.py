"""Checks of the WeCom service, of the directory and of the control calls."""

import json
import socket
import time
import unittest

import directory
from check_base import API, Base, in_parallel


class Tokens(Base):
    def test_same_token_within_lifetime(self):
        first, second = self.login(), self.login()
        self.assertEqual(first["access_token"], second["access_token"])
        self.assertLessEqual(len(first["access_token"]), 512)
        self.assertEqual(first["expires_in"], 7200)
        self.assertNotEqual(self.login("sync-secret")["access_token"],
                            first["access_token"])

    def test_refused(self):
        self.assertEqual(self.login("wrong")["errcode"], 40001)
        self.assertEqual(self.login(corpid="wrong")["errcode"], 40013)
        self.assertEqual(self.login(corpid="")["errcode"], 41002)
        self.assertEqual(self.login("")["errcode"], 41004)

    def test_banned_after_wrong_calls(self):
        self.control(settings={"wecom": {"wrong_secret_limit": 3}})
        codes = [self.login("wrong")["errcode"] for _ in range(4)]
        self.assertEqual(codes, [40001, 40001, 40001, 45009])
        self.assertEqual(self.login()["errcode"], 45009)

    def test_token_checked(self):
        self.assertEqual(self.code("/department/list", secret=None), 41001)
        self.assertEqual(self.code("/department/list", secret=None,
                                   access_token="no"), 40014)
        self.assertEqual(self.code("/department/list"), 0)
        self.control(expire_tokens=True)
        self.assertEqual(self.code("/department/list"), 42001)
        old = self.tokens.pop("app-secret")
        self.assertEqual(self.code("/department/list"), 0)
        self.assertNotEqual(self.tokens["app-secret"], old)

    def test_expires_in_the_middle(self):
        self.control(faults=[{"path": "*/user/list", "after": 2,
                              "kind": "expire_token"}])
        codes = [self.code("/user/list", department_id=1) for _ in range(4)]
        self.assertEqual(codes, [0, 0, 42001, 42001])
        self.tokens.clear()
        self.assertEqual(self.code("/user/list", department_id=1), 0)

    def test_lifetime_setting(self):
        self.control(settings={"wecom": {"token_lifetime": 0}})
        self.assertEqual(self.code("/department/list"), 42001)


class Reading(Base):
    def test_departments(self):
        rows = self.get("/department/list")["department"]
        self.assertEqual(len(rows), 30)
        by_id = {row["id"]: row for row in rows}
        self.assertEqual(by_id[1]["parentid"], 0)
        for row in rows:
            self.assertTrue(row["parentid"] == 0 or row["parentid"] in by_id)
        self.assertIn(4294967295, [row["order"] for row in rows])
        places = [row["id"] for row in rows]
        self.assertTrue(any(places.index(row["parentid"]) >
                            places.index(row["id"])
                            for row in rows if row["parentid"]))

    def test_department_subtree(self):
        by_id = {row["id"]: row for row
                 in self.get("/department/list")["department"]}
        top = next(row["parentid"] for row in by_id.values()
                   if row["parentid"] > 1)
        below = {row["id"] for row
                 in self.get("/department/list", id=top)["department"]}
        self.assertIn(top, below)
        self.assertLess(len(below), 30)
        self.assertEqual(below, {d for d in by_id if self.is_below(
            by_id, d, top)})

    def is_below(self, by_id, ident, top):
        while ident and ident != top:
            ident = by_id[ident]["parentid"]
        return ident == top

    def test_department_forms(self):
        simple = self.get("/department/simplelist")["department_id"]
        self.assertEqual(sorted(simple[0]), ["id", "order", "parentid"])
        single = self.get("/department/get", id=1)["department"]
        self.assertEqual(single["parentid"], 0)
        self.assertEqual(self.code("/department/get", id=999999), 60003)
        self.assertEqual(self.code("/department/list", id=999999), 60003)
        self.assertEqual(self.code("/user/list", department_id=999999), 60003)
        self.assertEqual(self.code("/user/list", department_id="x"), 40058)
        self.assertEqual(self.code("/user/list"), 40058)

    def test_people(self):
        people = self.read_all()[1]
        self.assertEqual(len(people), 150)
        rows = [copies[0] for copies in people.values()]
        for uid, copies in people.items():
            row = copies[0]
            self.assertEqual(len(copies), len(row["department"]), uid)
            self.assertTrue(all(copy == row for copy in copies))
            self.assertEqual(len(row["department"]), len(row["order"]))
            self.assertEqual(len(row["department"]),
                             len(row["is_leader_in_dept"]))
            self.assertIn(row["gender"], ("0", "1", "2"))
        self.assertEqual({row["status"] for row in rows}, {1, 2, 4, 5})
        self.assertTrue(any(row.get("main_department") and
                            row["main_department"] not in row["department"]
                            for row in rows))
        for key in ("mobile", "email", "biz_mail"):
            self.assertTrue(any(key not in row for row in rows), key)
            self.assertTrue(any(row.get(key) == "" for row in rows), key)
        self.assertTrue(any(uid != uid.lower() for uid in people))
        self.assertTrue(any(len(c) == 3 for c in people.values()))

    def test_one_person(self):
        row = self.read_all()[1]
        uid = next(uid for uid in row if uid != uid.lower())
        found = self.get("/user/get", userid=uid.lower())
        self.assertEqual(found["userid"], uid)
        self.assertEqual(found["name"], row[uid][0]["name"])
        self.control(edit={"people": {uid: None}})
        self.assertEqual(self.code("/user/get", userid=uid), 60111)
        self.assertNotIn(uid, self.read_all()[1])

    def test_simplelist(self):
        rows = self.get("/user/simplelist", department_id=1)["userlist"]
        full = self.get("/user/list", department_id=1)["userlist"]
        self.assertEqual([r["userid"] for r in rows],
                         [r["userid"] for r in full])

    def test_scope(self):
        by_id, everybody = self.read_all()
        top = next(row["parentid"] for row in by_id.values()
                   if row["parentid"] > 1)
        other = next(d for d in by_id if d > 1
                     and not self.is_below(by_id, d, top))
        self.control(settings={"wecom": {"credentials": {
            "narrow": {"mode": "app", "scope": [top]}}}})
        units, people = self.read_all("narrow")
        self.assertNotIn(1, units)
        self.assertLess(len(people), len(everybody))
        for copies in people.values():
            self.assertLessEqual(set(copies[0]["department"]), set(units))
        code = self.code("/user/list", secret="narrow", department_id=other)
        self.assertEqual(code, 60011)
        self.assertEqual(self.code("/department/list", secret="narrow",
                                   id=1), 60011)
        hidden = next(uid for uid in everybody if uid not in people)
        self.assertEqual(self.code("/user/get", secret="narrow",
                                   userid=hidden), 60011)

    def test_new_app(self):
        for row in self.read_all("new-app-secret")[1].values():
            self.assertFalse({"avatar", "gender", "mobile", "email",
                              "biz_mail", "qr_code", "address"} & set(row[0]))
            self.assertIn("position", row[0])

    def test_matches_the_model(self):
        model = json.loads(self.raw("/_control/directory")[1])
        people = self.read_all()[1]
        self.assertEqual({p["uid"] for p in model["people"]}, set(people))
        again = directory.generate(1, 30, 150).as_dict()
        self.assertEqual(model, again)


class Ids(Base):
    def pages(self, limit):
        cursor, rows, sizes = None, [], []
        while cursor != "":
            body = {"limit": limit}
            if cursor:
                body["cursor"] = cursor
            page = self.get("/user/list_id", json.dumps(body),
                            secret="ids-secret")
            rows += page["dept_user"]
            sizes.append(len(page["dept_user"]))
            cursor = page["next_cursor"]
        return rows, sizes

    def test_pages(self):
        rows, sizes = self.pages(50)
        self.assertTrue(all(size == 50 for size in sizes[:-1]))
        self.assertGreater(len(sizes), 3)
        self.assertEqual(rows, self.pages(10000)[0])
        people = self.read_all("sync-secret")[1]
        self.assertEqual(
            sorted((r["userid"], r["department"]) for r in rows),
            sorted((uid, d) for uid, copies in people.items()
                   for d in copies[0]["department"]))

    def test_refused(self):
        def code(body, secret="ids-secret"):
            return self.code("/user/list_id", body, secret=secret)
        self.assertEqual(code("{}", "app-secret"), 48002)
        self.assertEqual(code("{}", "new-app-secret"), 48002)
        self.assertEqual(code('{"cursor":"made up"}'), 50100)
        self.assertEqual(code('{"cursor":"Zm9v"}'), 50100)
        self.assertEqual(code('{"limit":10001}'), 40058)
        self.assertEqual(code("{"), 40058)
        self.assertEqual(self.code("/user/list_id", secret="ids-secret"),
                         43002)

    def test_details_refused(self):
        for path in ("/department/list", "/department/get", "/user/list",
                     "/user/simplelist", "/user/get"):
            self.assertEqual(self.code(path, secret="ids-secret", id=1,
                                       department_id=1, userid="x"), 48009)
        self.assertEqual(self.code("/department/simplelist",
                                   secret="ids-secret"), 0)

    def test_bent_cursors(self):
        self.control(faults=[{"path": "*/list_id", "kind": "cursor_repeat"}])
        first = self.get("/user/list_id", '{"limit":10}', secret="ids-secret")
        again = self.get("/user/list_id", json.dumps(
            {"limit": 10, "cursor": first["next_cursor"]}),
            secret="ids-secret")
        self.assertEqual(first["next_cursor"], again["next_cursor"])
        self.assertEqual(first["dept_user"], again["dept_user"])
        self.control(faults=[{"path": "*/list_id", "kind": "endless_cursor"}])
        cursors, body = [], {"limit": 10000}
        for _ in range(5):
            page = self.get("/user/list_id", json.dumps(body),
                            secret="ids-secret")
            body["cursor"] = page["next_cursor"]
            cursors.append(page["next_cursor"])
        self.assertEqual(len(set(cursors)), 5)
        self.assertNotIn("", cursors)


class Control(Base):
    def test_counts(self):
        self.get("/department/list")
        state = self.state()
        self.assertEqual(state["by_path"], {API + "/gettoken": 1,
                                            API + "/department/list": 1})
        self.assertEqual(state["in_flight_max"], 1)
        self.assertEqual(state["last"][0]["query_keys"],
                         ["corpid", "corpsecret"])
        self.raw(API + "/nothing")
        self.client.request("GET", API + "/user/list",
                            headers={"Authorization": "Bearer x"})
        self.client.getresponse().read()
        self.assertEqual(self.state()["last"][-1]["authorization"],
                         "Bearer x")

    def test_mutate(self):
        units, before = self.read_all()
        said = self.control(mutate={"seed": 3, "percent": 20})["mutate"]
        moved, after = self.read_all()
        self.assertEqual(set(before) - set(after), set(said["removed"]))
        self.assertEqual(set(after) - set(before), set(said["added"]))
        self.assertEqual({d for d in units if units[d]["parentid"] !=
                          moved[d]["parentid"]}, set(said["moved"]))
        for uid in said["changed"]:
            self.assertNotEqual(before[uid], after[uid])
        for part in said.values():
            self.assertTrue(part)
        self.control(reset=True)
        self.tokens.clear()
        self.assertEqual(self.read_all()[1], before)

    def test_edit(self):
        self.control(directory="tiny")
        self.control(edit={
            "people": {"li.na": {"uid": "li.na2", "mobile": None,
                                 "departments": [5]},
                       "new.one": {"name": "New", "departments": [
                           {"department": 2, "leader": True}]}},
            "departments": {"4": None, "9": {"name": "Nine", "parent": 5}}})
        units, people = self.read_all()
        self.assertEqual(sorted(units), [1, 2, 3, 5, 9])
        self.assertEqual(people["li.na2"][0]["department"], [5])
        self.assertNotIn("mobile", people["li.na2"][0])
        self.assertEqual(people["new.one"][0]["is_leader_in_dept"], [1])

    def test_varied_case(self):
        self.control(settings={"wecom": {"vary_case": True}})
        everybody = self.read_all()[1]
        self.assertGreater(len(everybody), 150)
        self.assertEqual(len({uid.lower() for uid in everybody}), 150)

    def test_latency_and_throughput(self):
        self.control(directory={"seed": 2, "departments": 50, "users": 200},
                     latency_ms=50)
        self.get("/department/list")
        token = self.tokens["app-secret"]

        def fetch_many():
            client = self.connect()
            for number in range(2, 22):
                self.raw(API + "/user/list", client=client,
                         access_token=token, department_id=number)
        start = time.monotonic()
        in_parallel(8, fetch_many)
        spent = time.monotonic() - start
        self.assertGreaterEqual(spent, 20 * 0.05)
        self.assertLess(spent, 4)
        self.assertGreater(self.state()["in_flight_max"], 4)

    def test_pipelined_and_reused(self):
        request = b"GET /_control HTTP/1.1\r\nHost: x\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.server.port)) as sock:
            sock.sendall(request * 2 + request.replace(
                b"Host", b"Connection: close\r\nHost"))
            data = b""
            while True:
                more = sock.recv(65536)
                if not more:
                    break
                data += more
        self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 3)


class Generator(unittest.TestCase):
    def test_deterministic_and_fast(self):
        start = time.monotonic()
        one = directory.generate(7, 2000, 20000)
        self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(len(one.people), 20000)
        self.assertEqual(len(one.departments), 2000)
        self.assertEqual(len(one.folded), 20000)
        self.assertEqual(max(one.depth(d) for d in one.departments),
                         directory.MAX_DEPTH)
        small = [directory.generate(7, 20, 100) for _ in range(2)]
        said = [d.mutate(1, 10) for d in small]
        self.assertEqual(said[0], said[1])
        self.assertEqual(small[0].as_dict(), small[1].as_dict())

    def test_unique_contacts(self):
        people = directory.generate(1, 50, 3000).people.values()
        for key in ("mobile", "email", "biz_email"):
            values = [getattr(p, key).lower().replace(" ", "").replace(
                "-", "") for p in people if getattr(p, key)]
            self.assertEqual(len(values), len(set(values)), key)

    def test_tiny(self):
        made = directory.tiny()
        self.assertEqual((len(made.departments), len(made.people)), (5, 12))

    def test_moves_keep_a_tree(self):
        made = directory.generate(1, 200, 10)
        for seed in range(5):
            made.mutate(seed, 50)
        depths = [made.depth(d) for d in made.departments]
        self.assertLessEqual(max(depths), directory.MAX_DEPTH)
        self.assertEqual(len(made.subtree(directory.ROOT)), 200)
