# The library against the stored description of its interface: nothing that an application could have used is gone or
# changed. ABIDIFF: the program, of Debian's abigail-tools.
cmake_minimum_required(VERSION 3.25)
if(NOT ABIDIFF)
  message(FATAL_ERROR "abidiff is not installed; allowed: ./bootstrap deps --test installs it (abigail-tools)")
endif()
set(today ${WORK_DIR}/libxhybrid.abi)
execute_process(COMMAND ${SOURCE_DIR}/tests/abi/describe.sh ${LIBRARY} ${today} RESULT_VARIABLE status
                ERROR_VARIABLE errors)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the interface of ${LIBRARY} cannot be described: ${errors}")
endif()
execute_process(COMMAND ${ABIDIFF} --no-added-syms ${SOURCE_DIR}/tests/abi/frozen/1.0/libxhybrid.abi ${today}
                RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE errors)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "abidiff gave ${status}:\n${text}${errors}")
endif()
message(STATUS "no difference to the frozen interface")
