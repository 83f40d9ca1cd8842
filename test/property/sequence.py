"""Sequences of steps, made from a seed, and how they look in SQL.

The world is small, so that everything collides with everything: the same few
people, departments and values come from four sources and by hand.
"""

import json
import random

from model import Source

# What the model does not follow, so that it is not compared.  True: it is.
SWITCHES = {
    # who leads a department, among members whose own record names none any more
    "owners_of_silent": False,
}

USERS = ("u1", "u2", "u3", "u4", "u5", "u6")
DEPARTMENTS = ("a", "b", "c", "7")
USERNAMES = ("ann", "bob", "cem", "Ann", "dan")
EMAILS = ("x@e.org", "y@e.org", "Y@e.org", "z@e.org")
PHONES = ("100", "200", "300")
PUSHED = ("api", "hr", "it")


class Maker:
    def __init__(self, seed, switches):
        self.random = random.Random(seed)
        self.switches = switches
        # the fewer there are, the more they meet
        self.users = self.random.sample(USERS, self.random.randint(2, 6))
        self.usernames = self.random.sample(USERNAMES, self.random.randint(2, 4))
        self.favourite = self.random.choice(PUSHED)
        self.cyclic = self.chance(0.5)
        self.slow = self.chance(0.12)   # with syncs and undos, which need a worker

    def chance(self, p):
        return self.random.random() < p

    def sources(self):
        choice = self.random.choice
        policies = ("delete", "delete", "disable", "disable", "keep")
        keys = ((), ("username",), ("email",), ("username", "email"), ("username", "phone"))
        limits = (None, None, ("username", "nickname", "enabled"), ("email", "title", "level"))
        return [
            Source("api", on_deleted=choice(policies)),
            Source("hr", match_keys=choice(keys), on_deleted=choice(policies), priority=10),
            Source("it", match_keys=choice(keys), on_deleted=choice(policies),
                   priority=choice((5, 10, 20)), columns=choice(limits)),
            Source("dir", "property", match_keys=choice(keys), on_deleted=choice(policies),
                   on_missing=choice(policies), priority=choice((1, 50)))]

    def steps(self):
        makers, weights = [self.push, self.by_hand], [12, 3]
        if self.slow:
            makers += [self.sync, self.undo]
            weights += [6, 5]
        steps = self.populate() if self.chance(0.6) else []
        steps += [self.random.choices(makers, weights)[0]()
                  for _ in range(self.random.randint(4, 10))]
        if self.slow and self.chance(0.5):
            steps.append({"step": "undo_earlier", "task": self.random.randint(1, 6)})
        return steps

    # -- records ----------------------------------------------------------

    def some(self, record, key, p, values):
        """Sets the key in a share of the cases."""
        if self.chance(p):
            record[key] = self.random.choice(values)

    def user(self):
        record = {"uid": self.random.choice(self.users)}
        self.some(record, "username", 0.6, (*self.usernames * 2, None, ""))
        self.some(record, "email", 0.4, EMAILS + (None, ""))
        self.some(record, "phone", 0.3, PHONES + (None, ""))
        self.some(record, "nickname", 0.3, ("A", "B", None, ""))
        self.some(record, "title", 0.15, ("T", None, ""))
        self.some(record, "level", 0.15, (1, 2, "3", None, 0, "x"))
        self.some(record, "enabled", 0.15, (True, False, False, None))
        self.some(record, "isDeleted", 0.2, (True, True, True, False, None))
        self.some(record, "shoes", 0.05, (42, 43))
        if self.chance(0.65):
            record["departments"] = self.memberships()
        return self.spoil(record, "departments")

    def memberships(self):
        if self.chance(0.1):
            return self.random.choice((None, []))
        return [self.membership() for _ in range(self.random.randint(0, 3))]

    def membership(self):
        uid = self.department_uid()
        if self.chance(0.4):
            return uid
        item = {"uid": uid}
        self.some(item, "isOwner", 0.4, (True, True, False))
        self.some(item, "isMain", 0.4, (True, True, False))
        return item

    def department_uid(self):
        uid = self.random.choice(DEPARTMENTS)
        return 7 if uid == "7" and self.chance(0.5) else uid

    def department(self):
        uid = self.department_uid()
        record = {"uid": uid}
        self.some(record, "title", 0.4, ("A", "B", None, ""))
        self.some(record, "sort", 0.2, (1, 2, "3", None, "x"))
        self.some(record, "enabled", 0.15, (True, False, None))
        self.some(record, "isDeleted", 0.35, (True, True, True, False, None))
        self.some(record, "owners", 0.3, ([], None, ["u1"], ["u2"], ["u1", "u3", "nobody"]))
        if self.chance(0.5):
            parents = DEPARTMENTS if self.cyclic else DEPARTMENTS[:DEPARTMENTS.index(str(uid))]
            record["parentUid"] = self.random.choice(parents + (None, ""))
        return self.spoil(record, "owners")

    def spoil(self, record, lists):
        """A record that is set aside at once, now and then."""
        if self.chance(0.04):
            return self.random.choice((
                {k: v for k, v in record.items() if k != "uid"},
                dict(record, uid=None), dict(record, uid=""), dict(record, uid=True),
                dict(record, **{lists: "a"}), "text"))
        return record

    # -- steps ------------------------------------------------------------

    def populate(self):
        """A tree to begin with, and people in it."""
        step = {"step": "push", "source": self.favourite, "match_key": None}
        departments = [{"uid": uid, "parentUid": self.random.choice((None, *DEPARTMENTS[:i]))}
                       for i, uid in enumerate(DEPARTMENTS)]
        return [dict(step, type="department", records=departments),
                dict(step, type="user", records=[self.user() for _ in self.users])]

    def push(self):
        kind = self.random.choice(("user", "user", "department"))
        make = self.user if kind == "user" else self.department
        step = {"step": "push", "source": self.source(), "type": kind,
                "match_key": None, "repeat": self.chance(0.25),
                "records": [make() for _ in range(self.random.randint(1, 4))]}
        if kind == "user" and self.chance(0.15):
            step["match_key"] = self.random.choice(("username", "email", "phone"))
        return step

    def sync(self):
        return {"step": "sync", "source": "dir", "repeat": self.chance(0.25),
                "departments": [self.department() for _ in range(self.random.randint(1, 4))],
                "users": [self.user() for _ in range(self.random.randint(1, 5))]}

    def undo(self):
        return {"step": "undo"}

    def row(self, kind):
        if self.chance(0.3):
            return ("hand", kind, self.random.choice(("h1", "h2")))
        uid = self.random.choice(self.users) if kind == "user" else str(self.department_uid())
        return ("record", self.source(), kind, uid)

    def source(self):
        return self.favourite if self.chance(0.6) else self.random.choice(PUSHED)

    def by_hand(self):
        what = self.random.choice(("insert", "insert", "update", "update", "update",
                                   "delete", "join", "join", "part"))
        return dict(getattr(self, "hand_" + what)(), step="by_hand", what=what)

    def hand_insert(self):
        kind = self.random.choice(("user", "user", "department"))
        label = self.random.choice(("h1", "h2"))
        if kind == "department":
            return {"kind": kind, "label": label, "values": {"title": "by hand"}}
        values = {}
        self.some(values, "username", 0.8, self.usernames)
        self.some(values, "email", 0.5, EMAILS)
        self.some(values, "phone", 0.3, PHONES)
        self.some(values, "enabled", 0.3, (False,))
        return {"kind": kind, "label": label, "values": values}

    def hand_update(self):
        values = self.random.choice((
            {"enabled": False}, {"enabled": False}, {"enabled": True}, {"protected": True},
            {"protected": False}, {"nickname": "by hand"}, {"email": "y@e.org"},
            {"username": "dan"}))
        return {"row": self.row("user"), "values": values}

    def hand_delete(self):
        return {"row": self.row(self.random.choice(("user", "department")))}

    def hand_join(self):
        return {"department": self.row("department"), "user": self.row("user"),
                "is_owner": self.chance(0.3)}

    def hand_part(self):
        return {"department": self.row("department"), "user": self.row("user")}


# -- SQL ------------------------------------------------------------------

TABLES = {"user": "uds.users", "department": "uds.departments"}


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'%s'" % str(value).replace("'", "''")


def array(values):
    return "NULL" if values is None else literal("{%s}" % ",".join(values))


def row_sql(reference):
    """The key of the row that a step by hand is about."""
    if reference[0] == "hand":
        return "(SELECT id FROM %s WHERE hand = %s)" % (TABLES[reference[1]],
                                                        literal(reference[2]))
    return ("(SELECT t.id FROM uds.records r JOIN uds.sources s ON s.id = r.source_id"
            " JOIN uds.record_resources l ON l.record_id = r.id"
            " JOIN %s t ON t.id::text = l.resource_pk"
            " WHERE s.name = %s AND r.data_type = %s AND r.uid = %s)"
            % (TABLES[reference[2]], *map(literal, reference[1:])))


def source_sql(source):
    """The source exists, from the first sequence on."""
    return ("SELECT uds_alter_source(%s, match_keys => %s, on_deleted => %s, on_missing => %s,"
            " priority => %d, columns => %s);"
            % (literal(source.name), array(source.match_keys), literal(source.on_deleted),
               literal(source.on_missing), source.priority,
               array(source.columns or ("*",))))


def hand_sql(step):
    what, values = step["what"], step.get("values", {})
    if what == "insert":
        names = ["hand", *values]
        taken = ["hand = %s" % literal(step["label"])]
        if step["kind"] == "user":
            taken += ["%s = %s" % (n, literal(values[n]))
                      for n in ("username", "email", "phone") if n in values]
        return ("INSERT INTO %s (%s) SELECT %s WHERE NOT EXISTS (SELECT FROM %s WHERE %s);"
                % (TABLES[step["kind"]], ", ".join(names),
                   ", ".join(map(literal, [step["label"], *values.values()])),
                   TABLES[step["kind"]], " OR ".join(taken)))
    if what == "update":
        (name, value), = values.items()
        free = "" if name not in ("username", "email") else \
            " AND NOT EXISTS (SELECT FROM uds.users o WHERE o.%s = %s AND o.id <> u.id)" % (
                name, literal(value))
        return "UPDATE uds.users u SET %s = %s WHERE id = %s%s;" % (
            name, literal(value), row_sql(step["row"]), free)
    if what == "delete":
        kind = step["row"][1] if step["row"][0] == "hand" else step["row"][2]
        return "DELETE FROM %s WHERE id = %s;" % (TABLES[kind], row_sql(step["row"]))
    department, user = row_sql(step["department"]), row_sql(step["user"])
    if what == "join":
        return ("INSERT INTO uds.department_members (department_id, user_id, is_owner)"
                " SELECT d, u, %s FROM %s AS d (d), %s AS u (u) ON CONFLICT DO NOTHING;"
                % (literal(step["is_owner"]), department, user))
    return ("DELETE FROM uds.department_members WHERE department_id = %s AND user_id = %s;"
            % (department, user))


def step_sql(step):
    if step["step"] == "push":
        envelope = {"dataType": step["type"], "sourceName": step["source"],
                    "records": step["records"]}
        if step["match_key"]:
            envelope["matchKey"] = step["match_key"]
        return "SELECT uds_push(%s);" % literal(json.dumps(envelope))
    if step["step"] == "sync":
        return "SELECT uds_sync(%s, wait => true);" % literal(step["source"])
    if step["step"] == "undo_earlier":
        return ("SELECT uds_undo(id, wait => true) FROM (SELECT id FROM uds.tasks"
                " WHERE status IN ('success', 'partial') AND id IN (SELECT task_id FROM uds.changes)"
                " AND id NOT IN (SELECT retry_of FROM uds.tasks WHERE retry_of IS NOT NULL)"
                " ORDER BY id DESC LIMIT 1 OFFSET %d) AS task;" % step["task"])
    if step["step"] == "undo":
        return "SELECT uds_undo((SELECT max(id) FROM uds.tasks), wait => true);"
    return hand_sql(step)
