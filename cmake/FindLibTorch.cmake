# Finds LibTorch, from a Python wheel of torch or from an unpacked LibTorch archive, CPU or CUDA build alike.
#
# TorchConfig.cmake of a CUDA build demands a CUDA toolkit. it3 compiles no CUDA code, so this module makes its own
# targets over the libraries and needs none.
#
# Where it looks, in this order: LibTorch_ROOT, Torch_DIR, CMAKE_PREFIX_PATH, the torch that the Python interpreter
# imports, the system.
#
# Targets:   LibTorch::LibTorch; LibTorch::Python where the build has Python bindings; LibTorch::CUDALibraries where it
#            has CUDA; LibTorch::CUDA where the headers of CUDA's runtime are found too
# Variables: LibTorch_FOUND, LibTorch_VERSION, LibTorch_LIBRARY_DIR

if(NOT LibTorch_ROOT AND Torch_DIR)
    cmake_path(GET Torch_DIR PARENT_PATH _it3_root)
    cmake_path(GET _it3_root PARENT_PATH _it3_root)
    cmake_path(GET _it3_root PARENT_PATH LibTorch_ROOT)
endif()

# torch.utils.cmake_prefix_path ends in share/cmake, two folders under the root that is wanted here.
set(_it3_hints ${LibTorch_ROOT})
foreach(_it3_prefix IN LISTS CMAKE_PREFIX_PATH)
    list(APPEND _it3_hints "${_it3_prefix}" "${_it3_prefix}/../..")
endforeach()

find_path(
    LibTorch_INCLUDE_DIR
    NAMES torch/csrc/api/include/torch/torch.h
    HINTS ${_it3_hints}
    PATH_SUFFIXES include
    NO_SYSTEM_ENVIRONMENT_PATH
    NO_CMAKE_SYSTEM_PATH
)
if(NOT LibTorch_INCLUDE_DIR)
    find_package(Python COMPONENTS Interpreter QUIET)
    if(Python_EXECUTABLE)
        execute_process(
            COMMAND
                "${Python_EXECUTABLE}" -c
                "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
            OUTPUT_VARIABLE _it3_hints
            OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET
        )
    endif()
    find_path(
        LibTorch_INCLUDE_DIR
        NAMES torch/csrc/api/include/torch/torch.h
        HINTS ${_it3_hints}
        PATH_SUFFIXES include
    )
endif()

if(LibTorch_INCLUDE_DIR)
    cmake_path(GET LibTorch_INCLUDE_DIR PARENT_PATH _it3_root)
    # The version header has moved between releases.
    foreach(
        _it3_header
        torch/headeronly/version.h
        torch/csrc/api/include/torch/version.h
    )
        if(
            NOT LibTorch_VERSION
            AND EXISTS "${LibTorch_INCLUDE_DIR}/${_it3_header}"
        )
            file(
                STRINGS "${LibTorch_INCLUDE_DIR}/${_it3_header}"
                _it3_lines
                REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+"
            )
            list(TRANSFORM _it3_lines REPLACE "^.* ([0-9]+)$" "\\1")
            list(JOIN _it3_lines "." LibTorch_VERSION)
        endif()
    endforeach()
endif()

foreach(_it3_library torch torch_cpu c10 torch_python)
    find_library(
        LibTorch_${_it3_library}_LIBRARY
        NAMES ${_it3_library}
        PATHS "${_it3_root}/lib"
        NO_DEFAULT_PATH
    )
    mark_as_advanced(LibTorch_${_it3_library}_LIBRARY)
endforeach()
mark_as_advanced(LibTorch_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    LibTorch
    REQUIRED_VARS
        LibTorch_torch_LIBRARY
        LibTorch_torch_cpu_LIBRARY
        LibTorch_c10_LIBRARY
        LibTorch_INCLUDE_DIR
    VERSION_VAR LibTorch_VERSION
    REASON_FAILURE_MESSAGE
        "Install torch for the Python that is found first, or set LibTorch_ROOT to the folder that holds LibTorch's include/ and lib/."
)

if(LibTorch_FOUND)
    set(LibTorch_LIBRARY_DIR "${_it3_root}/lib")
    foreach(_it3_library torch torch_cpu c10 torch_python)
        if(
            LibTorch_${_it3_library}_LIBRARY
            AND NOT TARGET LibTorch::${_it3_library}
        )
            add_library(LibTorch::${_it3_library} SHARED IMPORTED)
            set_target_properties(
                LibTorch::${_it3_library}
                PROPERTIES
                    IMPORTED_LOCATION "${LibTorch_${_it3_library}_LIBRARY}"
            )
        endif()
    endforeach()
    if(NOT TARGET LibTorch::LibTorch)
        add_library(LibTorch::LibTorch INTERFACE IMPORTED)
        target_include_directories(
            LibTorch::LibTorch
            SYSTEM
            INTERFACE
                "${LibTorch_INCLUDE_DIR}"
                "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
        )
        target_link_libraries(
            LibTorch::LibTorch
            INTERFACE LibTorch::torch LibTorch::torch_cpu LibTorch::c10
        )
    endif()
    # CUDA graphs need the headers of CUDA's runtime, of a toolkit or of the Python packages that torch depends on.
    find_library(
        LibTorch_torch_cuda_LIBRARY
        NAMES torch_cuda
        PATHS "${_it3_root}/lib"
        NO_DEFAULT_PATH
    )
    find_library(
        LibTorch_c10_cuda_LIBRARY
        NAMES c10_cuda
        PATHS "${_it3_root}/lib"
        NO_DEFAULT_PATH
    )
    if(
        LibTorch_torch_cuda_LIBRARY
        AND LibTorch_c10_cuda_LIBRARY
        AND NOT TARGET LibTorch::CUDALibraries
    )
        add_library(LibTorch::CUDALibraries INTERFACE IMPORTED)
        target_link_libraries(
            LibTorch::CUDALibraries
            INTERFACE
                "${LibTorch_torch_cuda_LIBRARY}"
                "${LibTorch_c10_cuda_LIBRARY}"
                LibTorch::LibTorch
        )
        # Linkers look for what these libraries need, and do not follow the paths in them, which begin with $ORIGIN.
        file(
            GLOB _it3_needed
            LIST_DIRECTORIES true
            "${_it3_root}/../nvidia/*/lib"
        )
        foreach(_it3_folder IN LISTS _it3_needed)
            target_link_options(
                LibTorch::CUDALibraries
                INTERFACE "LINKER:-rpath-link,${_it3_folder}"
            )
        endforeach()
    endif()
    file(GLOB _it3_hints "${_it3_root}/../nvidia/*/include")
    find_path(
        LibTorch_CUDA_INCLUDE_DIR
        NAMES crt/host_config.h # which not every set of these headers has
        HINTS ${_it3_hints}
        ENV CUDA_HOME
        ENV CUDA_PATH
        PATHS /usr/local/cuda
        PATH_SUFFIXES include
    )
    find_path(
        LibTorch_cusparse_INCLUDE_DIR
        NAMES
            cusparse.h # which torch's headers include, and not every toolkit has
        HINTS "${LibTorch_CUDA_INCLUDE_DIR}" ${_it3_hints}
        ENV CUDA_HOME
        ENV CUDA_PATH
        PATHS /usr/local/cuda
        PATH_SUFFIXES include
    )
    mark_as_advanced(
        LibTorch_torch_cuda_LIBRARY
        LibTorch_c10_cuda_LIBRARY
        LibTorch_CUDA_INCLUDE_DIR
        LibTorch_cusparse_INCLUDE_DIR
    )
    if(
        TARGET LibTorch::CUDALibraries
        AND LibTorch_CUDA_INCLUDE_DIR
        AND LibTorch_cusparse_INCLUDE_DIR
        AND NOT TARGET LibTorch::CUDA
    )
        add_library(LibTorch::CUDA INTERFACE IMPORTED)
        target_include_directories(
            LibTorch::CUDA
            SYSTEM
            INTERFACE
                "${LibTorch_CUDA_INCLUDE_DIR}"
                "${LibTorch_cusparse_INCLUDE_DIR}"
        )
        target_link_libraries(LibTorch::CUDA INTERFACE LibTorch::CUDALibraries)
    endif()
    if(TARGET LibTorch::torch_python AND NOT TARGET LibTorch::Python)
        add_library(LibTorch::Python INTERFACE IMPORTED)
        target_link_libraries(
            LibTorch::Python
            INTERFACE LibTorch::torch_python LibTorch::LibTorch
        )
    endif()
endif()
