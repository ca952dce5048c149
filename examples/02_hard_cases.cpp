// Hand-built transformers whose answers are known exactly, over 65536 tokens through calls of 256 rows.
//
//   02_hard_cases [tokens]

#include <iomanip>
#include <iostream>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/simulate.hpp>

#include "support/arguments.hpp"
#include "support/hard_cases.hpp"
#include "support/instances.hpp"
#include "support/stopwatch.hpp"

using namespace twoheads;

namespace {

constexpr Index rows = 256;  // of a call

/// What is asked, and how.
struct Question {
  programs::Problem problem;
  Anchor anchor;
  const char* text;
};

const Question questions[] = {
    {programs::Problem::counting_causal, Anchor::zero,
     "How often has each of 4 symbols occurred so far? The mean of the symbols' indicators, times the position. With "
     "the\n"
     "anchor zero every exponential is 1 and every sum a whole number, so that float is enough."},
    {programs::Problem::counting_full, Anchor::zero, "The same over the whole text, on an oracle that is not causal."},
    {programs::Problem::function_evaluation, Anchor::adaptive,
     "Every row holds a pair (a, f(a)) and a query x. What is f(x)? One layer, attention to the row whose code is "
     "that\n"
     "of x."},
    {programs::Problem::bigram, Anchor::adaptive,
     "How often has each of 16 symbols followed the present one so far? One layer; all earlier places match equally."},
    {programs::Problem::trigram, Anchor::adaptive,
     "Which symbol followed the earlier occurrence of the last two? Layer 1 fetches from the row before, layer 2 "
     "matches\n"
     "and copies."},
    {programs::Problem::induction, Anchor::adaptive,
     "Which symbol followed the earlier occurrence of the present one? An induction head: layer 1 fetches the symbol\n"
     "before, layer 2 matches and copies."},
};

/// Runs one case in float and says how it went; returns the number of wrong answers.
Index run(const Question& question, Index tokens) {
  const programs::HardCase hard = programs::make_case(question.problem, tokens, /*seed=*/1);
  const Mask& mask = hard.model.spec.attention.mask;
  const OracleKind kind = mask.kind == MaskKind::causal ? OracleKind::causal : OracleKind::plain;
  SmallTransformer<float> oracle(OracleLimits{.kind = kind, .rows = rows});
  GridAttention<SmallTransformer<float>> attend(oracle, {question.anchor});
  const Model<float> model = cast_model<float>(hard.model);
  require_valid(model);

  const programs::Stopwatch watch;
  const Matrix<float> found = forward(model, hard.x.cast<float>().eval(), attend);
  const double seconds = watch.seconds();

  const programs::Verdict verdict = programs::judge(hard, found);
  const SimulationCounts& counts = attend.counts();
  std::cout << hard.name << "\n"
            << question.text << "\n"
            << "  tokens           " << hard.tokens() << ", layers " << hard.model.spec.layers << "\n"
            << "  calls            " << counts.calls << ", of these repeats " << counts.repeats << ", anchor "
            << name(question.anchor) << "\n"
            << "  largest logit    " << hard.logit << ", margin " << hard.margin << "\n"
            << "  wrong answers    " << verdict.wrong << " of " << verdict.numbers << "\n"
            << "  farthest off     " << verdict.farthest << " before rounding, bound "
            << programs::rounding_bound<float>(hard, rows, question.anchor) << ", allowed below 0.5\n"
            << "  seconds          " << seconds << "\n\n"
            << std::flush;
  return verdict.wrong;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Hand-built transformers with exact answers, through calls of 256 rows", "02_hard_cases"};
  Index tokens = 65536;
  programs::add_count(app, "tokens", tokens, 1, "tokens (default 65536)");
  return programs::run(app, argc, argv, [&] {
    std::cout << std::setprecision(3);
    Index wrong = 0;
    for (const Question& question : questions) wrong += run(question, tokens);
    if (wrong > 0) throw std::runtime_error(std::to_string(wrong) + " wrong answers");
    std::cout << "every answer is exact\n";
  });
}
