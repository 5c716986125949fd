# Runs the program that calls every function on the example teacher, in a directory of its own. Every exported name has
# to stand in its source with a call behind it.
cmake_minimum_required(VERSION 3.25)
file(READ ${SOURCE_DIR}/tests/abi/call_everything.c source)
file(STRINGS ${SOURCE_DIR}/abi/symbols.txt symbols)
foreach(symbol ${symbols})
  if(NOT source MATCHES "${symbol}\\(")
    message(FATAL_ERROR "call_everything.c does not call ${symbol}")
  endif()
endforeach()
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
execute_process(COMMAND ${PROGRAM} ${SOURCE_DIR}/examples/teacher-llama-3m ${WORK_DIR} RESULT_VARIABLE status
                OUTPUT_VARIABLE text ERROR_VARIABLE errors)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "gave ${status}:\n${text}${errors}")
endif()
message(STATUS "${text}")
