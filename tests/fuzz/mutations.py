"""Damaged files: bytes that differ, and archives whose records differ but have right checksums."""

import io
import random
import zipfile
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

ODD_NUMBERS = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8)


def flip_bit(draw: random.Random, content: bytes) -> bytes:
    """Change one bit."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def set_bytes(draw: random.Random, content: bytes) -> bytes:
    """Write other bytes over some."""
    size = draw.choice((1, 2, 4, 16))
    at = draw.randrange(len(content))
    return content[:at] + draw.randbytes(size) + content[at + size :]


def odd_number(draw: random.Random, content: bytes) -> bytes:
    """Write the least or greatest number of some width."""
    number = draw.choice(ODD_NUMBERS)
    at = draw.randrange(len(content))
    return content[:at] + number + content[at + len(number) :]


def cut_off(draw: random.Random, content: bytes) -> bytes:
    """End it early, as an interrupted copy does."""
    return content[: draw.randrange(len(content))]


def remove(draw: random.Random, content: bytes) -> bytes:
    """Take some bytes out."""
    at, size = draw.randrange(len(content)), draw.choice((1, 8, 64, 512))
    return content[:at] + content[at + size :]


def insert(draw: random.Random, content: bytes) -> bytes:
    """Put some bytes in."""
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.randbytes(draw.choice((1, 8, 64))) + content[at:]


def zero(draw: random.Random, content: bytes) -> bytes:
    """Write zeros over a block, as a disk may return it."""
    at, size = draw.randrange(len(content)), draw.choice((16, 512, 4096))
    return (content[:at] + bytes(size) + content[at + size :])[: len(content)]


def repeat(draw: random.Random, content: bytes) -> bytes:
    """Copy one part over another one."""
    size = draw.randrange(1, 256)
    source, to = draw.randrange(len(content)), draw.randrange(len(content))
    part = content[source : source + size]
    return content[:to] + part + content[to + len(part) :]


MUTATIONS: tuple[Mutation, ...] = (flip_bit, set_bytes, odd_number, cut_off, remove, insert, zero, repeat)


def damage(draw: random.Random, content: bytes) -> bytes:
    """Apply one to three mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(MUTATIONS)(draw, content or b"\x00")
    return content


def forge(draw: random.Random, content: bytes) -> bytes:
    """Make an archive with another record, and with right checksums, as somebody means it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(sorted(records))
        kind = draw.randrange(7)
        if kind == 0:
            records[name] = b""
        elif kind == 1:
            records[name] = cut_off(draw, records[name] or b"\x00")
        elif kind == 2 and len(records) > 1:
            del records[name]
        elif kind == 3:
            records[name] = records[draw.choice(sorted(records))]
        elif kind == 4:
            records[name.rsplit("/", 1)[0] + draw.choice(("/../up", "/0", "/" + "x" * 300, "/\xff"))] = b"more"
        else:
            records[name] = damage(draw, records[name] or b"\x00")
    made = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return made.getvalue()
