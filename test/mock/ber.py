"""BER as LDAP uses it, and the messages of LDAP: bytes to plain values and back.

Written from RFC 4511 alone, and shared with no code that is tested by it.
"""

UNIVERSAL_BOOLEAN, INTEGER, OCTETS, ENUM, SEQUENCE, SET = 1, 2, 4, 10, 0x30, 0x31

OPERATIONS = {0x60: "bind", 0x42: "unbind", 0x63: "search", 0x50: "abandon", 0x77: "extended"}
FILTERS = {0xa0: "and", 0xa1: "or", 0xa2: "not", 0xa3: "eq", 0xa4: "sub", 0xa5: "ge", 0xa6: "le", 0x87: "present",
           0xa8: "approx", 0xa9: "ext"}


class Malformed(Exception):
    pass


def tlv(tag, *contents):
    """An element of a tag and the contents put together."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        head = bytes([length])
    else:
        digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
        head = bytes([0x80 | len(digits)]) + digits
    return bytes([tag]) + head + content


def integer(value, tag=INTEGER):
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def octets(value, tag=OCTETS):
    return tlv(tag, value if isinstance(value, bytes) else str(value).encode())


def take(data, at=0):
    """The element at a place: its tag, its contents, and the place after it."""
    if at + 2 > len(data):
        raise Malformed("an element without its head")
    tag, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        digits = length & 0x7f
        if digits == 0 or at + digits > len(data):
            raise Malformed("a length that LDAP does not have")
        length = int.from_bytes(data[at:at + digits], "big")
        at += digits
    if at + length > len(data):
        raise Malformed("an element that is cut off")
    return tag, data[at:at + length], at + length


def elements(data):
    """All elements in the contents of another: (tag, contents)."""
    at, found = 0, []
    while at < len(data):
        tag, content, at = take(data, at)
        found.append((tag, content))
    return found


def number(content):
    return int.from_bytes(content, "big", signed=True)


def message_length(data):
    """How long the message is that these bytes begin with; None if that cannot be told yet."""
    if len(data) < 2:
        return None
    if data[0] != SEQUENCE:
        raise Malformed("no message of LDAP")
    length, digits = data[1], 0
    if length & 0x80:
        digits = length & 0x7f
        if len(data) < 2 + digits:
            return None
        length = int.from_bytes(data[2:2 + digits], "big")
    return 2 + digits + length


def read_filter(tag, content):
    """A filter as nested tuples: ("eq", "cn", b"x"), ("and", [...])."""
    kind = FILTERS.get(tag)
    if kind in ("and", "or"):
        return kind, [read_filter(*part) for part in elements(content)]
    if kind == "not":
        return kind, read_filter(*elements(content)[0])
    if kind == "present":
        return kind, content.decode()
    if kind in ("eq", "ge", "le", "approx"):
        (_, name), (_, value) = elements(content)
        return kind, name.decode(), value
    if kind == "sub":
        (_, name), (_, parts) = elements(content)
        return kind, name.decode(), [(t & 0x1f, v) for t, v in elements(parts)]
    if kind == "ext":
        parts = dict((t & 0x1f, v) for t, v in elements(content))
        return kind, parts.get(2, b"").decode(), parts.get(1, b"").decode(), parts.get(3, b"")
    raise Malformed("a filter of tag %#x" % tag)


def read_controls(content):
    """Controls by their OID: (critical, value)."""
    found = {}
    for _, control in elements(content):
        parts = elements(control)
        critical = any(t == UNIVERSAL_BOOLEAN and v != b"\0" for t, v in parts[1:])
        value = [v for t, v in parts[1:] if t == OCTETS]
        found[parts[0][1].decode()] = (critical, value[0] if value else None)
    return found


def read_message(data):
    """A request: its number, its kind, what it says, its controls."""
    parts = elements(take(data)[1])
    (_, ident), (tag, body) = parts[:2]
    kind = OPERATIONS.get(tag)
    controls = read_controls(parts[2][1]) if len(parts) > 2 and parts[2][0] == 0xa0 else {}
    said = {}
    if kind == "bind":
        fields = elements(body)
        said = {"version": number(fields[0][1]), "name": fields[1][1].decode(), "method": fields[2][0]}
        if fields[2][0] == 0x80:
            said["password"] = fields[2][1].decode()
        else:
            said["mechanism"] = elements(fields[2][1])[0][1].decode()
    elif kind == "search":
        fields = elements(body)
        said = {"base": fields[0][1].decode(), "scope": number(fields[1][1]), "limit": number(fields[3][1]),
                "filter": read_filter(*fields[6]), "attributes": [v.decode() for _, v in elements(fields[7][1])]}
    elif kind == "extended":
        said = {"oid": dict(elements(body)).get(0x80, b"").decode()}
    return number(ident), kind, said, controls


def control(oid, value=None):
    return tlv(SEQUENCE, octets(oid), octets(value) if value is not None else b"")


def message(ident, body, *controls):
    return tlv(SEQUENCE, integer(ident), body, tlv(0xa0, *controls) if controls else b"")


def result(tag, code=0, text="", referrals=(), more=b""):
    """The end of an operation: bind 0x61, search 0x65, extended 0x78."""
    where = tlv(0xa3, *[octets(url) for url in referrals]) if referrals else b""
    return tlv(tag, integer(code, ENUM), octets(""), octets(text), where, more)


def entry(dn, attributes):
    """An entry that was found; attributes are (description, list of bytes)."""
    return tlv(0x64, octets(dn), tlv(SEQUENCE, *[
        tlv(SEQUENCE, octets(name), tlv(SET, *[octets(value) for value in values])) for name, values in attributes]))


def reference(*urls):
    return tlv(0x73, *[octets(url) for url in urls])


def paged(size, cookie):
    return tlv(SEQUENCE, integer(size), octets(cookie))


def read_paged(value):
    (_, size), (_, cookie) = elements(take(value)[1])
    return number(size), cookie
