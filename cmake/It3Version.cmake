# Sets IT3_VERSION, as 0.1.0 or 0.1.0.post1.dev3, and IT3_VERSION_NUMBERS, its part that project() takes.
#
# Git's tags are where it comes from. For a wheel, setuptools-scm has read them (see pyproject.toml). Without Python, the
# same is read here: from the source archive's PKG-INFO, from git, from what git wrote into an archive of its own, and
# where there is no tag, from the fallback in pyproject.toml.
function(_it3_version result)
    set(root "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/..")
    if(SKBUILD_PROJECT_NAME STREQUAL "it3")
        # Without the label of a released wheel, which names its torch.
        string(
            REGEX REPLACE "\\+.*"
            ""
            version
            "${SKBUILD_PROJECT_VERSION_FULL}"
        )
        set(${result} "${version}" PARENT_SCOPE)
        return()
    endif()
    if(EXISTS "${root}/PKG-INFO")
        file(STRINGS "${root}/PKG-INFO" lines REGEX "^Version: ")
        list(GET lines 0 line)
        string(REGEX REPLACE "^Version: ([^+]*).*" "\\1" version "${line}")
        set(${result} "${version}" PARENT_SCOPE)
        return()
    endif()

    set(described "")
    set(distance 0)
    # Not the version of a project that it3 is a part of.
    find_package(Git QUIET)
    if(EXISTS "${root}/.git" AND GIT_EXECUTABLE)
        set(git "${GIT_EXECUTABLE}" -C "${root}")
        execute_process(
            COMMAND ${git} describe --tags --dirty --match "v[0-9]*"
            OUTPUT_VARIABLE described
            OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET
        )
        execute_process(
            COMMAND ${git} rev-list --count HEAD
            OUTPUT_VARIABLE distance
            OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET
        )
    elseif(EXISTS "${root}/.git_archival.txt")
        file(
            STRINGS "${root}/.git_archival.txt"
            described
            REGEX "^describe-name: v"
        )
        string(REPLACE "describe-name: " "" described "${described}")
    endif()
    if(
        described
            MATCHES
            "^v([0-9]+(\\.[0-9]+)*((a|b|rc)[0-9]+)?)(-([0-9]+)-g[0-9a-f]+)?(-dirty)?$"
    )
        set(version "${CMAKE_MATCH_1}")
        set(distance "${CMAKE_MATCH_6}")
        if(CMAKE_MATCH_7 AND NOT distance)
            set(distance dirty)
        endif()
    elseif(described)
        message(
            FATAL_ERROR
            "it3's version cannot be read from git's \"${described}\": name its tag as v0.1.0 or v0.1.0rc1"
        )
    else()
        file(STRINGS "${root}/pyproject.toml" line REGEX "^fallback_version = ")
        string(REGEX REPLACE "^[^\"]*\"([^\"]*)\".*" "\\1" version "${line}")
        if(EXISTS "${root}/.git" AND NOT distance)
            message(
                NOTICE
                "git cannot read it3's repository, so that ${version} is taken for the version, the last release's"
            )
        endif()
    endif()
    # As setuptools-scm's scheme "no-guess-dev".
    if(distance STREQUAL "dirty")
        string(APPEND version ".post1.dev0")
    elseif(distance)
        string(APPEND version ".post1.dev${distance}")
    endif()
    set(${result} "${version}" PARENT_SCOPE)
endfunction()

_it3_version(IT3_VERSION)
string(REGEX MATCH "^[0-9]+(\\.[0-9]+)*" IT3_VERSION_NUMBERS "${IT3_VERSION}")
