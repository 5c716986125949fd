# xh_add_test(name LABEL label SOURCES ... [LIBRARIES ...] [PLUGINS ...] [OPTIMIZED]): a GoogleTest program, one ctest
# entry a program. What it tests is optimised; the program itself only if it says so, as compiling tests takes longer than
# running them.
find_package(GTest REQUIRED)
function(xh_add_test name)
  cmake_parse_arguments(ARG "OPTIMIZED" "LABEL" "SOURCES;LIBRARIES;PLUGINS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE XH_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/vectors"
                                             XH_TEST_PLUGINS="${XHYBRID_PLUGIN_OUTPUT_DIRECTORY}"
                                             XH_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(NOT ARG_OPTIMIZED)
    target_compile_options(${name} PRIVATE -O0)
  endif()
  if(ARG_PLUGINS)
    add_dependencies(${name} ${ARG_PLUGINS})
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 600
                       ENVIRONMENT "XHYBRID_PLUGIN_PATH=${XHYBRID_PLUGIN_OUTPUT_DIRECTORY}")
endfunction()
