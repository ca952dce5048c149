#pragma once

#include <new>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <vector>

namespace twoheads {

/// One query as full attention over the keys that it sees: the query heads that read one key/value head are its rows.
///
///   Shapes   of a query (1, heads * head_dim) over NK keys: q (heads / kv_heads, kv_heads * head_dim),
///            k (n, kv_heads * head_dim), v (n, kv_heads * value_dim), n the keys that it sees;
///            out (heads / kv_heads, kv_heads * value_dim)
///   Laws     attention of input() into out(), then write(): the query's own attention
///   Corner   the input's rows and weights must outlive it. Memory: a copy of the keys and values that are seen, where
///            they do not stand in one piece. Of a query that sees no key there is no input.
template <RealScalar Scalar>
class GroupedQuery {
 public:
  /// Whether an input is one query whose scores are products: what depends on the query head is in its rows.
  [[nodiscard]] static bool fits(const AttentionInput<Scalar>& input) {
    return input.queries() == 1 && !input.by_head && input.spec.alibi.empty() && input.bias.empty() &&
           input.sink_logits.size() == 0;
  }

  /// The input must fit.
  explicit GroupedQuery(const AttentionInput<Scalar>& input)
      : input_(input), spec_(input.spec), k_(no_rows<Scalar>()), v_(no_rows<Scalar>()) {
    TWOHEADS_ASSERT(fits(input));
    const AttentionSpec& given = input.spec;
    spec_.heads = given.kv_heads;
    spec_.mask = Mask::full();
    const Index rows = group();
    q_.resize(rows, given.kv_heads * given.head_dim);
    out_.resize(rows, given.kv_heads * given.value_dim);
    for (Index head = 0; head < given.heads; ++head)
      q_.row(head % rows).segment(head / rows * given.head_dim, given.head_dim) =
          input.q.row(0).segment(head * given.head_dim, given.head_dim);
    gather();
  }
  GroupedQuery(const GroupedQuery&) = delete;
  GroupedQuery& operator=(const GroupedQuery&) = delete;

  /// Query heads of a key/value head.
  [[nodiscard]] Index group() const { return input_.spec.heads / input_.spec.kv_heads; }
  [[nodiscard]] bool sees_keys() const { return k_.rows() > 0; }  ///< whether the query sees any key

  /// The heads of the query as rows.
  [[nodiscard]] AttentionInput<Scalar> input() const {
    return {spec_, input_.layer, view(q_), k_, v_, no_rows<Scalar>(), no_rows<Scalar>(), input_.weights};
  }
  [[nodiscard]] MatrixSpan<Scalar> out() { return span(out_); }  ///< where the grouped rows are written

  /// Writes what out() holds as the query's row (1, heads * value_dim).
  void write(MatrixSpan<Scalar> row) const {
    const Index dim = spec_.value_dim;
    for (Index head = 0; head < input_.spec.heads; ++head)
      row.row(0).segment(head * dim, dim) = out_.row(head % group()).segment(head / group() * dim, dim);
  }

 private:
  void gather() {
    std::vector<Rows> places;  // of the keys seen, among those held
    Index seen = 0;
    input_.spec.mask.for_each_range(input_.query_positions().begin, input_.key_positions(), [&](const Rows& keys) {
      const Rows place = input_.held.key_place(keys);
      if (!places.empty() && places.back().end == place.begin)
        places.back().end = place.end;
      else
        places.push_back(place);
      seen += keys.size();
    });
    if (places.empty()) return;
    if (places.size() == 1) {
      new (&k_) MatrixView<Scalar>(block_view(input_.k, places.front(), 0, input_.k.cols()));
      new (&v_) MatrixView<Scalar>(block_view(input_.v, places.front(), 0, input_.v.cols()));
      return;
    }
    gathered_k_.resize(seen, input_.k.cols());
    gathered_v_.resize(seen, input_.v.cols());
    Index row = 0;
    for (const Rows& place : places) {
      gathered_k_.middleRows(row, place.size()) = input_.k.middleRows(place.begin, place.size());
      gathered_v_.middleRows(row, place.size()) = input_.v.middleRows(place.begin, place.size());
      row += place.size();
    }
    new (&k_) MatrixView<Scalar>(view(gathered_k_));
    new (&v_) MatrixView<Scalar>(view(gathered_v_));
  }

  const AttentionInput<Scalar>& input_;
  AttentionSpec spec_;
  Matrix<Scalar> q_, out_, gathered_k_, gathered_v_;
  MatrixView<Scalar> k_, v_;
};

}  // namespace twoheads
