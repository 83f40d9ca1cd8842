"""What the directory must look like after each step, record by record.

A plain restatement of sections 4, 5 and 5a of the Contract, slow and without
a database: objects for sources, records and rows, and one method per kind of
step (steps.py).  It looks at one record after the other and recomputes what it
touches from the live records (task.py for a push or a sync, users.py for what
is special to users).

Where the Contract leaves a choice (which record of a cycle is cut, which of
two claims to one unique value is refused), the model takes the database's
choice from the error rows that were found, and checks that it was a legal one.
"""

UNIQUE = ("username", "email", "phone")
COLUMNS = {"user": UNIQUE + ("nickname", "title", "level"),
           "department": ("title", "sort")}
PREPARED = ("ALTER TABLE uds.users ADD COLUMN level integer CHECK (level BETWEEN 1 AND 9),"
            " ADD COLUMN hand text;\n"
            "ALTER TABLE uds.departments ADD COLUMN hand text;")


class Illegal(Exception):
    """The database's choice was not one that the Contract leaves it."""


class Enough(Exception):
    """The model does not know how it goes on from here."""


class Source:
    def __init__(self, name, kind="push", match_keys=(), on_deleted="delete",
                 on_missing="disable", priority=100, columns=None):
        self.name = name
        self.kind = kind
        self.rank = None                # of equal priorities the smaller wins
        self.match_keys = tuple(match_keys)
        self.on_deleted = on_deleted
        self.on_missing = on_missing
        self.priority = priority
        self.columns = columns

    def may_set(self, data):
        """What of a record the source may set."""
        if self.columns is None:
            return data
        return {key: value for key, value in data.items() if key in self.columns}


class Record:
    """The latest record of one uid of one source."""

    def __init__(self, source, kind, uid):
        self.source = source            # its name
        self.kind = kind
        self.uid = uid
        self.data = None
        self.deleted = False
        self.row = None
        self.created = False            # whether it made the row


class Row:
    """A user or a department."""

    def __init__(self, kind, hand=None):
        self.kind = kind
        self.id = None                  # known once it was seen in the database
        self.hand = hand                # label of a row made by hand
        self.there = True
        self.values = dict.fromkeys(COLUMNS[kind])
        self.enabled = True
        self.protected = False
        self.refers = None              # main department, or parent
        self.off = None                 # who turned it off: None, "source", or
                                        # "hand": by hand, and then it left
        self.loose = set()              # what the Contract does not decide


class Membership:
    def __init__(self, source, is_owner):
        self.source = source            # its name; None: made by hand
        self.is_owner = is_owner


class State:
    def __init__(self):
        self.records = {}               # (source, kind, uid) -> Record
        self.rows = {"user": [], "department": []}
        self.members = {}               # (department, user) -> Membership
        self.missed = {}                # (source, kind, uid) of a record -> departments
                                        # that came while its successor was refused
        self.cut = {}                   # (source, uid) of a department cut off a
                                        # cycle -> uids of the others on it

    def live_records(self, row):
        return [r for r in self.records.values() if r.row is row and not r.deleted]

    def remove(self, row):
        """The row goes, with its memberships and what points to it."""
        row.there = False
        self.rows[row.kind].remove(row)
        for key in [key for key in self.members if row in key]:
            del self.members[key]
        for other in self.rows["user"] + self.rows["department"]:
            if other.refers is row:
                other.refers = None
