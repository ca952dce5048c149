#pragma once

#include <optional>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/train/layer_gradient.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/trainable.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// A forward pass of a transformer that keeps what its derivative needs, and then the derivative; how attention is
/// evaluated is the caller's choice.
///
///   Shapes   x, rows, d_rows, d_x (N, width); memory, d_memory (NK, width)
///   Laws     rows are those of forward(). For each layer its input, q, k, v and what attention mixed are kept, about
///            (N, width) each, and a log weight for each row and head; norms and MLPs are computed again, a few rows at
///            a time.
///   Corner   model, memory and bias are referred to until backward() has returned. A bias of scores is a constant.
///   Throws   SpecError for an input MLP or a custom layer MLP, whose derivatives are not known; what forward() throws
///   Source   Yu & Alman, section 1: training needs the gradients of the small transformers, and rearranging
template <RealScalar S>
class TrainingPass {
 public:
  using Scalar = S;

  explicit TrainingPass(Model<Scalar>&&) = delete;
  explicit TrainingPass(const Model<Scalar>& model) : model_(model) {
    if (model.input_mlp || model.spec.mlp == MlpKind::custom)
      throw SpecError("an MLP that is any function of a row has no derivative that is known: expected another kind");
  }

  /// The rows of the model; what is kept stands in for any kept before.
  template <TrainableAttention<S> AttendFn>
  [[nodiscard]] Matrix<Scalar> forward(Matrix<Scalar> x, AttendFn& attend, const Matrix<Scalar>* memory = nullptr,
                                       const ScoreBias<Scalar>& bias = {}) {
    const ModelSpec& spec = model_.spec;
    detail::require_forward(model_, x, memory);
    memory_ = memory;
    bias_.emplace(bias);
    kept_.resize(static_cast<std::size_t>(spec.layers));
    for (Index index = 0; index < spec.layers; ++index) {
      const LayerWeights<Scalar>& layer = model_.layers[static_cast<std::size_t>(index)];
      const AttentionSpec a = spec.attention_of(index);
      Kept& kept = kept_[static_cast<std::size_t>(index)];
      kept.rows = x;
      {
        const Matrix<Scalar> tokens = detail::attention_tokens(spec, layer, view(x));
        const MatrixView<Scalar> sources = memory == nullptr ? view(tokens) : view(*memory);
        kept.q = queries_of(a, layer.attention, view(tokens));
        kept.k = keys_of(a, layer.attention, sources);
        kept.v = values_of(a, layer.attention, sources);
        kept.mixed.resize(x.rows(), a.heads * a.value_dim);
        attend.forward(input_of(a, index, kept, view(tokens), sources), span(kept.mixed), kept.log_weights);
      }
      detail::finish_rows(spec, layer, Matrix<Scalar>(kept.mixed), 0, span(x));
    }
    if (spec.final_norm) {
      last_ = x;
      detail::final_norm_in_place(model_, x);
    }
    return x;
  }

  /// Adds the derivative by every weight to `gradient`, and to d_memory that by the memory, and returns that by x.
  ///
  ///   Shapes   gradient: arrays of the model's shapes; d_memory (NK, width) where the pass had a memory, or none
  template <TrainableAttention<S> AttendFn>
  [[nodiscard]] Matrix<Scalar> backward(Matrix<Scalar> d_rows, AttendFn& attend, Model<Scalar>& gradient,
                                        Matrix<Scalar>* d_memory = nullptr) {
    const ModelSpec& spec = model_.spec;
    if (kept_.empty()) throw SpecError("a derivative is asked for before any forward pass");
    detail::require_same_arrays("a gradient", parameters(model_), parameters(gradient));
    detail::require_shape("the derivatives by the rows", d_rows, kept_.front().rows.rows(), spec.width);
    if (d_memory != nullptr) {
      if (memory_ == nullptr) throw SpecError("a derivative by a memory is asked for, the pass had none");
      detail::require_shape("the derivatives by the memory", *d_memory, memory_->rows(), spec.width);
    }
    if (spec.final_norm)
      detail::for_each_rows(d_rows.rows(), [&](Rows block) {
        auto rows = d_rows.middleRows(block.begin, block.size());
        rows = detail::add_norm_gradient(block_view(view(last_), block, 0, spec.width), model_.final_norm, spec.norm,
                                         spec.norm_epsilon, view(rows), gradient.final_norm);
      });
    for (Index index = spec.layers - 1; index >= 0; --index)
      backward_layer(index, d_rows, attend, gradient.layers[static_cast<std::size_t>(index)], d_memory);
    return d_rows;
  }

 private:
  /// What a layer's derivative needs: x as it came, and what its attention was given and found.
  struct Kept {
    Matrix<Scalar> rows, q, k, v, mixed;
    Matrix<double> log_weights;
  };

  [[nodiscard]] AttentionInput<Scalar> input_of(const AttentionSpec& a, Index index, const Kept& kept,
                                                const MatrixView<Scalar>& tokens,
                                                const MatrixView<Scalar>& sources) const {
    const AttentionWeights<Scalar>& weights = model_.layers[static_cast<std::size_t>(index)].attention;
    return {a,       index,   view(kept.q), view(kept.k), view(kept.v),        tokens,
            sources, weights, {},           false,        view(weights.sinks), *bias_};
  }

  template <class AttendFn>
  void backward_layer(Index index, Matrix<Scalar>& d_rows, AttendFn& attend, LayerWeights<Scalar>& gradient,
                      Matrix<Scalar>* d_memory) {
    const ModelSpec& spec = model_.spec;
    const LayerWeights<Scalar>& layer = model_.layers[static_cast<std::size_t>(index)];
    const AttentionSpec a = spec.attention_of(index);
    Kept& kept = kept_[static_cast<std::size_t>(index)];
    const Index width = spec.width;
    const auto block_of = [](const Matrix<Scalar>& matrix, Rows block) -> Matrix<Scalar> {
      return matrix.middleRows(block.begin, block.size());
    };
    const auto span_of = [](Matrix<Scalar>& matrix, Rows block) {
      return block_span(span(matrix), block, 0, matrix.cols());
    };

    Matrix<Scalar> d_mixed(kept.mixed.rows(), kept.mixed.cols());
    detail::for_each_rows(d_rows.rows(), [&](Rows block) {
      Matrix<Scalar> d_block = block_of(d_rows, block);
      detail::add_finish_gradient(spec, layer, block_of(kept.rows, block),
                                  block_view(view(kept.mixed), block, 0, kept.mixed.cols()), d_block,
                                  span_of(d_mixed, block), gradient);
      d_rows.middleRows(block.begin, block.size()) = d_block;
    });

    // What is projected of tokens has its derivative below: attention gets no tokens.
    AttentionGradient<Scalar> d = attend.backward(input_of(a, index, kept, no_rows<Scalar>(), no_rows<Scalar>()),
                                                  view(kept.mixed), kept.log_weights, view(d_mixed));
    if (gradient.attention.sinks.size() > 0) gradient.attention.sinks += d.sinks;
    d_mixed.resize(0, 0);

    detail::for_each_rows(d_rows.rows(), [&](Rows block) {
      Matrix<Scalar> d_block = block_of(d_rows, block);
      const bool own = memory_ == nullptr;
      const Rows keys = own ? block : Rows{0, 0};
      detail::add_attention_input_gradient(spec, layer, block.begin, block_of(kept.rows, block), span_of(d.q, block),
                                           span_of(d.k, keys), span_of(d.v, keys), own, d_block, gradient);
      d_rows.middleRows(block.begin, block.size()) = d_block;
    });
    if (memory_ == nullptr) return;
    const AttentionWeights<Scalar>& w = layer.attention;
    AttentionWeights<Scalar>& dw = gradient.attention;
    detail::for_each_rows(memory_->rows(), [&](Rows block) {
      const MatrixView<Scalar> tokens = block_view(view(*memory_), block, 0, width);
      Matrix<Scalar> d_tokens = Matrix<Scalar>::Zero(block.size(), width);
      detail::add_score_projection_gradient(a, tokens, w.wk, w.bk, w.k_norm, block.begin, span_of(d.k, block), dw.wk,
                                            dw.bk, dw.k_norm, span(d_tokens));
      detail::add_projection_gradient(tokens, w.wv, view(span_of(d.v, block)), a.head_input, a.heads, dw.wv, dw.bv,
                                      span(d_tokens));
      if (d_memory != nullptr) d_memory->middleRows(block.begin, block.size()) += d_tokens;
    });
  }

  const Model<Scalar>& model_;
  const Matrix<Scalar>* memory_ = nullptr;
  std::optional<ScoreBias<Scalar>> bias_;
  std::vector<Kept> kept_;
  Matrix<Scalar> last_;  ///< before the final norm
};

}  // namespace twoheads
