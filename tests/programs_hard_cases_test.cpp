// The program that runs the hard cases: answers are exact, and what it cannot take is named.

#include <gtest/gtest.h>

#include "support/program.hpp"
#include "support/sanitized.hpp"

namespace {

TEST(HardCasesProgram, SaysThatEveryAnswerIsExact) {
  const ProgramRun run = run_line("02_hard_cases", sanitized ? "300" : "2000");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  std::size_t cases = 0;
  for (std::size_t found = run.out.find("wrong answers    0 of "); found != std::string::npos;
       found = run.out.find("wrong answers    0 of ", found + 1))
    ++cases;
  EXPECT_EQ(cases, 6U) << run.out;
  EXPECT_NE(run.out.find("every answer is exact"), std::string::npos) << run.out;
}

TEST(HardCasesProgram, NamesALengthThatItCannotTake) {
  for (const char* tokens : {"0", "abc"}) {
    const ProgramRun run = run_line("02_hard_cases", tokens);
    EXPECT_EQ(run.exit_code, 2) << tokens;
    EXPECT_NE(run.err.find("tokens"), std::string::npos) << run.err;
    EXPECT_NE(run.err.find(tokens), std::string::npos) << run.err;
  }
}

}  // namespace
