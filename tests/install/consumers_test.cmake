# Installs the build, moves the tree, builds the programs of examples/ against it and runs them on the example teacher.
cmake_minimum_required(VERSION 3.25)
set(model ${SOURCE_DIR}/examples/teacher-llama-3m)
set(question "What is 7 times 5?")
unset(ENV{XHYBRID_PLUGIN_PATH})  # the installed library has to find the installed plugins by itself
unset(ENV{LD_LIBRARY_PATH})
unset(ENV{DESTDIR})

function(run out)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE errors)
  if(NOT status EQUAL 0)
    string(JOIN " " line ${ARGN})
    message(FATAL_ERROR "${line}\ngave ${status}:\n${text}\n${errors}")
  endif()
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

function(expect what text pattern)
  if(NOT text MATCHES "${pattern}")
    message(FATAL_ERROR "${what}: \"${text}\" does not match \"${pattern}\"")
  endif()
  message(STATUS "${what}: as expected")
endfunction()

set(flags "")
if(SANITIZE)
  set(flags "-fsanitize=${SANITIZE}")
endif()

# Builds examples/`name` with find_package.
function(build_example name)
  run(ignored ${CMAKE_COMMAND} -G ${GENERATOR} -S ${SOURCE_DIR}/examples/${name} -B ${WORK_DIR}/${name}
      -D CMAKE_PREFIX_PATH=${prefix} -D CMAKE_BUILD_TYPE=Release -D CMAKE_C_COMPILER=${C_COMPILER}
      -D CMAKE_CXX_COMPILER=${CXX_COMPILER} "-DCMAKE_C_FLAGS=${flags} -Wall -Wextra -Werror"
      "-DCMAKE_CXX_FLAGS=${flags} -Wall -Wextra -Werror" -D XHYBRID_SANITIZE=${SANITIZE})
  run(ignored ${CMAKE_COMMAND} --build ${WORK_DIR}/${name})
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
run(ignored ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/first)
set(prefix ${WORK_DIR}/moved)
file(RENAME ${WORK_DIR}/first ${prefix})
foreach(file include/xhybrid.h include/xhybrid.hpp include/xhybrid_plugin.h share/xhybrid/checkpoint.fbs
        ${LIBDIR}/libxhybrid.so.1 ${LIBDIR}/xhybrid/xhybrid_cpu.so bin/xhybrid)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()

build_example(c)
run(answer ${WORK_DIR}/c/hello ${model} "Once upon a time")
expect("C program, find_package" "${answer}" "[a-z]+ [a-z]+")

set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
run(flags_text ${PKG_CONFIG} --cflags --libs xhybrid)
string(REGEX REPLACE "[ \n]+" ";" pkg_flags "${flags_text}")
list(REMOVE_ITEM pkg_flags "")
run(version ${PKG_CONFIG} --modversion xhybrid)
expect("pkg-config, version" "${version}" "^${VERSION}\n$")
run(plugin_dir ${PKG_CONFIG} --variable=plugindir xhybrid)
string(STRIP "${plugin_dir}" plugin_dir)
if(NOT EXISTS ${plugin_dir}/xhybrid_cpu.so)
  message(FATAL_ERROR "pkg-config names ${plugin_dir} as plugindir, and xhybrid_cpu.so is not there")
endif()
run(ignored ${C_COMPILER} ${flags} -o ${WORK_DIR}/hello ${SOURCE_DIR}/examples/c/hello.c ${pkg_flags}
    -Wl,-rpath,${prefix}/${LIBDIR})
run(same ${WORK_DIR}/hello ${model} "Once upon a time")
if(NOT same STREQUAL answer)
  message(FATAL_ERROR "the program built with pkg-config says \"${same}\", with find_package \"${answer}\"")
endif()

build_example(cpp)
run(answer ${WORK_DIR}/cpp/ask ${model} ${question})
expect("C++ program" "${answer}" "35")

run(answer ${prefix}/bin/xhybrid plugins)
expect("installed program finds the installed plugins" "${answer}" "cpu")
run(answer ${prefix}/bin/xhybrid-conformance --filter "Add.*:Device*:Streams.*:*MlstmCuts*"
    ${prefix}/${LIBDIR}/xhybrid/xhybrid_cpu.so)
expect("conformance of the installed backend" "${answer}" "calls supported: [1-9].*\nconforms")

# Plugins of a stranger, one of each kind, built with xh_add_plugin, put beside ours and run.
build_example(plugin)
run(ignored ${CMAKE_COMMAND} --install ${WORK_DIR}/plugin)
run(answer ${prefix}/bin/xhybrid plugins)
foreach(name median align_gates bytes minimal)
  expect("plugin built outside the project" "${answer}" "${name}")
endforeach()

run(answer ${prefix}/bin/xhybrid merge ${model} ${model} --method median --output ${WORK_DIR}/median.xhy)
run(answer ${prefix}/bin/xhybrid inspect ${WORK_DIR}/median.xhy)
expect("merge by a stranger's plugin" "${answer}" "median")

file(WRITE ${WORK_DIR}/gates.json "{\"teacher\": \"${model}\", \"student\": {\"window\": 16}, \"context\": 64, \"batch\": 2,
  \"data\": [\"${SOURCE_DIR}/examples/data/stories.test.jsonl\"], \"output\": \"${WORK_DIR}/gates\",
  \"stages\": [{\"stage\": \"align_gates\", \"steps\": 2}]}")
run(answer ${prefix}/bin/xhybrid --quiet distill --recipe ${WORK_DIR}/gates.json)
if(NOT EXISTS ${WORK_DIR}/gates/student.xhy)
  message(FATAL_ERROR "the stage align_gates left no student: ${answer}")
endif()

# Each of them conforms.
file(WRITE ${WORK_DIR}/bytes/vocab.json "{\"bytes\": 256}")
function(conforms file)
  run(answer ${prefix}/bin/xhybrid-conformance ${ARGN} ${prefix}/${LIBDIR}/xhybrid/${file}.so)
  expect("conformance of ${file}" "${answer}" "\nconforms")
endfunction()
conforms(merge_median)
conforms(stage_gates)
conforms(text_bytes --tokenizer ${WORK_DIR}/bytes/vocab.json)
conforms(backend_minimal --allow-unsupported)

# The tokenizer of bytes serves a model that carries its file; the backend says which op it lacks.
file(COPY ${model}/config.json ${model}/model.safetensors DESTINATION ${WORK_DIR}/bytes)
run(answer ${prefix}/bin/xhybrid --json inspect ${WORK_DIR}/bytes)
expect("a stranger's tokenizer" "${answer}" "\"vocab_size\": 256")
execute_process(COMMAND ${prefix}/bin/xhybrid --device minimal generate ${model} "Hello" RESULT_VARIABLE status
                OUTPUT_QUIET ERROR_VARIABLE errors)
if(status EQUAL 0)
  message(FATAL_ERROR "a backend with one op generated text")
endif()
expect("a backend that lacks an op" "${errors}" "ADD alone")
