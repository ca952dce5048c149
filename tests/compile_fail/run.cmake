# cmake -DSOURCE=.. -DOBJECT=.. -DCOMPILER=.. -DSTANDARD=.. -DINCLUDES=a;b -P run.cmake

file(READ "${SOURCE}" text)
if(NOT text MATCHES "// expect: ([^\r\n]+)")
  message(FATAL_ERROR "${SOURCE} has no line `// expect: TEXT`")
endif()
string(STRIP "${CMAKE_MATCH_1}" expected)

list(TRANSFORM INCLUDES PREPEND "-I")
# The compiler's messages depend on the language of the environment.
set(compile "${CMAKE_COMMAND}" -E env LC_ALL=C "${COMPILER}" "${STANDARD}" ${INCLUDES} -c "${SOURCE}" -o "${OBJECT}")

execute_process(COMMAND ${compile} -DTWOHEADS_MUST_COMPILE RESULT_VARIABLE status OUTPUT_VARIABLE said
                ERROR_VARIABLE said)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} must compile with TWOHEADS_MUST_COMPILE, but:\n${said}")
endif()

# Where it is a flag that must be refused, the file has a line `// flags: FLAGS`.
if(text MATCHES "// flags: ([^\r\n]+)")
  separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_1}")
  list(APPEND compile ${flags})
endif()

execute_process(COMMAND ${compile} RESULT_VARIABLE status OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles without TWOHEADS_MUST_COMPILE, and must not")
endif()
string(FIND "${said}" "${expected}" position)
if(position EQUAL -1)
  message(FATAL_ERROR "${SOURCE} is refused, but the message does not contain\n  ${expected}\nIt reads:\n${said}")
endif()
