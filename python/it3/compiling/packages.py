"""Exported programs as packages of machine code, by torch's AOTInductor."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler


def write_package(program: torch.export.ExportedProgram, path: Path, **configs: Any) -> None:
    """Compile a program into a package.

    Parameters
    ----------
    path
        It ends with ".pt2".
    configs
        Options of Inductor's.

    Raises
    ------
    RuntimeError
        If there is no C++ compiler, or it fails.
    ValueError
        For operations that Inductor cannot compile.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except (InductorError, CppCompileError, InvalidCxxCompiler) as error:
        cause = getattr(error, "inner_exception", error)
        words = str(cause).strip() or type(cause).__name__
        first = words.splitlines()[0]
        if not isinstance(cause, CppCompileError | InvalidCxxCompiler):
            raise ValueError(f"torch's AOTInductor cannot compile what was recorded: {first}") from error
        raise RuntimeError(
            "the programs could not be compiled, for which torch's AOTInductor needs a C++ compiler, such as g++, that "
            f"the environment variable CXX may name: {first}"
        ) from error
