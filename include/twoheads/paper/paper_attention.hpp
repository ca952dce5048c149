#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/draws.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/packer.hpp>
#include <twoheads/paper/steps.hpp>
#include <twoheads/paper/terms.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <utility>

namespace twoheads {

/// Which of the printed constructions is run, and how.
struct PaperOptions {
  TokenEncoding encoding = TokenEncoding::raw;  ///< raw as printed; rotary positions need projected tokens
  bool average = false;                         ///< Theorem 4.1: each query meets one random block of keys
  std::uint64_t seed = 1;                       ///< of the average case's permutations, one for each layer and head
};

/// What the paper's construction took.
struct PaperCounts {
  Index calls = 0;    ///< as made, and as paper_calls() says for one layer of the oracle
  Index rounds = 0;   ///< one a layer: no call needs another's answer
  Index lookups = 0;  ///< calls that the print counts and the host gathers instead (Theorem 4.1)
};

/// Evaluates a layer's attention by the paper's printed construction for its mask; hand it to forward().
///
///   Math     out_i = sum_t (B_it / A_it) A_it / sum_t A_it, A and B / A from a call each, summed by the host
///   Laws     calls are paper_calls() of the layer with L' = 1. Nothing is stabilised: at log-sum-exps of about 16 in
///            float or 36 in double no digit is left, and beyond them rows are NaN, never an exception.
///   Corner   an instance is padded where its call is longer; the pads count as synthetic rows, divided out inside
///            the oracle
///   Throws   ShapeError if q, k, v or out do not fit the spec; SpecError, LimitError where the paper has no
///            construction (paper_gap), or for rotary positions in raw tokens; LimitError for a call that is too wide
///   Source   Yu & Alman, Lemma 3.1, Theorems 3.4, 3.5, 4.1 and 5.1; docs/paper_map.md lists what the print gets wrong
template <Oracle O>
class PaperAttention {
 public:
  using Scalar = typename O::Scalar;

  explicit PaperAttention(O& oracle, const PaperOptions& options = {}) : oracle_(oracle), options_(options) {}

  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    require_shapes(input, out);
    detail::require_plain_scores(input, "the paper's construction");
    if (input.held.first_query != 0)
      throw SpecError("the paper has no construction for a chunk of queries: expected all of them");
    if (options_.encoding == TokenEncoding::raw) detail::require_tokens(input);
    if (options_.encoding == TokenEncoding::raw && spec.rope)
      throw SpecError("raw tokens cannot carry rotary positions, which differ by row: expected projected tokens");
    const PaperTask task{spec.mask, input.queries(), input.keys(), spec.heads, 1, oracle_.limits(), options_.average};
    require_paper_construction(task);

    Machine machine(oracle_);
    Packer<Machine> packer(machine);
    Matrix<Scalar> denominators = Matrix<Scalar>::Zero(input.queries(), spec.heads);
    out.setZero();
    for (Index head = 0; head < spec.heads; ++head) {
      const auto tokens = tokens_of(input, head, task.oracle.score_scale);
      const std::uint64_t seed = detail::seed_of_part(detail::seed_of_part(options_.seed, input.layer), head);
      for_each_paper_term(task, seed, [&](const PaperTerm& term) {
        const auto known = std::make_shared<Cells>();
        const WantedRows a_rows = wanted_rows(term.denominator, term.queries);
        packer.add(denominator_instance<Cells>(tokens, term.denominator, task.oracle.kind),
                   [known, a_rows](const Cells& answer) { *known = answer.gather(a_rows.rows); });
        const WantedRows rows = wanted_rows(term.ratio, term.queries);
        TWOHEADS_ASSERT(rows.queries == a_rows.queries);
        packer.add(ratio_instance<Cells>(tokens, term.ratio, task.oracle.kind),
                   [&, known, rows, head, sign = static_cast<Scalar>(term.sign)](const Cells& answer) {
                     const Matrix<Scalar>& a = Machine::reveal(*known);
                     const Matrix<Scalar>& ratio = Machine::reveal(answer);
                     for (std::size_t i = 0; i < rows.rows.size(); ++i) {
                       const Index query = rows.queries[i];
                       const Scalar weight = sign * a(static_cast<Index>(i), 0);
                       denominators(query, head) += weight;
                       out.row(query).segment(head * spec.value_dim, spec.value_dim) +=
                           weight * ratio.row(rows.rows[i]).head(spec.value_dim);
                     }
                   });
      });
    }
    packer.finish();
    for (Index head = 0; head < spec.heads; ++head)
      out.middleCols(head * spec.value_dim, spec.value_dim).array().colwise() /= denominators.col(head).array();

    counts_.calls += machine.calls();
    counts_.rounds += 1;
    counts_.lookups += paper_lookups(task);
  }

  [[nodiscard]] const PaperCounts& counts() const { return counts_; }  ///< so far

 private:
  using Machine = CellMachine<O>;
  using Cells = typename Machine::Cells;

  [[nodiscard]] static Matrix<Scalar> copy(const MatrixView<Scalar>& rows) { return rows; }

  /// The head's tokens with its weights, or its projected rows [k, v] and q with identities in place of the weights.
  [[nodiscard]] std::shared_ptr<const StepTokens<Cells>> tokens_of(const AttentionInput<Scalar>& input, Index head,
                                                                   double oracle_scale) const {
    const AttentionSpec& spec = input.spec;
    const auto factor = static_cast<Scalar>(spec.score_scale / oracle_scale);
    const Index m = spec.head_dim;
    const Index mv = spec.value_dim;
    const Rows queries{0, input.queries()};
    const Rows keys{0, input.keys()};
    if (options_.encoding == TokenEncoding::projected) {
      Matrix<Scalar> key_rows(input.keys(), m + mv);
      key_rows << input.key_rows(head, keys), input.value_rows(head, keys);
      const Matrix<Scalar> picks_k = Matrix<Scalar>::Identity(m + mv, m);
      const Matrix<Scalar> picks_v = Matrix<Scalar>::Identity(m + mv, m + mv).rightCols(mv);
      return std::make_shared<const StepTokens<Cells>>(Machine::take(copy(input.query_rows(head, queries))),
                                                       Machine::take(std::move(key_rows)),
                                                       Matrix<Scalar>::Identity(m, m), picks_k, picks_v, factor);
    }
    const bool slice = spec.head_input == HeadInput::slice;
    const Index d = input.weights.wq.rows();
    const Index begin = slice ? head * d : 0;
    const Index kv = spec.kv_head_of(head);
    return std::make_shared<const StepTokens<Cells>>(
        Machine::take(copy(block_view(input.query_tokens, queries, begin, d))),
        Machine::take(copy(block_view(input.key_tokens, keys, begin, d))), input.weights.wq.middleCols(head * m, m),
        input.weights.wk.middleCols(kv * m, m), input.weights.wv.middleCols(kv * mv, mv), factor);
  }

  O& oracle_;
  PaperOptions options_;
  PaperCounts counts_;
};

}  // namespace twoheads
