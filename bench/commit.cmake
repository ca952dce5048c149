# Writes OUTPUT, a header with the commit of SOURCE at the time of a build; "+" stands for changes that no commit holds.
# Written anew only where it differs, so that nothing is compiled again for it without need.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY "${SOURCE}" OUTPUT_VARIABLE commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
execute_process(COMMAND git status --porcelain --untracked-files=no WORKING_DIRECTORY "${SOURCE}"
                OUTPUT_VARIABLE changes ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
elseif(changes)
  string(APPEND commit "+")
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#define TWOHEADS_BENCH_COMMIT \"${commit}\"\n" @ONLY)
