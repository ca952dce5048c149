#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/model/spec.hpp>
#include <utility>

#include "support/seed.hpp"

/// Rows of a layer, as all ranks know them.
template <class Scalar>
struct RankLayer {
  RankLayer(twoheads::AttentionSpec of_layer, twoheads::Index queries, twoheads::Index keys, bool learned_sinks)
      : spec(std::move(of_layer)), sinks(1, learned_sinks ? spec.heads : 0) {
    twoheads::Random random(seed_or(5));
    q = random.matrix<Scalar>(queries, spec.heads * spec.head_dim);
    k = random.matrix<Scalar>(keys, spec.kv_heads * spec.head_dim);
    v = random.matrix<Scalar>(keys, spec.kv_heads * spec.value_dim);
    if (learned_sinks) sinks = random.matrix<Scalar>(1, spec.heads);
  }

  twoheads::AttentionSpec spec;
  twoheads::Matrix<Scalar> q, k, v, sinks;
};
