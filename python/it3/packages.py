"""Exported programs as packages of machine code, by torch's AOTInductor."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler


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
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except (CppCompileError, InvalidCxxCompiler) as error:
        raise RuntimeError(
            "the programs could not be compiled, for which torch's AOTInductor needs a C++ compiler, such as g++, that "
            f"the environment variable CXX may name: {str(error).strip().splitlines()[0]}"
        ) from error
