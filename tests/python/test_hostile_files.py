"""Files that somebody made to do harm, with right checksums: an error, in little memory, and nothing runs."""

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from binary import needs_binary
from fuzz.process import run_function, run_program
from fuzz.targets import Rig

Records = dict[str, bytes]
pytestmark = needs_binary


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig.make(tmp_path_factory.mktemp("hostile"))


def records_of(content: bytes) -> Records:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename.split("/", 1)[1]: archive.read(info) for info in archive.infolist()}


def archive_of(records: Records, method: int = zipfile.ZIP_STORED, folder: str = "archive/") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(folder + name, content)
    return made.getvalue()


def in_record(name: str, change: Callable[[bytes], bytes]) -> Callable[[Records], Records]:
    return lambda records: {**records, name: change(records[name])}


def in_description(name: str, change: Callable[[bytes], bytes]) -> Callable[[Records], Records]:
    """In the archive within the archive."""
    return in_record("extra/it3_engine", lambda b: archive_of(in_record(name, change)(records_of(b))))


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b"(" * depth + b"N" + b"t" * depth + b"."


PICKLES = {
    "a list within itself": (b"\x80\x02]q\x00h\x00a.", "has a value within itself"),
    "a list within a tuple within it": (b"\x80\x02]q\x00\x85q\x01h\x00h\x01a.", "has a value within itself"),
    "a million tuples": (nested(10**6), "is nested more than 1000 deep"),
    "room for 4 billion values": (b"\x80\x02Nr\xff\xff\xff\xff.", "is damaged"),
    "a string of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "is damaged"),
    "a string of 16 EB": (b"\x80\x02\x8d" + b"\xff" * 8 + b".", "is damaged"),
    "nothing": (b"", "is damaged"),
    "a call of os.system": (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", ""),
}
TARGETS = {"the model": in_record, "the description": in_description}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", PICKLES)
def test_pickles(kind: str, target: str, rig: Rig) -> None:
    pickle, message = PICKLES[kind]
    refused(rig, TARGETS[target]("data.pkl", lambda _: pickle), message)


def deep(text: str) -> Callable[[bytes], bytes]:
    """Another statement in a function."""
    return lambda code: code.replace(b"    return", f"    y = {text}\n    return".encode(), 1)


NESTED = {
    "parentheses": "(" * 10**5 + "1" + ")" * 10**5,
    "minus": "-" * 10**5 + "1",
    "not": "not " * 10**5 + "True",
    "plus": "1" + "+1" * 10**5,
    "index": "x" + "[0]" * 10**5,
}


@pytest.mark.parametrize("kind", NESTED)
def test_code_that_is_nested(kind: str, rig: Rig) -> None:
    def change(records: Records) -> Records:
        # Its name depends on what else this process has compiled.
        name = next(n for n, code in records.items() if n.startswith("code/") and b"    return" in code)
        return {**records, name: deep(NESTED[kind])(records[name])}

    refused(rig, change, "an expression of more than 5000 operators")


@pytest.mark.parametrize("size", [0, 1, 100])
def test_tensors_without_their_bytes(size: int, rig: Rig) -> None:
    refused(rig, in_record("data/0", lambda b: b[:size]), f"has only {size} of 160 bytes")


def test_records_that_unpack_to_gigabytes(rig: Rig) -> None:
    zeros = bytes(200 << 20)
    refused(
        rig, lambda records: {**records, "extra/zeros": zeros}, "its records would take more than", zipfile.ZIP_DEFLATED
    )


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "a/../../b", "x" * 1000, "\\up", ""])
def test_names_that_lead_elsewhere_write_nothing(name: str, rig: Rig) -> None:
    before = {path.name for path in rig.folder.parent.iterdir()}
    path = rig.folder / "bad.pt"
    path.write_bytes(archive_of({**records_of(rig.engine), name: b"harm"}))
    done = run_function(lambda: rig.predict(path))
    assert done.fault(rig.function_megabytes) is None
    assert done.code == 1 or done.out == "same"
    assert {path.name for path in rig.folder.parent.iterdir()} == before


@pytest.mark.memory
def test_sizes_of_tensors_that_memory_cannot_hold(rig: Rig) -> None:
    """A tensor in a file of inputs, of 10^12 elements over four bytes."""
    torch.save(torch.zeros(1).expand(10**6, 10**6), rig.folder / "bad.pt")
    done = rig.adapt("good.pt", "bad.pt")
    assert done.code == 1
    assert done.fault(rig.program_megabytes) is None
    assert done.err.count("\n") == 1


def test_an_array_that_claims_more_than_it_has(rig: Rig) -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 5), }".ljust(117) + b"\n"
    (rig.folder / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text + bytes(168))
    done = rig.adapt("good.pt", "bad.npy")
    assert done.code == 1
    assert done.fault(rig.program_megabytes) is None
    assert "bad.npy cannot be read: it is cut off: 168 bytes are left" in done.err


def refused(rig: Rig, change: Callable[[Records], Records], message: str, method: int = zipfile.ZIP_STORED) -> None:
    path = rig.folder / "bad.pt"
    path.write_bytes(archive_of(change(records_of(rig.engine)), method))
    in_python = run_function(lambda: rig.predict(path))
    assert in_python.fault(rig.function_megabytes) is None
    assert in_python.code == 1, in_python
    assert in_python.err.startswith(f"RuntimeError: {path} cannot be read as an engine: ")
    program = rig.adapt("bad.pt", "good.npy")
    assert program.fault(rig.program_megabytes) is None
    assert program.code == 1
    for text in (in_python.err, program.err.rstrip("\n")):
        assert message in text
        assert "\n" not in text


def test_the_unchanged_records_are_the_same_engine(rig: Rig) -> None:
    path = rig.folder / "again.pt"
    path.write_bytes(archive_of(records_of(rig.engine)))
    assert run_function(lambda: rig.predict(path)).out == "same"
    np.testing.assert_equal(run_program([rig.binary, "again.pt", "--describe"], rig.folder).code, 0)
