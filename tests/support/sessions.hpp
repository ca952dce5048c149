#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/model/random.hpp>
#include <vector>

#include "support/instances.hpp"

/// A small decoder, texts for it, and its rows by a session or in one pass.
namespace sessions {

using namespace twoheads;

using Kernel32 = KernelAttention<float>;
using Direct64 = DirectAttention<double>;

/// A small decoder with rotary positions and grouped heads.
template <class S>
LanguageModel<S> decoder(const Mask& mask, std::uint64_t seed = 1) {
  ModelSpec spec;
  spec.layers = 3;
  spec.width = 24;
  spec.attention.heads = 4;
  spec.attention.kv_heads = 2;
  spec.attention.head_dim = spec.attention.value_dim = 6;
  spec.attention.score_scale = 0.9;
  spec.attention.mask = mask;
  spec.attention.rope = RopeSpec{};
  spec.norm = NormKind::rms;
  spec.mlp = MlpKind::swiglu;
  spec.hidden = 40;
  spec.final_norm = true;
  LanguageModel<S> model;
  model.body = random_model<S>(spec, seed);
  model.embedding = Random(seed + 1).matrix<S>(50, spec.width, 1.0);
  return model;
}

inline std::vector<int> text(Index count, std::uint64_t seed = 5) {
  std::mt19937_64 bits(seed);
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int& id : ids) id = static_cast<int>(bits() % 50);
  return ids;
}

template <class S, class A>
Matrix<S> in_chunks(Session<S, A>& session, const std::vector<int>& ids, Index chunk) {
  Matrix<S> rows(static_cast<Index>(ids.size()), session.model().body.spec.width);
  for (Index begin = 0; begin < rows.rows(); begin += chunk) {
    const Index count = std::min(chunk, rows.rows() - begin);
    const std::span<const int> piece(ids.data() + begin, static_cast<std::size_t>(count));
    rows.middleRows(begin, count) = session.append(piece);
  }
  return rows;
}

template <class S>
Matrix<S> one_pass(const LanguageModel<S>& model, const std::vector<int>& ids) {
  return forward(model.body, embed(model, ids), DirectAttention<S>());
}

template <class S>
double difference(const Matrix<S>& a, const Matrix<S>& b) {
  return static_cast<double>((a - b).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
}

inline std::vector<Mask> masks() { return {Mask::causal(), Mask::sliding_window(17), Mask::window_and_sinks(20, 4)}; }

}  // namespace sessions
