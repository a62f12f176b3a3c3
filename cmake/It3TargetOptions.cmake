# it3_target_options(<target>): the flags that every target of ours is compiled with. Flags are set here, for each
# target, and never globally, so that they do not leak into a project that adds this one.
function(it3_target_options target)
    target_compile_features(${target} PUBLIC cxx_std_20)
    set_target_properties(
        ${target}
        PROPERTIES
            CXX_EXTENSIONS OFF
            CXX_VISIBILITY_PRESET hidden
            VISIBILITY_INLINES_HIDDEN ON
            POSITION_INDEPENDENT_CODE ON
    )
    # Files of groups that nobody has tried may have names in common.
    if(NOT PROJECT_IS_TOP_LEVEL)
        set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
    endif()
    target_compile_options(
        ${target}
        PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
    )
    # torch's checks keep the names of the files that they stand in; those of the machine that builds are nobody's business.
    target_compile_options(
        ${target}
        PRIVATE
            "-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/="
            "-fmacro-prefix-map=${LibTorch_INCLUDE_DIR}/="
    )
    # False alarms of GCC in a unity build: it takes the sources for headers, in which a class with members from an
    # unnamed namespace would be several; it sees more of std::optional, whose value it takes for uninitialized; and
    # GCC 13 takes the words of a std::vector<bool> for fewer than they are.
    get_target_property(is_unity ${target} UNITY_BUILD)
    if(is_unity AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        target_compile_options(
            ${target}
            PRIVATE
                -Wno-subobject-linkage
                -Wno-maybe-uninitialized
                "$<$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>:-Wno-array-bounds>"
        )
    endif()
    if(IT3_WERROR)
        target_compile_options(${target} PRIVATE -Werror)
    endif()
    if(IT3_SANITIZE)
        # vptr checks need type information that LibTorch does not export.
        set(flags
            "-fsanitize=${IT3_SANITIZE}"
            -fno-sanitize=vptr
            -fno-omit-frame-pointer
        )
        target_compile_options(${target} PRIVATE ${flags})
        target_link_options(${target} PRIVATE ${flags})
    endif()
endfunction()
