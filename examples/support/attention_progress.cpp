#include "support/attention_progress.hpp"

#include <algorithm>
#include <twoheads/plan/one_query.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>

#include "support/instances.hpp"

namespace programs {
namespace {

using twoheads::AttentionInput;
using twoheads::AttentionSpec;
using twoheads::Index;
using twoheads::Matrix;
using twoheads::Rows;

/// What the plans of all layers come to by one of their counts.
double sum_of_plans(const twoheads::ModelSpec& spec, Index tokens, Index keys, const twoheads::OracleLimits& limits,
                    const twoheads::SimulationOptions& options, Index (twoheads::Plan::*count)() const) {
  double sum = 0;
  for (Index layer = 0; layer < spec.layers; ++layer) {
    const AttentionSpec attention = spec.attention_of(layer);
    const twoheads::Plan plan(twoheads::one_query_request(
        twoheads::detail::grid_request(options, limits, attention, layer, Rows{0, tokens}, keys, options.log_weights),
        attention.kv_heads));
    sum += static_cast<double>((plan.*count)());
  }
  return sum;
}

/// Pairs of query and key that some queries see, or about so many.
double pairs(const AttentionSpec& spec, Rows queries, Index keys) {
  const auto seen = [&](Index query) { return static_cast<double>(spec.mask.visible_keys(query, keys).size()); };
  return static_cast<double>(queries.size()) * (seen(queries.begin) + seen(queries.end - 1)) / 2;
}

/// Direct attention in slices of whole blocks, so that progress is told more often than once a layer.
template <class Scalar>
class SlicedDirect {
 public:
  explicit SlicedDirect(Progress& progress) : progress_(progress) {}

  void operator()(const AttentionInput<Scalar>& input, twoheads::MatrixSpan<Scalar> out) {
    twoheads::require_shapes(input, out);
    for_each_slice(input.query_positions(), twoheads::DirectAttention<Scalar>::block_rows(input), [&](Rows queries) {
      direct_.evaluate_queries(input, queries, out);
      progress_.add(pairs(input.spec, queries, input.key_positions()));
    });
  }

  /// About 64 of a layer, and none so short that looking through all values for each would count.
  template <class Use>
  static void for_each_slice(Rows queries, Index block, const Use& use) {
    const Index blocks = twoheads::ceil_div(std::max<Index>(queries.size() / 64, 256), block);
    for (Index begin = queries.begin; begin < queries.end; begin += blocks * block)
      use(Rows{begin, std::min(begin + blocks * block, queries.end)});
  }

  [[nodiscard]] double max_logit() const { return direct_.max_logit(); }

 private:
  Progress& progress_;
  twoheads::DirectAttention<Scalar> direct_;
};

}  // namespace

void begin_jobs(Progress& progress, const twoheads::ModelSpec& spec, Index tokens, Index keys,
                const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options) {
  if (progress.shown()) progress.begin(sum_of_plans(spec, tokens, keys, limits, options, &twoheads::Plan::jobs));
}

void begin_calls(Progress& progress, const twoheads::ModelSpec& spec, Index tokens, Index keys,
                 const twoheads::OracleLimits& limits, const twoheads::SimulationOptions& options) {
  if (progress.shown()) progress.begin(sum_of_plans(spec, tokens, keys, limits, options, &twoheads::Plan::calls));
}

void begin_pieces(Progress& progress, const twoheads::ModelSpec& spec, Index tokens, Index keys,
                  const twoheads::KernelOptions& options) {
  if (!progress.shown()) return;
  // Under a causal mask an executor is handed the longest blocks first.
  bool shrinking = true;
  for (Index layer = 0; layer < spec.layers; ++layer)
    shrinking = shrinking && spec.attention_of(layer).mask.kind == twoheads::MaskKind::causal;
  const auto pieces = shrinking ? Progress::Pieces::shrinking : Progress::Pieces::even;
  double work = 0;
  for (Index layer = 0; layer < spec.layers; ++layer) {
    const AttentionSpec attention = spec.attention_of(layer);
    const twoheads::Plan plan(twoheads::kernel_request(options, attention, layer, Rows{0, tokens}, keys));
    work += Progress::work_of_pieces(static_cast<double>(plan.query_blocks() * attention.heads), pieces);
  }
  progress.begin(work, pieces);
}

template <class Scalar>
Matrix<Scalar> forward_directly(const twoheads::Model<Scalar>& model, Matrix<Scalar> x, Progress& progress,
                                const Matrix<Scalar>* memory, double* max_logit) {
  if (!progress.shown()) {
    twoheads::DirectAttention<Scalar> direct;
    Matrix<Scalar> rows = twoheads::forward(model, std::move(x), direct, memory);
    if (max_logit != nullptr) *max_logit = direct.max_logit();
    return rows;
  }
  const Index keys = memory != nullptr ? memory->rows() : x.rows();
  double work = 0;
  for (Index layer = 0; layer < model.spec.layers; ++layer) {
    const AttentionSpec attention = model.spec.attention_of(layer);
    // Blocks of another length are others' sums, and these are only about right anyway.
    SlicedDirect<Scalar>::for_each_slice(Rows{0, x.rows()}, 64,
                                         [&](Rows queries) { work += pairs(attention, queries, keys); });
  }
  progress.begin(work);
  SlicedDirect<Scalar> direct(progress);
  Matrix<Scalar> rows = twoheads::forward(model, std::move(x), direct, memory);
  if (max_logit != nullptr) *max_logit = direct.max_logit();
  progress.finish();
  return rows;
}

#define TWOHEADS_FORWARD_DIRECTLY(Scalar)                                                             \
  template Matrix<Scalar> forward_directly(const twoheads::Model<Scalar>&, Matrix<Scalar>, Progress&, \
                                           const Matrix<Scalar>*, double*)
TWOHEADS_FORWARD_DIRECTLY(float);
TWOHEADS_FORWARD_DIRECTLY(double);
TWOHEADS_FORWARD_DIRECTLY(long double);
#undef TWOHEADS_FORWARD_DIRECTLY

}  // namespace programs
