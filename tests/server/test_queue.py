"""The queue of it3-server under ThreadSanitizer."""

from pathlib import Path

from installed import ROOT, run


def test_threads_share_a_queue(tmp_path: Path) -> None:
    program = tmp_path / "queue"
    source = ROOT / "tests/server/queue_under_threads.cpp"
    flags = ("-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=thread")
    run("g++", *flags, "-I", ROOT / "examples/server", source, "-o", program)
    assert run(program) == "all right\n"
