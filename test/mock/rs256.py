"""Signed assertions (RFC 7523), as services check them.

RS256 needs nothing but arithmetic once the modulus is read out of the public
key, so no library is asked for.
"""

import base64
import hashlib
import json

# DER of the AlgorithmIdentifier and the length of SHA-256, RFC 8017 9.2
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


class Refused(Exception):
    """args: what is wrong with the assertion."""


def decode(text):
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Refused("it is not base64url")


def take(data, tag):
    """The contents of the first DER element of data, and what follows."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("not a public key")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7f
        length = int.from_bytes(data[2:start], "big")
    return data[start:start + length], data[start + length:]


def read_public_key(pem):
    """Modulus and exponent of a PEM "PUBLIC KEY"."""
    lines = [line for line in pem.strip().splitlines()
             if not line.startswith("-----")]
    info = take(base64.b64decode("".join(lines)), 0x30)[0]
    bits = take(take(info, 0x30)[1], 0x03)[0]
    modulus, rest = take(take(bits[1:], 0x30)[0], 0x02)
    return (int.from_bytes(modulus, "big"),
            int.from_bytes(take(rest, 0x02)[0], "big"))


def verify(token, pem):
    """Header and claims of a token that the key has signed."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Refused("it has not three parts")
    try:
        header = json.loads(decode(parts[0]))
        claims = json.loads(decode(parts[1]))
    except ValueError:
        raise Refused("it is not JSON")
    if header.get("alg") != "RS256":
        raise Refused("its alg is not RS256")
    modulus, exponent = read_public_key(pem)
    size = (modulus.bit_length() + 7) // 8
    digest = hashlib.sha256(".".join(parts[:2]).encode()).digest()
    padding = b"\xff" * (size - 3 - len(SHA256) - len(digest))
    wanted = b"\0\1" + padding + b"\0" + SHA256 + digest
    signature = decode(parts[2])
    if len(signature) != size or pow(int.from_bytes(signature, "big"),
                                     exponent, modulus) != \
            int.from_bytes(wanted, "big"):
        raise Refused("its signature does not fit")
    return header, claims
