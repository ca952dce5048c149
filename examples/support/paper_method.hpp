#pragma once

#include <ostream>
#include <string>
#include <twoheads/paper/paper_attention.hpp>
#include <twoheads/paper/strict.hpp>
#include <twoheads/paper/terms.hpp>
#include <twoheads/plan/causal.hpp>
#include <twoheads/plan/full.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/simulate.hpp>
#include <utility>

#include "support/arguments.hpp"

namespace programs {

/// Which construction evaluates attention.
///
///   stable   the library's own plans
///   paper    the printed constructions, merged by the host
///   strict   the same with merge and layer MLPs by oracle calls: nothing but rearranging outside
enum class Method { stable, paper, strict };

/// What the paper's construction comes to, in the words of a plan.
struct PaperFigures {
  Index calls = 0;
  Index rounds = 0;
  Index jobs = 0;   ///< a denominator and a ratio for each term
  Index tiles = 0;  ///< terms of one head of one layer
  double rows_used = 0;
  bool exact = true;
  std::string theorem;
};

[[nodiscard]] inline twoheads::PaperTask paper_task(const twoheads::PlanRequest& request) {
  if (request.oracle.layers > 1)
    throw ArgumentError("--oracle-layers above 1 has no printed construction that runs (Lemma 3.3 mixes the rows)");
  const twoheads::Sampling& sampling = request.sampling;
  if (sampling.samples > 1 || (sampling.samples == 1 && (sampling.near > 0 || sampling.sinks > 0)))
    throw ArgumentError("the paper draws one key block a query block: expected --samples 1 without --near and --sinks");
  return {request.mask,   request.tokens, request.keys,        request.heads,
          request.layers, request.oracle, sampling.samples > 0};
}

/// Rows of one head's terms that carry tokens, each term once.
[[nodiscard]] inline Index paper_rows(const twoheads::PaperTask& task) {
  if (task.average) return task.tokens;
  if (task.mask.kind == twoheads::MaskKind::full)
    return twoheads::FullTiling{task.tokens, task.key_count(), task.block(), twoheads::OracleKind::plain}.token_rows();
  if (task.mask.kind == twoheads::MaskKind::causal)
    return twoheads::CausalTiling{task.tokens, task.block()}.token_rows();
  Index rows = 0;
  twoheads::for_each_paper_term(
      task, 0, [&](const twoheads::PaperTerm& term) { rows += static_cast<Index>(term.denominator.size()) - 1; });
  return rows;
}

/// The counts of a method other than stable; what the paper has no construction for is a fault of the flags.
[[nodiscard]] inline PaperFigures paper_figures(const twoheads::PlanRequest& request, Method method) {
  try {
    const twoheads::PaperTask task = paper_task(request);
    twoheads::require_paper_construction(task);
    const auto product = [](Index a, Index b) { return twoheads::detail::checked_product("the number of rows", a, b); };
    static_cast<void>(product(product(task.query_blocks(), task.key_blocks()), task.block()));
    PaperFigures figures;
    figures.tiles = twoheads::paper_terms(task);
    figures.jobs = 2 * figures.tiles * task.heads * task.layers;
    double rows = 2.0 * static_cast<double>(paper_rows(task)) * static_cast<double>(task.heads);
    if (method == Method::strict) {
      const twoheads::StrictCounts counts = twoheads::strict_counts(task, false, true);
      figures.calls = counts.calls();
      figures.rounds = counts.rounds();
      // Every product is a row, and a row of a sum; then the rows of the layer MLP.
      rows += 2.0 * static_cast<double>(twoheads::strict_rows(task)) * static_cast<double>(task.heads) +
              static_cast<double>(task.tokens);
    } else {
      figures.calls = twoheads::paper_calls(task).value();
      figures.rounds = task.layers;
    }
    figures.rows_used = rows * static_cast<double>(task.layers) /
                        (static_cast<double>(task.oracle.rows) * static_cast<double>(task.oracle.heads) *
                         static_cast<double>(figures.calls));
    const char* printed = "Lemma 3.1";
    if (task.mask.kind == twoheads::MaskKind::causal) printed = "Theorem 3.5";
    if (task.mask.kind == twoheads::MaskKind::window) printed = "Theorem 5.1";
    if (task.mask.kind == twoheads::MaskKind::sinks) printed = "Theorem 5.1 with sinks (D.1)";
    if (task.average) printed = "Theorem 4.1";
    figures.exact = !task.average;
    figures.theorem = printed + std::string(method == Method::strict ? " and Appendix A" : "") + " as printed";
    return figures;
  } catch (const twoheads::Error& error) {
    throw ArgumentError(error.what());
  }
}

/// Says the counts in words.
inline void print(std::ostream& out, const PaperFigures& figures) {
  out << figures.theorem << "\n\n  terms      " << figures.tiles << " a head and layer, two jobs each\n  jobs       "
      << figures.jobs << "\n  calls      " << figures.calls << "\n  rounds     " << figures.rounds << "\n  rows used  "
      << static_cast<int>(figures.rows_used * 1000 + 0.5) / 10.0 << " % of the row slots carry tokens\n";
}

/// The model's rows by a method other than stable, and the calls that it made.
template <class Scalar, class O>
[[nodiscard]] twoheads::Simulation<Scalar> run_paper(const twoheads::Model<Scalar>& model, twoheads::Matrix<Scalar> x,
                                                     O& oracle, Method method, twoheads::TokenEncoding encoding,
                                                     const twoheads::Sampling& sampling,
                                                     const twoheads::Matrix<Scalar>* memory) {
  twoheads::Simulation<Scalar> result;
  if (method == Method::strict) {
    twoheads::CellMachine<O> machine(oracle);
    const auto found = twoheads::strict_forward(machine, model, machine.take(std::move(x)));
    result.rows = machine.reveal(found.rows);
    result.counts.calls = found.calls;
    result.counts.rounds = found.made.rounds();
    return result;
  }
  twoheads::PaperAttention<O> attend(oracle, {encoding, sampling.samples > 0, sampling.seed});
  result.rows = twoheads::forward(model, std::move(x), attend, memory);
  result.counts.calls = attend.counts().calls;
  result.counts.rounds = attend.counts().rounds;
  return result;
}

}  // namespace programs
