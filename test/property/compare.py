"""What a database holds, and how that differs from the model."""

# One line of JSON.  The task is the last one there is.
FOUND = """
SELECT json_build_object(
  'users', (SELECT coalesce(json_object_agg(u.id, to_jsonb(u) - '{id,avatar,created_at,updated_at}'::text[]), '{}')
            FROM uds.users u),
  'departments', (SELECT coalesce(json_object_agg(d.id, to_jsonb(d) - '{id,created_at,updated_at}'::text[]), '{}')
                  FROM uds.departments d),
  'members', (SELECT coalesce(json_agg(json_build_array(m.department_id, m.user_id, m.source_id, m.is_owner, s.name)), '[]')
              FROM uds.department_members m LEFT JOIN uds.sources s ON s.id = m.source_id),
  'records', (SELECT coalesce(json_agg(json_build_array(s.name, r.data_type, r.uid, r.deleted, l.resource_pk::bigint, r.data)), '[]')
              FROM uds.records r JOIN uds.sources s ON s.id = r.source_id
              LEFT JOIN uds.record_resources l ON l.record_id = r.id),
  'task', (SELECT to_json(t) FROM uds.tasks t ORDER BY id DESC LIMIT 1),
  'errors', (SELECT coalesce(json_agg(json_build_array(e.data_type, e.uid, e.sqlstate, e.message)), '[]')
             FROM uds.task_errors e WHERE task_id = (SELECT max(id) FROM uds.tasks)),
  'changes', (SELECT coalesce(json_agg(json_build_array(c.resource, c.pk, c.action, c.before, c.after) ORDER BY seq), '[]')
              FROM uds.changes c WHERE task_id = (SELECT max(id) FROM uds.tasks)),
  'orphans', (SELECT coalesce(json_agg(o.what), '[]') FROM (
    SELECT 'link of no record' AS what FROM uds.record_resources l
     WHERE NOT EXISTS (SELECT FROM uds.records r WHERE r.id = l.record_id)
    UNION ALL
    SELECT 'pending reference of no live record' FROM uds.pending_references p
     WHERE NOT EXISTS (SELECT FROM uds.records r WHERE r.id = p.record_id AND NOT r.deleted)
    UNION ALL
    SELECT 'link to no row' FROM uds.record_resources l
     WHERE resource_pk NOT IN (SELECT id::text FROM uds.users WHERE l.resource = 'users' UNION ALL
                               SELECT id::text FROM uds.departments WHERE l.resource = 'departments')
    UNION ALL
    SELECT 'disabled row that is none' FROM uds.disabled_rows l
     WHERE resource_pk NOT IN (SELECT id::text FROM uds.users WHERE l.resource = 'users' UNION ALL
                               SELECT id::text FROM uds.departments WHERE l.resource = 'departments'))
    AS o))::text;"""

EMPTY = {"users": {}, "departments": {}, "members": [], "task": None}

# Changes where any row of any of them is written.
VERSIONS = """
SELECT coalesce(string_agg(v, ' ' ORDER BY v), '') FROM (
  SELECT 'u' || xmin || ctid FROM uds.users UNION ALL
  SELECT 'd' || xmin || ctid FROM uds.departments UNION ALL
  SELECT 'm' || xmin || ctid FROM uds.department_members UNION ALL
  SELECT 'r' || xmin || ctid FROM uds.records UNION ALL
  SELECT 'o' || xmin || ctid FROM uds.disabled_rows UNION ALL
  SELECT 'l' || xmin || ctid FROM uds.record_resources) AS x (v);"""

COUNTS = ("created", "updated", "enabled", "disabled", "deleted",
          "unchanged", "linked", "unlinked", "failed")


NEW_ROW = {"users": {"enabled": True, "protected": False},
           "departments": {"enabled": True}}


class Replay:
    """A change set, applied to the rows that were there before its task."""

    def __init__(self, before):
        self.rows = {"users": {pk: dict(row) for pk, row in before["users"].items()},
                     "departments": {pk: dict(row) for pk, row in before["departments"].items()},
                     "members": {"%d:%d" % (d, u): {"is_owner": owner, "source_id": source}
                                 for d, u, source, owner, _ in before["members"]}}
        self.wrong = []

    def apply(self, resource, pk, action, before, after):
        rows = self.rows[resource]
        what = "change set: %s of %s %s" % (action, resource, pk)
        if (pk in rows) == (action == "create" or action == "link" and resource == "members"):
            self.wrong.append(what + (": it was there" if pk in rows else ": it was not there"))
            return
        row = rows.setdefault(pk, dict(NEW_ROW.get(resource, {})))
        wrong = {key: value for key, value in (before or {}).items()
                 if key in row and row[key] != value}
        if wrong:
            self.wrong.append("%s: before is said to be %s, was %s" % (what, wrong, row))
        if action in ("delete", "unlink"):
            del rows[pk]
        else:
            row.update(after or {})

    def result(self, resource, names):
        return {pk: [row.get(name) for name in names] for pk, row in self.rows[resource].items()}


def check_changes(before, after):
    """What a task's change set tells differently from the rows."""
    replay = Replay(before)
    untold = {"is_leaf"}                # no change of the department itself
    for change in after["changes"]:
        replay.apply(*change)
    wrong = replay.wrong
    for resource, rows in Replay(after).rows.items():
        names = sorted({name for row in rows.values() for name in row} - untold)
        told = replay.result(resource, names)
        for pk in sorted(set(told) | set(rows)):
            row = rows.get(pk) and [rows[pk].get(name) for name in names]
            if told.get(pk) != row:
                wrong.append("change set: makes %s %s %s, it is %s (%s)"
                             % (resource, pk, told.get(pk), row, ", ".join(names)))
    return wrong


class Comparison:
    def __init__(self, model, found):
        self.model = model
        self.state = model.state
        self.found = found
        self.differences = []

    def expect(self, what, expected, found):
        if expected != found:
            self.differences.append("%s: expected %s, found %s" % (what, expected, found))

    # -- rows -------------------------------------------------------------

    def bind(self):
        """Which rows of the database are the model's, by records and labels."""
        links = {tuple(r[:3]): r for r in self.found["records"]}
        self.expect("records", sorted(self.state.records), sorted(links))
        for key, record in self.state.records.items():
            if key not in links:
                continue
            _, _, _, deleted, pk, data = links[key]
            name = "record %s/%s/%s" % key
            self.expect(name + " deleted", record.deleted, deleted)
            self.expect(name + " data", record.data, data)
            if record.row is None:
                self.expect(name + " row", None, pk)
            elif record.row.there:
                if record.row.id is None:
                    record.row.id = pk
                self.expect(name + " row", record.row.id, pk)
        for kind, table in (("user", "users"), ("department", "departments")):
            labels = {row["hand"]: int(pk) for pk, row in self.found[table].items() if row["hand"]}
            for row in self.state.rows[kind]:
                if row.hand and row.id is None:
                    row.id = labels.get(row.hand)

    def rows(self, kind, table, refers):
        mine = {str(row.id): row for row in self.state.rows[kind]}
        theirs = self.found[table]
        for pk in sorted(set(mine) | set(theirs)):
            name = "%s %s" % (table, pk)
            if pk not in mine or pk not in theirs:
                self.expect(name, self.describe(mine.get(pk)), theirs.get(pk))
                continue
            row, other = mine[pk], theirs[pk]
            for column, value in row.values.items():
                self.expect("%s (%s) %s" % (name, self.who(row), column), value, other[column])
            self.expect("%s (%s) enabled" % (name, self.who(row)), row.enabled, other["enabled"])
            if refers in row.loose:
                row.refers = {r.id: r for r in self.state.rows["department"]}.get(
                    other["main_department_id"])
                row.loose.discard(refers)
            self.expect("%s (%s) %s" % (name, self.who(row), refers),
                        row.refers.id if row.refers else None,
                        other["main_department_id" if kind == "user" else "parent_id"])

    def who(self, row):
        """The uids by which the row is known."""
        names = ["%s/%s" % (r.source, r.uid) for r in self.state.records.values() if r.row is row]
        return ", ".join([row.hand] * bool(row.hand) + names)

    def describe(self, row):
        return row and "%s %s %s" % (self.who(row), row.values,
                                     "enabled" if row.enabled else "disabled")

    def leaves(self):
        for row in self.state.rows["department"]:
            other = self.found["departments"].get(str(row.id))
            if other and "is_leaf" not in row.loose:
                self.expect("departments %s (%s) is_leaf" % (row.id, self.who(row)),
                            not any(r.refers is row for r in self.state.rows["department"]),
                            other["is_leaf"])

    def members(self, undecided):
        mine = {(d.id, u.id): (m.source, m.is_owner)
                for (d, u), m in self.state.members.items()}
        theirs = {(d, u): (source, owner) for d, u, _, owner, source in self.found["members"]}
        for (d, u), membership in self.state.members.items():
            if undecided(d, u, membership) and (d.id, u.id) in theirs:
                source, membership.is_owner = theirs[d.id, u.id]
                mine[d.id, u.id] = (membership.source, membership.is_owner)
        for key in sorted(set(mine) | set(theirs)):
            self.expect("member (source, is_owner) of department %s, user %s" % key,
                        mine.get(key), theirs.get(key))

    # -- task -------------------------------------------------------------

    def task(self, task):
        errors = sorted((k, u or "", s) for k, u, s, _ in self.found["errors"])
        self.expect("error rows", sorted((k, u or "", s) for k, u, s in task.errors), errors)
        counts = task.counts()
        for name in COUNTS:
            self.expect("count " + name, counts[name], self.found["task"][name])
        self.expect("status", "partial" if task.errors else "success",
                    self.found["task"]["status"])


def compare(model, found, task, clean):
    """The differences, as lines of text.  clean: no row was deleted by hand."""
    comparison = Comparison(model, found)
    comparison.bind()
    comparison.rows("user", "users", "main")
    comparison.rows("department", "departments", "parent")
    comparison.leaves()
    comparison.members(model.is_undecided)
    if task is not None:
        comparison.task(task)
    if clean:
        comparison.expect("orphans", [], found["orphans"])
    else:
        comparison.expect("orphans", [], [o for o in found["orphans"]
                                          if o.endswith("record")])
    return comparison.differences
