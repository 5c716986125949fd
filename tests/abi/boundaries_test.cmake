# Who may include what: the core knows no backend and no plugin, a plugin and the programs know the interface alone.
cmake_minimum_required(VERSION 3.25)
set(failures "")
set(checked 0)

# No file under `room` includes a path that matches `forbidden`; folders that follow are left out.
function(forbid room forbidden)
  file(GLOB_RECURSE files ${SOURCE_DIR}/${room}/*.h ${SOURCE_DIR}/${room}/*.cc ${SOURCE_DIR}/${room}/*.c)
  foreach(other ${ARGN})
    list(FILTER files EXCLUDE REGEX "/${other}/")
  endforeach()
  if(NOT files)
    message(FATAL_ERROR "${room}: no source file is there to check")
  endif()
  foreach(file ${files})
    file(STRINGS ${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[\"<](${forbidden})")
    foreach(line ${lines})
      string(APPEND failures "${file}: ${line}\n")
    endforeach()
  endforeach()
  list(LENGTH files count)
  math(EXPR checked "${checked} + ${count}")
  set(failures "${failures}" PARENT_SCOPE)
  set(checked ${checked} PARENT_SCOPE)
endfunction()

forbid(core "backends/|plugins/|sdk/|tests/|dnnl|sentencepiece")
forbid(backends "core/|plugins/|sdk/|tests/")
forbid(plugins "core/|backends/|sdk/|tests/")
forbid(sdk "core/|backends/|plugins/|tests/|absl/|flatbuffers/|xhybrid_plugin\\.h" sdk/python/merge_bridge
       sdk/python/build sdk/python-cuda/build sdk/java/target) # what building a package leaves
# A plugin that travels in the Python wheel.
forbid(sdk/python/merge_bridge "core/|backends/|plugins/|sdk/|tests/|absl/|flatbuffers/")
# The conformance program knows a plugin by its header, as a stranger's plugin is known.
forbid(tests/conformance "core/|plugins/|sdk/|absl/|flatbuffers/")
# Debian's sentencepiece_processor.h declares its own absl::string_view: it and Abseil must not meet.
forbid(plugins/text "absl/")
if(failures)
  message(FATAL_ERROR "includes across a border:\n${failures}")
endif()
message(STATUS "${checked} files keep to their side")
