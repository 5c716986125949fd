# Runs the program on a plugin and compares its exit status, and its output with a pattern.
cmake_minimum_required(VERSION 3.25)
separate_arguments(ARGUMENTS UNIX_COMMAND "${ARGUMENTS}")
execute_process(COMMAND ${PROGRAM} ${ARGUMENTS} ${PLUGIN} RESULT_VARIABLE status OUTPUT_VARIABLE text
                ERROR_VARIABLE errors)
if(NOT status EQUAL STATUS)
  message(FATAL_ERROR "exit status ${status}, expected ${STATUS}:\n${text}\n${errors}")
endif()
if(NOT text MATCHES "${LINE}")
  message(FATAL_ERROR "no line matches \"${LINE}\":\n${text}\n${errors}")
endif()
message(STATUS "${CMAKE_MATCH_0}")
