#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/checks.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/score_bound.hpp>
#include <twoheads/codec/score_terms.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/oracle/rounding.hpp>

namespace twoheads {

/// Throws LimitError where tokens of 16 bits would round queries once more: by what the model's score scale is beside
/// the oracle's, unless that is a power of two. The error of a weight would grow with the size of its logit.
template <RealScalar Scalar>
void require_exact_queries(double factor, const OraclePrecision& precision) {
  int exponent = 0;
  const bool exact = std::abs(std::frexp(static_cast<Scalar>(factor), &exponent)) == Scalar(0.5);
  if (anchor_cols(precision) > 1 && !exact)
    throw LimitError(detail::text("queries are multiplied by ", factor,
                                  ", the model's score scale over the oracle's, "
                                  "and tokens of ",
                                  name(precision.tokens),
                                  " would round them again: an oracle whose "
                                  "score scale is the model's times a power of two would do"));
}

/// What the encoder needs beside the tokens.
template <RealScalar Scalar>
struct EncodeSettings {
  Scalar factor = Scalar(1);          ///< the model's score scale over the oracle's; multiplies projected queries
  Scalar synthetic = Scalar(1);       ///< entry of the synthetic column on rows without a real key
  const Codes* codes = nullptr;       ///< what keeps the jobs of a slot apart, where the layout has columns for them
  Scalar amplitude = Scalar(0);       ///< of the codes
  Precision tokens = Precision::own;  ///< what the oracle rounds its tokens to
  CallNumber<Scalar> number = {};     ///< of the call, where the layout has checks
  const ScoreTerms<Scalar>* terms = nullptr;  ///< what is added to scores, where the layout has columns for it
  Scalar term_query = Scalar(1);              ///< entry of a query's own column of terms: 1 over the oracle's scale
  Scalar hidden = Scalar(0);                  ///< entry of a key whose term hides it
};

/// Writes the tiles of one slot into the rows of a call.
///
///   Shapes   call (rows of the call, all columns); the slot has layout.width() of them from `begin`, and writes all of
///            these whatever they held; anchors: (query rows) of each tile, in units of the oracle's score
///   Corner   rows beyond map.rows() are padding: copies of the synthetic key, that decoding divides out again. The
///            synthetic key and sinks carry no code, so that every job sees them.
///   Source   Yu & Alman, Lemma 3.1 (plain), Claim B.6 and Theorem 3.5 (causal), Theorem 4.2 (codes)
template <RealScalar Scalar>
void encode(Matrix<Scalar>& call, Index begin, const InstanceLayout& layout, const SlotMap& map,
            const AttentionInput<Scalar>& input, Index head, std::span<const Vector<Scalar>* const> anchors,
            const EncodeSettings<Scalar>& settings) {
  const bool raw = layout.encoding == TokenEncoding::raw;
  const bool slice = input.spec.head_input == HeadInput::slice;
  // Raw tokens are scaled by the oracle's own query weights.
  const Scalar factor = raw ? Scalar(1) : settings.factor;
  const Index tokens_begin = slice ? head * layout.input_width : 0;
  const MatrixView<Scalar>& all_queries = raw ? input.query_tokens : input.q;
  const auto start = [](const MatrixView<Scalar>& rows, Index row, Index col) {
    return rows.data() + row * rows.outerStride() + col;
  };
  const Index query_cols = raw ? layout.query_cols() : layout.head_dim;
  const Index answer_cols = raw ? 1 : layout.answer_cols();

  // Rows are copied by plain loops: an Eigen block for every few numbers would take longer than the numbers.
  for (Index row = 0; row < call.rows(); ++row) {
    Scalar* const columns = call.data() + row * call.cols() + begin;
    const SlotMap::Row carried = map.row(row);
    const auto codes_at = [&](Index col) { return call.row(row).segment(begin + col, layout.code_cols); };
    if (carried.query == SlotMap::none) {
      std::fill_n(columns, layout.keyed_cols(), Scalar(0));
    } else {
      const Index query = input.held.query_place(map.tile(carried.job).queries).begin + carried.query;
      const Scalar* const from = start(all_queries, query, raw ? tokens_begin : head * layout.head_dim);
      for (Index col = 0; col < query_cols; ++col) columns[col] = factor * from[col];
      if (layout.term_cols > 0) {
        std::fill_n(columns + query_cols, layout.term_cols, Scalar(0));
        const Index own = settings.terms->column(carried.job, carried.query);
        TWOHEADS_ASSERT(own < layout.term_cols);
        columns[query_cols + own] = settings.term_query;
      }
      const Scalar anchor = (*anchors[static_cast<std::size_t>(carried.job)])[carried.query];
      columns[layout.anchor_at()] = rounded(anchor, settings.tokens);
      if (layout.anchor_cols > 1) columns[layout.anchor_at() + 1] = anchor - columns[layout.anchor_at()];
      if (layout.code_cols > 0)
        settings.codes->write_query(carried.job, settings.amplitude, codes_at(layout.query_code_at()));
    }

    const bool real = carried.key != SlotMap::none;
    const Rows key{carried.key, carried.key + 1};
    const Scalar* key_from = nullptr;
    if (real && raw) key_from = start(input.key_tokens, input.held.key_place(key).begin, tokens_begin);
    if (real && !raw) key_from = input.key_rows(head, key).data();
    Scalar* const keyed = columns + layout.key_at();
    if (real)
      std::copy_n(key_from, query_cols, keyed);
    else
      std::fill_n(keyed, layout.query_cols(), Scalar(0));
    if (real && layout.term_cols > 0)
      settings.terms->write_key(carried.job, carried.key, settings.hidden, keyed + query_cols, layout.term_cols);
    for (Index col = 0; col < layout.anchor_cols; ++col)
      columns[layout.synthetic_at() + col] = real ? Scalar(0) : settings.synthetic;
    if (layout.code_cols > 0) {
      if (real && carried.job != SlotMap::none)
        settings.codes->write_key(carried.job, settings.amplitude, codes_at(layout.key_code_at()));
      else
        codes_at(layout.key_code_at()).setZero();
    }

    Scalar* const answer = columns + layout.value_at();
    if (raw) {
      answer[0] = real ? Scalar(1) : Scalar(0);
      continue;
    }
    if (!real) std::fill_n(answer, answer_cols, Scalar(0));
    if (layout.has_state()) {
      answer[layout.r_at()] = real ? Scalar(1) : Scalar(0);
      answer[layout.p_at()] = real ? Scalar(0) : Scalar(1);
    }
    if (real && layout.has_values()) std::copy_n(input.value_rows(head, key).data(), layout.value_dim, answer);
    if (real && layout.has_keys()) {
      std::copy_n(key_from, layout.head_dim, answer + layout.keys_at());
      // A query whose own column hides the key gives it no weight: what stands there is nothing to it.
      if (layout.term_cols > 0)
        settings.terms->write_key(carried.job, carried.key, Scalar(0), answer + layout.keys_at() + layout.head_dim,
                                  layout.term_cols);
    }
    if (layout.checked) write_checks(answer, layout, settings.number);
  }
}

}  // namespace twoheads
