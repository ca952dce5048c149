# Runs bench_mpi, PROGRAM, on a short text and one rank.
if(NOT EXISTS "${PROGRAM}")
  message("benchmarks are not built: skipped")
  return()
endif()
execute_process(
  COMMAND "${PROGRAM}" --tokens 700
  RESULT_VARIABLE result
  OUTPUT_VARIABLE text
  ERROR_VARIABLE text)
if(NOT result EQUAL 0 OR NOT text MATCHES "\"gflops\"")
  message(FATAL_ERROR "${PROGRAM} ended with ${result}:\n${text}")
endif()
