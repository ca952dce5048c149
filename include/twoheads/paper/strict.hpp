#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/paper/appendix_a.hpp>
#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/coded.hpp>
#include <twoheads/paper/steps.hpp>
#include <twoheads/paper/terms.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Rows of the large transformer, found by calls alone, and how many each part of the way took.
template <class CellsType>
struct StrictResult {
  CellsType rows;     ///< (N, width)
  StrictCounts made;  ///< calls as made; a layer's are those of the last layer
  Index calls = 0;
};

namespace detail {

/// A row [A, B / A] becomes [A, B].
struct ProductMlp {
  template <RealScalar Scalar>
  void operator()(Index, MatrixSpan<Scalar>& rows) const {
    for (Index i = 0; i < rows.rows(); ++i) rows.row(i).tail(rows.cols() - 1) *= rows(i, 0);
  }
};

/// A row [sum A, sum B] becomes [sum A, sum B / sum A].
struct DivisionMlp {
  template <RealScalar Scalar>
  void operator()(Index, MatrixSpan<Scalar>& rows) const {
    for (Index i = 0; i < rows.rows(); ++i) rows.row(i).tail(rows.cols() - 1) /= rows(i, 0);
  }
};

/// A model's layer MLP as a row function; weights are lent.
template <RealScalar Own>
struct LayerMlp {
  const MlpWeights<Own>* weights = nullptr;
  MlpKind kind = MlpKind::none;

  template <RealScalar Scalar>
  void operator()(Index first_row, MatrixSpan<Scalar>& rows) const {
    if constexpr (std::same_as<Scalar, Own>)
      rows = mlp(view(rows), *weights, kind, first_row);
    else
      throw SpecError("a layer MLP is applied to rows of another scalar");
  }
};

/// A and B / A of all heads and terms below one another, and which of these rows belong to which query.
template <class CellsType>
struct StrictStates {
  CellsType rows;                          ///< (P H, 1 + m_v)
  std::vector<std::vector<Index>> places;  ///< of query i of head h at h N + i
};

/// Steps 1 and 2 of one layer.
template <Machine M>
[[nodiscard]] StrictStates<typename M::Cells> strict_steps(M& machine, const AttentionSpec& spec,
                                                           const AttentionWeights<typename M::Scalar>& weights,
                                                           const typename M::Cells& x, const PaperTask& task) {
  using Cells = typename M::Cells;
  using Scalar = typename M::Scalar;
  const auto factor = static_cast<Scalar>(spec.score_scale / task.oracle.score_scale);
  const Index d = weights.wq.rows();
  const Index m = spec.head_dim;
  const Index mv = spec.value_dim;
  StrictStates<Cells> states;
  states.places.resize(static_cast<std::size_t>(spec.heads * task.tokens));
  std::vector<std::shared_ptr<Cells>> parts;
  Index count = 0;
  Packer<M> packer(machine);
  for (Index head = 0; head < spec.heads; ++head) {
    const Cells own = x.columns(head * d, d);
    const auto tokens = std::make_shared<const StepTokens<Cells>>(own, own, weights.wq.middleCols(head * m, m),
                                                                  weights.wk.middleCols(head * m, m),
                                                                  weights.wv.middleCols(head * mv, mv), factor);
    for_each_paper_term(task, 0, [&](const PaperTerm& term) {
      const auto part = std::make_shared<Cells>();
      parts.push_back(part);
      const WantedRows a_rows = wanted_rows(term.denominator, term.queries);
      const WantedRows rows = wanted_rows(term.ratio, term.queries);
      TWOHEADS_ASSERT(rows.queries == a_rows.queries);
      for (const Index query : rows.queries)
        states.places[static_cast<std::size_t>(head * task.tokens + query)].push_back(count++);
      packer.add(denominator_instance<Cells>(tokens, term.denominator, task.oracle.kind),
                 [part, a_rows](const Cells& answer) { *part = answer.gather(a_rows.rows); });
      packer.add(ratio_instance<Cells>(tokens, term.ratio, task.oracle.kind), [part, rows, mv](const Cells& answer) {
        *part = Cells::beside(std::vector<Cells>{*part, answer.gather(rows.rows).columns(0, mv)});
      });
    });
  }
  packer.finish();
  std::vector<Cells> blocks;
  for (const std::shared_ptr<Cells>& part : parts) blocks.push_back(std::move(*part));
  states.rows = Cells::below(blocks);
  return states;
}

/// Throws SpecError for a model that is not the paper's.
template <RealScalar Scalar>
void require_paper_layer(const Model<Scalar>& model) {
  const ModelSpec& spec = model.spec;
  const AttentionSpec& a = spec.attention;
  const bool plain = std::all_of(model.layers.begin(), model.layers.end(), [](const LayerWeights<Scalar>& layer) {
    const AttentionWeights<Scalar>& w = layer.attention;
    return w.bq.size() + w.bk.size() + w.bv.size() + w.sinks.size() == 0;
  });
  if (!plain || spec.residual || spec.norm != NormKind::none || a.output_projection || a.rope || a.soft_cap != 0 ||
      !a.alibi.empty() || a.head_norm || !spec.layer_masks.empty() || a.head_input != HeadInput::slice)
    throw SpecError(
        "the strict model runs the paper's own layer: heads that see their slice, no residual sum, no norm, no output "
        "projection, no rotary positions, no ALiBi, no norms of heads, no masks of layers, no soft cap, no biases of "
        "q, k and v, no "
        "learned sinks (paper_layer)");
}

}  // namespace detail

/// Runs a transformer of the paper's layers by oracle calls alone: the host rearranges rows and adds constants.
///
///   Shapes   x, result (N, width)
///   Math     phi by calls; for each layer A and B / A of each term (steps), A times B / A (products), the sums over a
///            query's terms by Lemma A.2 and the division in that call's MLP (merges), psi by calls with identity
///            attention. Projections W_Q, W_K, W_V are in the oracle's weights.
///   Laws     result.made equals strict_counts(), and x is touched through M alone: any Machine will do
///   Corner   sums, products and quotients are the oracle's, so its range is the result's: see PaperAttention
///   Throws   ShapeError if x or the weights do not fit the spec; SpecError for a model that is not the paper's, or
///            another mask than full and causal; LimitError where the paper has no construction
///            on this oracle or a query's terms exceed a call's rows
///   Source   Yu & Alman, section 2 (cost model), Theorems 3.4 and 3.5, Appendix A; docs/paper_map.md, "The strict cost
///            model", says where products and psi go that the print leaves to an input MLP and to "an oracle"
template <Machine M>
[[nodiscard]] StrictResult<typename M::Cells> strict_forward(M& machine, const Model<typename M::Scalar>& model,
                                                             typename M::Cells x) {
  using Cells = typename M::Cells;
  const ModelSpec& spec = model.spec;
  const AttentionSpec& a = spec.attention;
  require_shapes(model);
  detail::require_paper_layer(model);
  if (x.cols() != spec.width) throw ShapeError(detail::text("cells of ", x.cols(), " columns, expected ", spec.width));
  const Index n = x.rows();
  const PaperTask task{a.mask, n, n, a.heads, spec.layers, machine.limits()};
  const bool layer_mlp = spec.mlp != MlpKind::none;
  static_cast<void>(strict_counts(task, static_cast<bool>(model.input_mlp), layer_mlp));

  StrictResult<Cells> result;
  result.made.layers = spec.layers;
  const Index before = machine.calls();
  const auto counted = [&](Index& count, const auto& run) {
    const Index start = machine.calls();
    auto found = run();
    count = machine.calls() - start;
    return found;
  };
  if (model.input_mlp) x = counted(result.made.input_mlp, [&] { return row_by_row(machine, x, model.input_mlp); });
  for (const LayerWeights<typename M::Scalar>& layer : model.layers) {
    const detail::StrictStates<Cells> states =
        counted(result.made.steps, [&] { return detail::strict_steps(machine, a, layer.attention, x, task); });
    const Cells products = counted(result.made.products,
                                   [&] { return row_by_row(machine, states.rows, RowFunction(detail::ProductMlp())); });
    // Groups of one length: a query with fewer terms is filled up with zeros, which the free padding allows.
    const Index group = strict_group(task);
    std::vector<Index> order;
    for (const std::vector<Index>& places : states.places) {
      order.insert(order.end(), places.begin(), places.end());
      order.insert(order.end(), static_cast<std::size_t>(group) - places.size(), CallRow::none);
    }
    const Cells merged = counted(result.made.merges, [&] {
      return sum_of_groups(machine, products.gather(order), group, RowFunction(detail::DivisionMlp()));
    });
    std::vector<Cells> heads;
    for (Index head = 0; head < a.heads; ++head)
      heads.push_back(merged.gather(detail::row_numbers({head * n, (head + 1) * n}, n)).columns(1, a.value_dim));
    x = Cells::beside(heads);
    if (layer_mlp)
      x = counted(result.made.layer_mlp, [&] {
        return row_by_row(machine, x, RowFunction(detail::LayerMlp<typename M::Scalar>{&layer.mlp, spec.mlp}));
      });
  }
  result.rows = std::move(x);
  result.calls = machine.calls() - before;
  return result;
}

}  // namespace twoheads
