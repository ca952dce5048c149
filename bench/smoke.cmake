# Runs the smallest cases of a benchmark: PROGRAM, those that FILTER names, results in OUTPUT. Each case checks its
# result before it is timed, so this is a test of results, not of speed.
if(NOT EXISTS "${PROGRAM}")
  message("benchmarks are not built: skipped")
  return()
endif()
execute_process(
  COMMAND "${PROGRAM}" "--benchmark_filter=${FILTER}" --benchmark_min_time=0.001 "--benchmark_out=${OUTPUT}"
          --benchmark_out_format=json
  RESULT_VARIABLE result
  OUTPUT_VARIABLE text
  ERROR_VARIABLE text)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} ended with ${result}:\n${text}")
endif()
file(READ "${OUTPUT}" report)
if(report MATCHES "\"error_occurred\": true")
  message(FATAL_ERROR "a result is wrong:\n${text}")
endif()
if(NOT report MATCHES "\"real_time\"")
  message(FATAL_ERROR "no benchmark has a name like ${FILTER}:\n${text}")
endif()
