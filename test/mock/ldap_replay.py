"""A directory that answers as Active Directory does where slapd cannot.

Ranges of values, GUIDs and SIDs, numbers of changes per domain controller,
tombstones, its words when a bind is refused, referrals; and a server that
hangs or breaks off wherever it is told to.

It listens on a free port of the loopback address and prints that.  Commands come
as lines of JSON on the input, each is answered by one; it ends with its input.
See README.md.
"""

import base64
import json
import socket
import struct
import sys
import threading
import time
import uuid

import ber

CONTEXT = "DC=corp,DC=example,DC=test"
PAGED = "1.2.840.113556.1.4.319"
SHOW_DELETED = "1.2.840.113556.1.4.417"
START_TLS = "1.3.6.1.4.1.1466.20037"
BIT_AND = "1.2.840.113556.1.4.803"
DELETED = "CN=Deleted Objects," + CONTEXT
WELL_KNOWN = {"18e2ea80684f11d2b9aa00c04f79f805": DELETED}
DN_ATTRIBUTES = {"member", "manager", "managedby", "memberof", "objectcategory", "lastknownparent"}
# never returned unless asked for by name, and few of the rest either
KEPT_OF_DELETED = {"objectclass", "objectguid", "objectsid", "samaccountname", "uSNCreated".lower(), "name"}
REFUSED = "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data %s, v4563\0"
NOT_BOUND = ("000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind "
             "must be completed on the connection., data 0, v4563\0")


def split(dn):
    """The parts of a name, as written."""
    parts, current, hidden = [], "", False
    for c in dn:
        if c == "," and not hidden:
            parts.append(current)
            current = ""
        else:
            current += c
        hidden = c == "\\" and not hidden
    return parts + [current] if dn else []


def normal(dn):
    return ",".join(part.strip().lower() for part in split(dn))


def parent(dn):
    return ",".join(split(dn)[1:])


def guid_bytes(text):
    return uuid.UUID(text).bytes_le


def to_bytes(value):
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return str(value).encode()


class Entry:
    def __init__(self, dn):
        self.dn = dn
        self.attributes = {}    # lower-case name: (name, list of bytes)

    def get(self, name):
        return self.attributes.get(name.lower(), (name, []))[1]

    def set(self, name, values):
        if not values:
            self.attributes.pop(name.lower(), None)
        else:
            self.attributes[name.lower()] = (name, values)


class Directory:
    """What is stored.  Everything here is done under the lock of the server."""

    def __init__(self):
        self.entries = {}       # normal name: Entry, in the order in which they came
        self.usn = 4000
        self.made = 0
        self.host = "dc1.corp.example.test"
        self.invocation_id = "58db6349-9136-4f8a-aec4-503f4fe8abf8"
        for dn in (CONTEXT, DELETED):
            self.put(dn, {"objectClass": ["top", "container"]})
        self.service = "CN=NTDS Settings,CN=DC1,CN=Servers,CN=Configuration," + CONTEXT
        self.put(self.service, {"objectClass": ["top", "nTDSDSA"]})

    def bump(self, entry):
        self.usn += 1
        entry.set("uSNChanged", [str(self.usn).encode()])
        entry.set("whenChanged", [b"20261122113114.0Z"])

    def put(self, dn, attributes):
        """Makes an entry, or changes one: null takes an attribute away."""
        entry = self.entries.get(normal(dn))
        if entry is None:
            entry = self.entries[normal(dn)] = Entry(dn)
            self.made += 1
            entry.set("objectGUID", [guid_bytes("00000000-1111-4222-8333-%012d" % self.made)])
            entry.set("objectSid", [b"\1\5" + (5).to_bytes(6, "big") + struct.pack("<5I", 21, 1, 2, 3, 1000 + self.made)])
            entry.set("name", [split(dn)[0].partition("=")[2].encode()])
        for name, value in attributes.items():
            entry.set(name, [] if value is None else [to_bytes(v) for v in (value if isinstance(value, list) else [value])])
        self.bump(entry)
        return entry

    def below(self, dn):
        base = normal(dn)
        return [key for key in self.entries if key == base or key.endswith("," + base)]

    def refer(self, old, new):
        """The directory keeps references right, and no entry counts as changed by that."""
        for entry in self.entries.values():
            for name in DN_ATTRIBUTES & set(entry.attributes):
                values = [v if normal(v.decode()) != old else new.encode() if new else None for v in entry.get(name)]
                entry.set(entry.attributes[name][0], [v for v in values if v is not None])

    def move(self, dn, to):
        """Only what moves counts as changed, not what is below it."""
        for key in self.below(dn):
            entry = self.entries.pop(key)
            rest = split(entry.dn)[:len(split(entry.dn)) - len(split(dn))]
            entry.dn = ",".join(rest + [to])
            self.entries[normal(entry.dn)] = entry
            self.refer(key, entry.dn)
        self.bump(self.entries[normal(to)])

    def delete(self, dn):
        entry = self.entries.pop(normal(dn))
        guid = str(uuid.UUID(bytes_le=entry.get("objectGUID")[0]))
        self.refer(normal(dn), None)
        for name in list(entry.attributes):
            if name not in KEPT_OF_DELETED:
                del entry.attributes[name]
        entry.set("isDeleted", [b"TRUE"])
        entry.set("isRecycled", [b"TRUE"])
        entry.set("lastKnownParent", [parent(entry.dn).encode()])
        entry.dn = "%s\\0ADEL:%s,%s" % (split(entry.dn)[0], guid, DELETED)
        self.entries[normal(entry.dn)] = entry
        self.bump(entry)

    def find(self, dn):
        """The entry of a name, or of an id in its place."""
        if dn.lower().startswith("<guid="):
            for entry in self.entries.values():
                if entry.get("objectGUID") == [guid_bytes(dn[6:-1])]:
                    return entry
            return None
        if dn.lower().startswith("<wkguid="):
            dn = WELL_KNOWN.get(dn[8:40].lower(), "") if normal(dn[41:-1]) == normal(CONTEXT) else ""
        return self.entries.get(normal(dn))


def same(name, left, right):
    if name in DN_ATTRIBUTES:
        # the schema's own short names do for classes of objects
        if name == "objectcategory" and b"=" not in right:
            return normal(left.decode()).startswith("cn=" + right.decode().lower() + ",")
        return normal(left.decode()) == normal(right.decode())
    return left.lower() == right.lower()


def fits(entry, test):
    kind = test[0]
    if kind == "and":
        return all(fits(entry, part) for part in test[1])
    if kind == "or":
        return any(fits(entry, part) for part in test[1])
    if kind == "not":
        return not fits(entry, test[1])
    values = entry.get(test[1])
    if kind == "present":
        return test[1].lower() == "objectclass" or bool(values)
    if kind in ("eq", "approx"):
        return any(same(test[1].lower(), value, test[2]) for value in values)
    if kind == "ge":
        return any(int(value) >= int(test[2]) for value in values)
    if kind == "le":
        return any(int(value) <= int(test[2]) for value in values)
    if kind == "ext":
        return test[2] == BIT_AND and any(int(value) & int(test[3]) == int(test[3]) for value in values)
    return any(fits_parts(value.lower(), test[2]) for value in values)


def fits_parts(value, parts):
    for where, part in parts:
        part = part.lower()
        if where == 0:
            if not value.startswith(part):
                return False
            value = value[len(part):]
        elif where == 2:
            return value.endswith(part)
        else:
            at = value.find(part)
            if at < 0:
                return False
            value = value[at + len(part):]
    return True


SETTINGS = {
    "max_page": 1000,           # MaxPageSize: more are not given at once
    "max_range": 1500,          # MaxValRange: more values come in ranges
    "referrals": [],            # told at the end of a search from the top
    "sees_deleted": True,       # whether the account may see tombstones
    "anonymous": False,         # whether who is not bound may search
    "accounts": {"reader@corp.example.test": "Passw0rd!x9"},
    "refused": {},              # account: the data of the refusal, right password or not
    "start_tls": "unavailable",  # or "silent": agreed to, and nothing after; "more": and something after
    "paging": True,             # whether it knows paged results
    "endless": False,           # whether the last page of a listing leads to the first
    "refused_cookies": 0        # so many times a cookie is none that it knows
}


class Server:
    def __init__(self):
        self.changed = threading.Condition()
        self.reset()

    def reset(self):
        self.directory = Directory()
        self.settings = dict(SETTINGS)
        self.faults = []
        self.requests = []
        self.counters = {"connections": 0, "held": 0, "requests": 0, "closed": 0}

    def count(self, name, counters):
        """Counts for the connection, which may be of before a reset."""
        with self.changed:
            counters[name] += 1
            self.changed.notify_all()

    def fault_for(self, kind, said):
        """The first fault that is meant for a request, counted off."""
        for fault in self.faults:
            if fault["op"] not in (kind, "any") or fault.get("base", said.get("base")) != said.get("base"):
                continue
            if fault.get("skip", 0) > 0:
                fault["skip"] -= 1
                continue
            if fault.get("times") is not None:
                fault["times"] -= 1
                if fault["times"] == 0:
                    self.faults.remove(fault)
            return fault
        return None

    def control(self, command):
        with self.changed:
            if command.get("reset"):
                self.reset()
            self.settings.update(command.get("settings", {}))
            self.faults = command.get("faults", self.faults)
            for name, value in command.get("directory", {}).items():
                setattr(self.directory, name, value)
            for dn, attributes in command.get("put", {}).items():
                self.directory.put(dn, attributes)
            for dn, to in command.get("move", {}).items():
                self.directory.move(dn, to)
            for dn in command.get("delete", []):
                self.directory.delete(dn)
            waited = command.get("wait")
            if waited:
                self.changed.wait_for(lambda: self.counters[waited] >= command.get("at_least", 1), command.get("timeout", 60))
            reply = {"counters": self.counters, "requests": self.requests, "usn": self.directory.usn}
            if command.get("forget"):
                self.requests = []
            return reply


class Hang(Exception):
    """Nothing more is said."""


class Connection:
    def __init__(self, server, peer):
        self.server = server
        self.socket = peer
        self.counters = server.counters
        self.bound = None
        self.listing = None     # what is left of a paged search
        self.cookies = 0

    def run(self):
        data = b""
        try:
            while True:
                length = ber.message_length(data)
                while length is None or len(data) < length:
                    more = self.socket.recv(65536)
                    if not more:
                        return
                    data += more
                    length = ber.message_length(data)
                request, data = data[:length], data[length:]
                if not self.answer(*ber.read_message(request)):
                    return
        except Hang:
            self.hold()
        except (OSError, ber.Malformed):
            pass
        finally:
            self.socket.close()
            self.server.count("closed", self.counters)

    def hold(self):
        """Says nothing until the other side goes."""
        self.server.count("held", self.counters)
        try:
            while self.socket.recv(65536):
                pass
        except OSError:
            pass

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def abort(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def answer(self, ident, kind, said, controls):
        server = self.server
        with server.changed:
            shown = {k: v for k, v in said.items() if k not in ("password", "filter", "method")}
            server.requests.append(dict(shown, op=kind, controls=sorted(controls), filter=repr(said.get("filter"))))
            fault = server.fault_for(kind, said)
        server.count("requests", self.counters)
        if kind in ("unbind", None):
            return False
        if kind == "abandon":
            return True
        tag = {"bind": 0x61, "search": 0x65, "extended": 0x78}[kind]
        if fault is not None and not fault.get("after"):
            return self.misbehave(fault, ident, tag)
        if kind == "bind":
            self.send(ber.message(ident, self.bind(said)))
        elif kind == "extended":
            return self.extended(ident, said)
        else:
            with server.changed:
                answers = self.search(ident, said, controls)
            if fault is not None:
                self.send(*answers[:fault["after"]])
                return self.misbehave(fault, ident, tag)
            self.send(*answers)
        return True

    def misbehave(self, fault, ident, tag):
        """What a fault says; false ends the connection."""
        kind = fault["kind"]
        if kind == "hang":
            raise Hang
        if kind == "result":
            self.send(ber.message(ident, ber.result(tag, fault["code"], fault.get("text", ""), fault.get("referrals", ()))))
            return True
        if kind == "raw":
            self.send(bytes.fromhex(fault["hex"]))
            return True
        if kind == "cut":
            self.send(ber.message(ident, ber.entry("CN=cut," + CONTEXT, [("cn", [b"x" * 1000])]))[:500])
        elif kind == "reset":
            self.abort()
        elif kind == "drip":
            text = ber.message(ident, ber.entry("CN=drip," + CONTEXT, [("cn", [b"x" * 10000])]))
            self.server.count("held", self.counters)
            for byte in text:
                self.send(bytes([byte]))
                time.sleep(fault.get("interval", 0.1))
        return False

    def bind(self, said):
        settings = self.server.settings
        if said["method"] != 0x80:
            return ber.result(0x61, 7, "no such mechanism")
        name, password = said["name"], said["password"]
        data = settings["refused"].get(name)
        if data is None and name and settings["accounts"].get(name) != password:
            data = "52e" if name in settings["accounts"] else "525"
        if data is not None:
            return ber.result(0x61, 49, REFUSED % data)
        self.bound = name or None
        return ber.result(0x61)

    def extended(self, ident, said):
        how = self.server.settings["start_tls"]
        oid = ber.octets(START_TLS, 0x8a)
        if said["oid"] != START_TLS or how == "unavailable":
            self.send(ber.message(ident, ber.result(0x78, 52, "00000000: LdapErr: DSID-0C090E0B, comment: Error initializing SSL/TLS\0", (), oid)))
            return True
        # in one go, as somebody in the middle would do it
        more = ber.message(ident + 1, ber.result(0x61)) if how == "more" else b""
        self.send(ber.message(ident, ber.result(0x78, more=oid)) + more)
        raise Hang

    def root(self):
        d = self.server.directory
        root = Entry("")
        for name, value in (("defaultNamingContext", CONTEXT), ("namingContexts", CONTEXT), ("dsServiceName", d.service),
                            ("dnsHostName", d.host), ("highestCommittedUSN", str(d.usn)), ("currentTime", "20261122113114.0Z")):
            root.set(name, [value.encode()])
        root.set("supportedCapabilities", [b"1.2.840.113556.1.4.800"])
        root.set("supportedControl", [oid.encode() for oid in (PAGED, SHOW_DELETED)])
        return root

    def shown(self, entry, wanted):
        """Attributes of an entry as asked for, long ones in ranges."""
        found, most = [], self.server.settings["max_range"]
        for description in wanted:
            name, _, option = description.partition(";range=")
            known, values = entry.attributes.get(name.lower(), (name, []))
            if name.lower() == "invocationid" and entry.dn == self.server.directory.service:
                known, values = "invocationId", [guid_bytes(self.server.directory.invocation_id)]
            if option:
                first, _, last = option.partition("-")
                first = int(first)
                end = min(len(values), first + most, *([] if last == "*" else [int(last) + 1]))
                if first >= len(values):
                    return None
                found.append(("%s;range=%d-%s" % (known, first, "*" if end == len(values) else end - 1), values[first:end]))
            elif len(values) > most:
                # the attribute itself is there, and empty
                found.append((known, []))
                found.append(("%s;range=0-%d" % (known, most - 1), values[:most]))
            elif values:
                found.append((known, values))
        return found

    def select(self, said, controls):
        d = self.server.directory
        base = d.find(said["base"])
        deleted = SHOW_DELETED in controls and self.server.settings["sees_deleted"]
        if base is None or (base.dn == DELETED and not deleted):
            return None
        found = []
        for entry in list(d.entries.values()):
            key, top = normal(entry.dn), normal(base.dn)
            if said["scope"] == 0 and entry is not base or said["scope"] == 1 and normal(parent(entry.dn)) != top:
                continue
            if said["scope"] == 2 and key != top and not key.endswith("," + top):
                continue
            if entry.get("isDeleted") and not deleted:
                continue
            if fits(entry, said["filter"]):
                found.append(entry)
        return found

    def search(self, ident, said, controls):
        settings = self.server.settings

        def end(*values, controls=()):
            return [ber.message(ident, ber.result(0x65, *values), *controls)]

        if said["base"] == "" and said["scope"] == 0:
            return [ber.message(ident, ber.entry("", self.shown(self.root(), said["attributes"])))] + end()
        if self.bound is None and not settings["anonymous"]:
            return end(1, NOT_BOUND)
        if PAGED in controls and not settings["paging"]:
            return end(12, "00002040: SvcErr: DSID-031401D4, problem 5010 (UNAVAIL_EXTENSION), data 0\0")
        size, cookie = ber.read_paged(controls[PAGED][1]) if PAGED in controls else (0, b"")
        if cookie:
            if settings["refused_cookies"] > 0:
                settings["refused_cookies"] -= 1
                self.listing = None
            if self.listing is None or cookie != self.listing[0]:
                return end(53, "00000057: LdapErr: DSID-0C0907E6, comment: Error processing control, data 0, v4563\0")
            found = self.listing[1]
        else:
            if not normal(said["base"]).endswith(normal(CONTEXT)) and not said["base"].startswith("<"):
                return end(10, "0000202B: RefErr: DSID-0310082F\0", ["ldap://other.example.test/" + said["base"]])
            found = self.select(said, controls)
            if found is None:
                return end(32, "0000208D: NameErr: DSID-0310028B, problem 2001 (NO_OBJECT), data 0, best match of:\n\t'%s'\n\0" % CONTEXT)
        most = min(size or settings["max_page"], settings["max_page"])
        page, rest = found[:most], found[most:]
        if settings["endless"] and PAGED in controls:
            rest = rest + page
        shown = [(entry.dn, self.shown(entry, said["attributes"])) for entry in page]
        if any(attributes is None for _, attributes in shown):
            return end(1, "00000057: LdapErr: DSID-0C090A5C, comment: Error in attribute conversion operation, data 0, v4563\0")
        answers = [ber.message(ident, ber.entry(dn, attributes)) for dn, attributes in shown]
        if said["scope"] == 2 and normal(said["base"]) == normal(CONTEXT) and not rest:
            answers += [ber.message(ident, ber.reference(url)) for url in settings["referrals"]]
        if PAGED not in controls:
            return answers + (end(4) if rest else end())
        self.cookies += 1
        token = b"%s#%d" % (str(id(self)).encode(), self.cookies) if rest else b""
        self.listing = (token, rest) if rest else None
        return answers + end(controls=[ber.control(PAGED, ber.paged(0, token))])


def main():
    server = Server()
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(server, peer)
            server.count("connections", connection.counters)
            threading.Thread(target=connection.run, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        print(json.dumps(server.control(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
