#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <functional>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <twoheads/model/weights.hpp>
#include <utility>
#include <vector>

/// What the library computes, written a second time: in long double, on plain vectors, by loops over single numbers.
/// Specs and weights come in through plain(); nothing else of the library is called.
namespace naive {

using twoheads::Index;
using Real = long double;
using Row = std::vector<Real>;
/// One token a row; all rows have the same length.
using Table = std::vector<Row>;
/// Whether a query sees a key, by their positions.
using Visible = std::function<bool(Index query, Index key)>;
/// Changes one row by its position.
using RowRule = std::function<void(Index position, Row& row)>;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }
inline Index rows(const Table& table) { return static_cast<Index>(table.size()); }
inline Index cols(const Table& table) { return table.empty() ? 0 : static_cast<Index>(table.front().size()); }
inline Table zeros(Index rows, Index cols) { return Table(at(rows), Row(at(cols), 0)); }

/// A matrix of any scalar as a table.
template <class Dense>
Table plain(const Dense& dense) {
  Table table = zeros(dense.rows(), dense.cols());
  for (Index i = 0; i < dense.rows(); ++i)
    for (Index j = 0; j < dense.cols(); ++j) table[at(i)][at(j)] = dense(i, j);
  return table;
}

/// A row vector of any scalar; empty where it is.
template <class Dense>
Row plain_row(const Dense& dense) {
  Row row;
  for (Index i = 0; i < dense.size(); ++i) row.push_back(dense(i));
  return row;
}

/// Of a mask, its fields alone are read.
inline Visible visible(const twoheads::Mask& mask) {
  using twoheads::MaskKind;
  // Subtracted, since a window may be as wide as 64 bits.
  const auto near = [r = mask.window](Index query, Index key) { return key <= query && query - key < r; };
  switch (mask.kind) {
    case MaskKind::full:
      break;
    case MaskKind::causal:
      return [](Index query, Index key) { return key <= query; };
    case MaskKind::window:
      return near;
    case MaskKind::sinks:
      return [near, s = mask.sinks](Index query, Index key) { return near(query, key) || (key <= query && key < s); };
    case MaskKind::band:
      return [a = mask.left, b = mask.right](Index query, Index key) { return query - key <= a && key - query <= b; };
    case MaskKind::documents:
      return [ends = mask.ends, causal = mask.causal_documents](Index query, Index key) {
        if (causal && key > query) return false;
        for (const Index end : ends)
          if ((query < end) != (key < end)) return false;
        return true;
      };
    case MaskKind::blocks:
      return [ends = mask.ends, shown = mask.shown](Index query, Index key) {
        std::size_t group = 0;
        while (ends[group] <= query) ++group;
        bool seen = false;
        for (const auto& range : shown[group]) seen = seen || (range.begin <= key && key < range.end);
        return seen;
      };
  }
  return [](Index, Index) { return true; };
}

/// The columns [begin, begin + count).
inline Table columns(const Table& table, Index begin, Index count) {
  Table part;
  for (const Row& row : table) part.emplace_back(row.begin() + begin, row.begin() + begin + count);
  return part;
}

inline Table product(const Table& a, const Table& b) {
  if (cols(a) != rows(b)) throw std::logic_error("naive: shapes of a product");
  Table c = zeros(rows(a), cols(b));
  for (std::size_t i = 0; i < c.size(); ++i)
    for (std::size_t j = 0; j < c[i].size(); ++j)
      for (std::size_t k = 0; k < b.size(); ++k) c[i][j] += a[i][k] * b[k][j];
  return c;
}

inline Real largest(const Table& table) {
  Real most = 0;
  for (const Row& row : table)
    for (const Real x : row) most = std::max(most, std::abs(x));
  return most;
}

/// Is shown every table that an evaluation computes on its way, and may change it: what error bounds are made from.
using Stage = std::function<void(Table&)>;

// --- attention -------------------------------------------------------------------------------------------------------

/// The largest scores of visible pairs.
struct Scores {
  Real largest = 0;   ///< |scale sum_c q_c k_c|
  Real absolute = 0;  ///< |scale| sum_c |q_c k_c|, to which the rounding of a score is relative
};

/// scale q k^T; hidden pairs, too.
inline Table logits(const Table& q, const Table& k, Real scale) {
  Table s = zeros(rows(q), rows(k));
  for (std::size_t i = 0; i < q.size(); ++i)
    for (std::size_t j = 0; j < k.size(); ++j) {
      for (std::size_t c = 0; c < q[i].size(); ++c) s[i][j] += q[i][c] * k[j][c];
      s[i][j] *= scale;
    }
  return s;
}

/// log of the sum of exp(logit) over the keys that `query` sees; -inf where it sees none.
inline Real log_sum_exp(const Row& logits_of_query, Index query, const Visible& sees) {
  Real most = -std::numeric_limits<Real>::infinity();
  for (Index key = 0; key < static_cast<Index>(logits_of_query.size()); ++key)
    if (sees(query, key)) most = std::max(most, logits_of_query[at(key)]);
  if (std::isinf(most)) return most;
  Real sum = 0;
  for (Index key = 0; key < static_cast<Index>(logits_of_query.size()); ++key)
    if (sees(query, key)) sum += std::exp(logits_of_query[at(key)] - most);
  return most + std::log(sum);
}

/// One head; a row that sees no key is zero.
inline Table softmax_mean(const Table& s, const Table& v, const Visible& sees) {
  Table out = zeros(rows(s), cols(v));
  for (Index i = 0; i < rows(s); ++i) {
    const Real weight = log_sum_exp(s[at(i)], i, sees);
    for (Index j = 0; j < rows(v); ++j) {
      if (!sees(i, j)) continue;
      const Real share = std::exp(s[at(i)][at(j)] - weight);
      for (std::size_t c = 0; c < v[at(j)].size(); ++c) out[at(i)][c] += share * v[at(j)][c];
    }
  }
  return out;
}

/// All heads: query head h reads key/value head h / (heads / kv_heads).
inline Table attention(const twoheads::AttentionSpec& spec, const Table& q, const Table& k, const Table& v,
                       const Visible& sees, Scores* scores = nullptr) {
  const Index m = spec.head_dim;
  const Index group = spec.heads / spec.kv_heads;
  Table out(q.size());
  for (Index head = 0; head < spec.heads; ++head) {
    const Index from = head / group;
    const Table own_q = columns(q, head * m, m);
    const Table own_k = columns(k, from * m, m);
    const Table s = logits(own_q, own_k, spec.score_scale);
    const Table part = softmax_mean(s, columns(v, from * spec.value_dim, spec.value_dim), sees);
    for (std::size_t i = 0; i < part.size(); ++i) out[i].insert(out[i].end(), part[i].begin(), part[i].end());
    for (std::size_t i = 0; scores != nullptr && i < own_q.size(); ++i)
      for (std::size_t j = 0; j < own_k.size(); ++j) {
        if (!sees(static_cast<Index>(i), static_cast<Index>(j))) continue;
        Real sum = 0;
        for (std::size_t c = 0; c < at(m); ++c) sum += std::abs(own_q[i][c] * own_k[j][c]);
        scores->absolute = std::max(scores->absolute, sum * std::abs(static_cast<Real>(spec.score_scale)));
        scores->largest = std::max(scores->largest, std::abs(s[i][j]));
      }
  }
  return out;
}

/// Rotary positions: pairs are complex numbers, and a position turns them.
inline void rotate(Table& table, Index head_dim, const twoheads::RopeSpec& rope, Index first_position = 0) {
  const Index half = head_dim / 2;
  for (Index i = 0; i < rows(table); ++i)
    for (Index head = 0; head < cols(table) / head_dim; ++head)
      for (Index pair = 0; pair < half; ++pair) {
        Index a = 2 * pair, b = 2 * pair + 1;
        if (rope.pairing == twoheads::RopePairing::halves) a = pair, b = pair + half;
        Real& x = table[at(i)][at(head * head_dim + a)];
        Real& y = table[at(i)][at(head * head_dim + b)];
        const Real angle = static_cast<Real>(first_position + i) /
                           std::pow(Real(rope.theta), 2 * static_cast<Real>(pair) / static_cast<Real>(head_dim));
        const std::complex<Real> turned = std::complex<Real>(x, y) * std::polar(Real(1), angle);
        x = turned.real();
        y = turned.imag();
      }
}

// --- norms and MLPs --------------------------------------------------------------------------------------------------

struct Norm {
  Row gain, shift;
};

inline Table normed(const Table& table, const Norm& weights, twoheads::NormKind kind, Real epsilon) {
  Table result = table;
  if (kind == twoheads::NormKind::none) return result;
  for (Row& row : result) {
    const Real width = static_cast<Real>(row.size());
    Real mean = 0, square = 0;
    if (kind == twoheads::NormKind::layer)
      for (const Real x : row) mean += x / width;
    for (const Real x : row) square += (x - mean) * (x - mean) / width;
    const Real root = std::sqrt(square + epsilon);
    for (std::size_t c = 0; c < row.size(); ++c) {
      row[c] = root > 0 ? (row[c] - mean) / root * weights.gain[c] : 0;
      if (!weights.shift.empty()) row[c] += weights.shift[c];
    }
  }
  return result;
}

struct Mlp {
  Table w_in, w_gate, w_out;
  Row b_in, b_out;
  RowRule custom;
};

inline Real activation(twoheads::MlpKind kind, Real t) {
  constexpr Real pi = std::numbers::pi_v<Real>;
  switch (kind) {
    case twoheads::MlpKind::relu:
      return t > 0 ? t : 0;
    case twoheads::MlpKind::gelu:
      return t * std::erfc(-t / std::sqrt(Real(2))) / 2;
    case twoheads::MlpKind::gelu_tanh:
      return t / (1 + std::exp(-2 * std::sqrt(2 / pi) * (t + 0.044715L * t * t * t)));
    default:
      return t;
  }
}

inline Table mlp(const Table& table, const Mlp& weights, twoheads::MlpKind kind, const Stage& stage = {}) {
  Table result = table;
  if (kind == twoheads::MlpKind::none) return result;
  if (kind == twoheads::MlpKind::custom) {
    for (Index i = 0; i < rows(result); ++i) weights.custom(i, result[at(i)]);
    return result;
  }
  Table hidden = product(table, weights.w_in);
  Table gate = kind == twoheads::MlpKind::swiglu ? product(table, weights.w_gate) : Table{};
  if (stage) stage(hidden), stage(gate);
  for (std::size_t i = 0; i < hidden.size(); ++i)
    for (std::size_t c = 0; c < hidden[i].size(); ++c) {
      if (!weights.b_in.empty()) hidden[i][c] += weights.b_in[c];
      hidden[i][c] = activation(kind, hidden[i][c]);
      if (!gate.empty()) hidden[i][c] *= gate[i][c] / (1 + std::exp(-gate[i][c]));
    }
  if (stage) stage(hidden);
  result = product(hidden, weights.w_out);
  for (Row& row : result)
    for (std::size_t c = 0; c < weights.b_out.size(); ++c) row[c] += weights.b_out[c];
  return result;
}

// --- the large transformer -------------------------------------------------------------------------------------------

struct Layer {
  Norm attention_norm, mlp_norm;
  Table wq, wk, wv, wo;
  Mlp mlp;
};

struct Model {
  twoheads::ModelSpec spec;
  RowRule input_mlp;
  std::vector<Layer> layers;
  Norm final_norm;
};

/// The weights of a model. Row functions do not come along: a test says them a second time.
template <class Scalar>
Model plain(const twoheads::Model<Scalar>& model) {
  const auto norm = [](const twoheads::NormWeights<Scalar>& n) { return Norm{plain_row(n.gain), plain_row(n.shift)}; };
  Model result{model.spec, {}, {}, norm(model.final_norm)};
  for (const twoheads::LayerWeights<Scalar>& layer : model.layers) {
    const auto& a = layer.attention;
    const auto& m = layer.mlp;
    result.layers.push_back(
        {norm(layer.attention_norm),
         norm(layer.mlp_norm),
         plain(a.wq),
         plain(a.wk),
         plain(a.wv),
         plain(a.wo),
         {plain(m.w_in), plain(m.w_gate), plain(m.w_out), plain_row(m.b_in), plain_row(m.b_out), {}}});
  }
  return result;
}

/// x times the weights of all heads; in the paper head h sees the columns h s .. (h + 1) s alone, s = width / heads.
inline Table project(const Table& x, const Table& weights, const twoheads::AttentionSpec& spec) {
  if (spec.head_input == twoheads::HeadInput::whole) return product(x, weights);
  const Index slice = rows(weights), each = cols(weights) / spec.heads;
  Table result = zeros(rows(x), cols(weights));
  for (std::size_t i = 0; i < x.size(); ++i)
    for (Index head = 0; head < spec.heads; ++head)
      for (Index c = 0; c < each; ++c)
        for (Index j = 0; j < slice; ++j)
          result[i][at(head * each + c)] += x[i][at(head * slice + j)] * weights[at(j)][at(head * each + c)];
  return result;
}

inline Table transformer(const Model& model, Table x, const Table* memory = nullptr, const Stage& stage = {}) {
  const twoheads::ModelSpec& spec = model.spec;
  const auto staged = [&](Table table) {
    if (stage) stage(table);
    return table;
  };
  const auto update = [&](const Table& by) {
    for (std::size_t i = 0; i < x.size(); ++i)
      for (std::size_t c = 0; c < x[i].size(); ++c) x[i][c] = (spec.residual ? x[i][c] : 0) + by[i][c];
    x = staged(std::move(x));
  };
  for (Index i = 0; model.input_mlp && i < rows(x); ++i) model.input_mlp(i, x[at(i)]);
  x = staged(std::move(x));
  for (const Layer& layer : model.layers) {
    const Table tokens = staged(normed(x, layer.attention_norm, spec.norm, spec.norm_epsilon));
    const Table& sources = memory != nullptr ? *memory : tokens;
    Table q = project(tokens, layer.wq, spec.attention);
    Table k = project(sources, layer.wk, spec.attention);
    if (spec.attention.rope) {
      rotate(q, spec.attention.head_dim, *spec.attention.rope);
      rotate(k, spec.attention.head_dim, *spec.attention.rope);
    }
    const Table v = staged(project(sources, layer.wv, spec.attention));
    const Table mixed =
        staged(attention(spec.attention, staged(std::move(q)), staged(std::move(k)), v, visible(spec.attention.mask)));
    update(spec.attention.output_projection ? staged(product(mixed, layer.wo)) : mixed);
    if (spec.mlp != twoheads::MlpKind::none)
      update(staged(mlp(staged(normed(x, layer.mlp_norm, spec.norm, spec.norm_epsilon)), layer.mlp, spec.mlp, stage)));
  }
  return spec.final_norm ? staged(normed(x, model.final_norm, spec.norm, spec.norm_epsilon)) : x;
}

}  // namespace naive
