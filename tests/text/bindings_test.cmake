# The Rust view of the plugin interface is what bindgen makes of the header.
cmake_minimum_required(VERSION 3.25)
set(room ${SOURCE_DIR}/plugins/text/huggingface)
execute_process(COMMAND ${room}/bindings.sh ${OUTPUT} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${OUTPUT} ${room}/src/bindings.rs RESULT_VARIABLE differ)
if(differ)
  message(FATAL_ERROR "src/bindings.rs is not what bindings.sh writes: run plugins/text/huggingface/bindings.sh")
endif()
