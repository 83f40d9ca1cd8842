"""One push or sync, as the Contract has it: see model.py.

Departments come first, then users with their memberships, then the
departments that leave.
"""

import re

from model import COLUMNS, UNIQUE, Illegal, Record, Row

COUNTS = ("created", "updated", "enabled", "disabled", "deleted",
          "unchanged", "linked", "unlinked", "failed")


def uid_of(record):
    """The uid of a record as text, None if it has none that counts."""
    uid = record.get("uid")
    if isinstance(uid, str):
        return uid or None
    if isinstance(uid, int) and not isinstance(uid, bool):
        return str(uid)
    return None


def is_wrong(kind, record):
    """Whether a record is set aside before anything is looked up."""
    lists = "departments" if kind == "user" else "owners"
    return (not isinstance(record, dict) or uid_of(record) is None
            or not isinstance(record.get(lists), (list, type(None))))


def listed(data, key):
    """A list of uids or of objects with a uid: (uid, object) in order."""
    for item in data.get(key) or []:
        if isinstance(item, dict):
            yield uid_of(item), item
        else:
            yield str(item), {}


def refused_value(kind, values):
    """SQLSTATE that a value's type or check gives, or None."""
    number = values.get("level" if kind == "user" else "sort")
    if isinstance(number, str):
        if not re.fullmatch("[0-9]+", number):
            return "22P02"
        number = int(number)
    if kind == "user" and number is not None and not 1 <= number <= 9:
        return "23514"
    return None


class Change:
    """A record that takes part in a task."""

    def __init__(self, uid, data, gone, policy, record, pushed=True):
        self.uid = uid
        self.data = data
        self.gone = gone
        self.policy = policy
        self.record = record            # as it was, None if never seen
        self.pushed = pushed            # else it is looked at because of others
        self.was_deleted = record is not None and record.deleted
        self.row = record.row if record and record.row and record.row.there else None
        self.link = None                # "new" or "matched"
        self.row_created = record.created if self.row else False


class Desired:
    """What a row should become."""

    def __init__(self, row, changes):
        self.row = row
        self.changes = changes
        self.is_new = any(c.link == "new" for c in changes)
        self.merged = {}
        self.live = []                  # (source, data) by priority
        self.leave = None               # "delete" or "disable"
        self.is_off = False             # what the sources say
        self.was_off = False
        self.did_without = False        # a unique value that is somebody else's

    def claims(self):
        """The unique values it has, or would have."""
        values = {c: self.row.values[c] for c in UNIQUE}
        for column in UNIQUE:
            if column in self.merged:
                values[column] = self.merged[column] or None
        return values


class Task:
    """Found: the error rows as (kind, uid, sqlstate, message)."""

    def __init__(self, model, source, found, switches):
        self.model = model
        self.state = model.state
        self.source = source
        self.found = found
        self.switches = switches
        self.errors = []                # (kind, uid, sqlstate)
        self.actions = {}               # row -> set of actions
        self.compared = []              # rows of live records that changed nothing so far
        self.linked = 0
        self.unlinked = 0
        self.leaving = []               # departments that go at the end
        self.refused = set()            # rows that are left as they were
        self.taken = set()              # uids of departments of the task
        self.arrived = set()            # uids of departments that got a row
        self.led = set()                # uids of users whose flags may change

    # -- input ------------------------------------------------------------

    def collect(self, kind, records):
        """The last record of each uid, in the order in which they came."""
        incoming, wrong = {}, []
        for record in records:
            if is_wrong(kind, record):
                wrong.append(uid_of(record) if isinstance(record, dict) else None)
                self.errors.append((kind, wrong[-1], "22023"))
                continue
            uid = uid_of(record)
            incoming.pop(uid, None)
            incoming[uid] = record
        return incoming, wrong

    def changes_of(self, kind, incoming, wrong, complete):
        records = self.state.records
        changes = []
        for uid, data in incoming.items():
            gone = bool(data.get("isDeleted")) and self.source.on_deleted != "keep"
            changes.append(Change(uid, data, gone, self.source.on_deleted,
                                  records.get((self.source.name, kind, uid))))
        if complete and self.source.on_missing != "keep" and None not in wrong:
            for (source, of_kind, uid), record in records.items():
                if source == self.source.name and of_kind == kind and not record.deleted \
                        and uid not in incoming and uid not in wrong:
                    changes.append(Change(uid, record.data, True, self.source.on_missing,
                                          record, pushed=False))
        return changes

    def recall(self, kind, changes, concerns):
        """Adds live records that others in the task concern."""
        known = {c.uid for c in changes}
        for (source, of_kind, uid), record in self.state.records.items():
            if source == self.source.name and of_kind == kind and uid not in known \
                    and not record.deleted and record.row and record.row.there \
                    and concerns(record):
                changes.append(Change(uid, record.data, False, None, record, pushed=False))

    def act(self, row, action):
        self.actions.setdefault(row, set()).add(action)

    # -- what rows should be ----------------------------------------------

    def desire(self, kind, changes):
        """One Desired for each row that a change stands behind."""
        by_row = {}
        for change in changes:
            if change.row is None and not change.gone:
                change.row, change.link, change.row_created = Row(kind), "new", True
            if change.row is not None:
                by_row.setdefault(change.row, []).append(change)
        return [self.desire_row(Desired(row, of_row)) for row, of_row in by_row.items()]

    def desire_row(self, desired):
        row = desired.row
        taking_part = {c.record for c in desired.changes}
        live = [(self.model.sources[r.source], r.data)
                for r in self.state.live_records(row)
                if r not in taking_part and r.source != self.source.name]
        live += [(self.source, c.data) for c in desired.changes if not c.gone]
        live.sort(key=lambda pair: pair[0].rank)
        desired.live = live
        for source, data in reversed(live):
            desired.merged.update(source.may_set(data))
        if not live:
            self.desire_leaving(desired)
            return desired

        desired.was_off = row.off == "source"
        is_back = any(c.was_deleted and not c.gone for c in desired.changes) \
            or any(c.link == "matched" for c in desired.changes) and len(live) == 1
        said = desired.merged.get("enabled")
        if said is not None:
            desired.is_off = not said
        else:
            desired.is_off = desired.was_off and not is_back
        return desired

    def desire_leaving(self, desired):
        row = desired.row
        policy = min(c.policy for c in desired.changes if c.gone)
        desired.was_off = desired.is_off = row.off is not None
        if row.protected:
            return
        made = any(r.row is row and r.created for r in self.state.records.values())
        desired.leave = "disable" if policy == "delete" and not made else policy
        desired.is_off = True

    def set_aside(self, desired, changes, sqlstate, kind):
        """A row that the database refuses: its records count for nothing."""
        blamed = sorted(desired.changes, key=lambda c: c.gone)[0]
        self.errors.append((kind, blamed.uid, sqlstate))
        self.refused.add(desired.row)
        for change in desired.changes:
            changes.remove(change)
            if change.record is not None and not change.record.deleted:
                data = change.record.data
                named = {str(data.get("parentUid"))} if kind == "department" else \
                    {uid for uid, _ in listed(data, "departments")}
                self.state.missed.setdefault((self.source.name, kind, change.uid),
                                             set()).update(named & self.arrived)

    def missed(self, kind, record):
        """Whether a department of the task is one that the record waits for."""
        return bool(self.state.missed.get((record.source, kind, record.uid), set()) & self.taken)

    # -- writing ----------------------------------------------------------

    def write(self, kind, desired):
        """Attributes, enabled and what else is the row's own."""
        row = desired.row
        before = dict(row.values), row.refers
        if desired.leave == "delete":
            return
        for column in COLUMNS[kind]:
            if column in desired.merged:
                row.values[column] = self.stored(kind, column, desired)
            elif desired.is_new and column == "title" and kind == "department":
                row.values[column] = desired.changes[0].uid
        if desired.is_new:
            row.enabled = not desired.is_off
            self.state.rows[kind].append(row)
            self.act(row, "create")
        elif before[0] != row.values:
            self.act(row, "update")
        self.write_enabled(desired)

    def stored(self, kind, column, desired):
        value = desired.merged[column]
        if value == "" and column in UNIQUE:
            return None
        if column in ("level", "sort") and value is not None:
            return int(value)
        if value is None and column == "title" and kind == "department":
            return desired.changes[0].uid
        return value

    def write_enabled(self, desired):
        """enabled follows what the sources say only where that changes."""
        row = desired.row
        if desired.was_off != desired.is_off and not desired.is_new \
                and not (row.protected and desired.is_off):
            if row.enabled == desired.is_off:
                self.act(row, "disable" if desired.is_off else "enable")
            row.enabled = not desired.is_off
        if desired.leave == "disable" and row.off is None:
            row.off = "source" if "disable" in self.actions.get(row, ()) else "hand"
        elif desired.leave is None and desired.live:
            row.off = "source" if desired.is_off else None

    def store(self, kind, changes):
        """The records, and which rows they stand behind."""
        for change in changes:
            record = change.record
            if record is None:
                record = Record(self.source.name, kind, change.uid)
                self.state.records[self.source.name, kind, change.uid] = record
            record.data = change.data
            record.deleted = change.gone
            if change.link == "matched":
                # it takes over from a record of the source that left
                for other in self.state.records.values():
                    if other is not record and other.row is change.row \
                            and other.source == self.source.name:
                        change.row_created |= other.created
                        other.row, other.created = None, False
            if change.link:
                record.row, record.created = change.row, change.row_created
            self.state.missed.pop((self.source.name, kind, change.uid), None)
            if change.pushed and not change.gone:
                self.compared.append(change.row)

    # -- departments ------------------------------------------------------

    def department_of(self, source_name, uid):
        """The row that a source means by a department's uid, or None."""
        record = self.state.records.get((source_name, "department", uid))
        row = record.row if record else None
        return row if row and row.there and row not in self.leaving else None

    def owners_of(self, uid):
        record = self.state.records.get((self.source.name, "department", uid))
        if record is None or record.deleted or not record.data:
            return set()
        return {name for name, _ in listed(record.data, "owners")}

    def departments(self, incoming, wrong, complete):
        changes = self.changes_of("department", incoming, wrong, complete)
        for change in changes:
            if not change.gone and change.row is None:
                self.arrived.add(change.uid)
        self.taken = {c.uid for c in changes}
        self.recall("department", changes,
                    lambda r: str(r.data.get("parentUid")) in self.arrived
                    or self.missed("department", r)
                    or self.state.cut.get((r.source, r.uid), set()) & self.taken)
        waited = {c.uid for c in changes
                  if self.state.cut.pop((self.source.name, c.uid), None) and not c.pushed}
        owners = {c.uid: self.owners_of(c.uid) for c in changes}
        everybody = self.desire("department", changes)
        for desired in list(everybody):
            sqlstate = refused_value("department", desired.merged)
            if sqlstate and not desired.leave:
                self.set_aside(desired, changes, sqlstate, "department")
                everybody.remove(desired)
                self.arrived -= {c.uid for c in desired.changes}
        for desired in everybody:
            self.write("department", desired)
            if desired.leave == "delete":
                self.leaving.append(desired.row)
        records = {c.uid: c.row for c in changes if c.row is not None}
        self.parents(everybody, records, waited)
        self.store("department", changes)
        for uid, before in owners.items():
            self.led |= before ^ self.owners_of(uid)

    def parents(self, everybody, in_task, waited):
        before = {d.row: d.row.refers for d in everybody}
        for desired in everybody:
            change = desired.changes[0]
            if change.gone or "parentUid" not in change.data:
                continue
            uid = change.data["parentUid"]
            parent = None
            if uid is not None and uid != "":
                parent = in_task.get(str(uid)) or self.department_of(self.source.name, str(uid))
                if parent in self.leaving:
                    parent = None
            desired.row.refers = parent
        for row in self.leaving:        # its children become roots, so it closes no cycle
            row.refers = None
        self.cut_cycles({d.row: d for d in everybody}, waited)
        for row, parent in before.items():
            row.refers, parent = parent, row.refers
            if row not in self.leaving:
                self.refer(row, parent)

    def cut_cycles(self, in_task, waited):
        """One record of each cycle becomes a root; which one, is found.  One
        that was cut before and only looked at again stays so without a word."""
        for row in list(in_task):
            seen = [row]
            while seen[-1].refers and seen[-1].refers not in seen:
                seen.append(seen[-1].refers)
            if seen[-1].refers is not row:
                continue
            cut = [r for r in seen if r in in_task and self.was_cut(in_task[r].changes[0].uid)]
            told = bool(cut)
            if not cut:
                cut = [r for r in seen if r in in_task and in_task[r].changes[0].uid in waited]
            if len(cut) != 1:
                raise Illegal("of a cycle %d departments were made roots" % len(cut))
            self.state.cut[self.source.name, in_task[cut[0]].changes[0].uid] = {
                r.uid for r in self.state.records.values() if r.source == self.source.name
                and r.kind == "department" and r.row in seen} | {
                    c.uid for r in seen if r in in_task for c in in_task[r].changes}
            cut[0].refers = None
            if told:
                self.errors.append(("department", in_task[cut[0]].changes[0].uid, "22023"))

    def was_cut(self, uid):
        return any(kind == "department" and of == uid and "cycle" in message
                   for kind, of, _, message in self.found)

    def refer(self, row, other):
        if row.refers is not other:
            row.refers = other
            if "create" not in self.actions.get(row, ()):
                self.act(row, "update")

    def close_departments(self):
        """The departments that leave for good."""
        for row in self.leaving:
            for department, _ in list(self.state.members):
                self.unlinked += department is row
            for other in self.state.rows["department"]:
                if other.refers is row and other not in self.leaving:
                    self.act(other, "update")
        orphans = [u for u in self.state.rows["user"] if u.refers in self.leaving]
        for row in self.leaving:
            self.act(row, "delete")
            self.state.remove(row)
        for user in orphans:
            self.act(user, "update")
            if user not in self.refused:
                self.another_main(user)

    def counts(self):
        counts = dict.fromkeys(COUNTS, 0)
        words = {"create": "created", "delete": "deleted", "enable": "enabled",
                 "disable": "disabled", "update": "updated"}
        for actions in self.actions.values():
            counts[words[min(actions, key=list(words).index)]] += 1
        counts.update(unchanged=sum(not self.actions.get(row) for row in self.compared),
                      linked=self.linked,
                      unlinked=self.unlinked, failed=len(self.errors))
        return counts
