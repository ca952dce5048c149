// Layers of others: what torch's own MultiheadAttention, encoder and decoder layers give in float64 for the fixtures of
// scripts/make_fixtures.py. They are built of the library's blocks here, and evaluated by each engine.

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/contains.hpp"
#include "support/every_engine.hpp"
#include "support/fixture.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;

template <class S>
constexpr S hidden = -std::numeric_limits<S>::infinity();

/// Weights (out, in) of nn.Linear as the library has them, or none.
template <class S>
Matrix<S> transposed(const Fixture& file, const std::string& tensor) {
  return file.rows<S>(tensor).transpose();
}
template <class S>
RowVector<S> row_or_none(const Fixture& file, const std::string& tensor) {
  return file.has(tensor) ? RowVector<S>(file.rows<S>(tensor).row(0)) : RowVector<S>();
}
template <class S>
NormWeights<S> norm_of(const Fixture& file, const std::string& module) {
  return {row_or_none<S>(file, module + ".weight"), row_or_none<S>(file, module + ".bias")};
}

/// Weights of a MultiheadAttention; `module` ends with a dot or is empty.
template <class S>
AttentionWeights<S> attention_weights(const Fixture& file, const std::string& module) {
  AttentionWeights<S> w;
  w.wo = transposed<S>(file, module + "out_proj.weight");
  w.bo = row_or_none<S>(file, module + "out_proj.bias");
  const Index width = w.wo.cols();
  if (file.has(module + "in_proj_weight")) {
    const Matrix<S> fused = transposed<S>(file, module + "in_proj_weight");
    w.wq = fused.leftCols(width);
    w.wk = fused.middleCols(width, width);
    w.wv = fused.rightCols(width);
  } else {
    w.wq = transposed<S>(file, module + "q_proj_weight");
    w.wk = transposed<S>(file, module + "k_proj_weight");
    w.wv = transposed<S>(file, module + "v_proj_weight");
  }
  const RowVector<S> biases = row_or_none<S>(file, module + "in_proj_bias");
  if (biases.size() > 0) {
    w.bq = biases.head(width);
    w.bk = biases.segment(width, width);
    w.bv = biases.tail(width);
  }
  return w;
}

AttentionSpec attention_spec(Index width, Index heads) {
  AttentionSpec spec;
  spec.heads = spec.kv_heads = heads;
  spec.head_dim = spec.value_dim = width / heads;
  spec.score_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  return spec;
}

/// What torch's two masks are in the library's terms: a boolean one that hides what follows is causal, another one any
/// pairs; one that differs by head, numbers, and a padding of keys are a bias of scores.
template <class S>
struct Hidden {
  Mask mask;
  Matrix<S> rows;
  bool by_head = false;
  bool by_query = true;
  Index kept = 0;  ///< keys before the padding, where it is all that hides and stands at the end; 0: it is in the bias

  [[nodiscard]] ScoreBias<S> bias() const { return {view(rows), by_head, by_query}; }

  [[nodiscard]] std::string means() const {
    std::string text = mask.kind == MaskKind::blocks ? "Mask::pairs" : detail::text("Mask::", name(mask.kind));
    if (kept > 0) text += ", fewer keys";
    if (rows.size() > 0) text += by_head ? ", ScoreBias by head" : by_query ? ", ScoreBias" : ", ScoreBias by key";
    return text;
  }
};

/// What a fixture came to, and what of the library it was put together of.
template <class S>
struct Found {
  Matrix<S> rows;
  std::string means;
};

template <class S>
Hidden<S> hidden_pairs(const Fixture& file, Index entry, Index batch, Index heads, Index queries, Index keys,
                       const std::string& mask, const std::string& padding) {
  Hidden<S> found;
  if (file.has(mask)) {
    const bool boolean = file.is(mask, Dtype::boolean);
    const bool by_head = file.shape(mask).size() == 3;
    const Matrix<S> given = file.part<S>(mask, by_head ? entry : 0, by_head ? batch : 1);
    if (boolean && !by_head) {
      found.mask = Mask::pairs(queries, keys, [&](Index i, Index j) { return given(i, j) == S(0); });
      if (queries == keys && found.mask == Mask::pairs(queries, keys, [](Index i, Index j) { return j <= i; }))
        found.mask = Mask::causal();
    } else {
      found.by_head = by_head;
      found.rows =
          boolean ? Matrix<S>((given.array() != S(0)).select(hidden<S>, Matrix<S>::Zero(given.rows(), keys))) : given;
      EXPECT_EQ(given.rows(), queries * (by_head ? heads : 1));
    }
  }
  if (!file.has(padding)) return found;
  const Matrix<S> padded = file.part<S>(padding, entry, batch);
  Index kept = keys;
  while (kept > 0 && padded(0, kept - 1) != S(0)) --kept;
  if (found.rows.size() == 0 && found.mask.kind == MaskKind::full && padded.leftCols(kept).isZero()) {
    found.kept = kept;
    return found;
  }
  if (found.rows.size() == 0) {
    found.by_query = false;
    found.rows = Matrix<S>::Zero(1, keys);
  }
  for (Index key = 0; key < keys; ++key)
    if (padded(0, key) != S(0)) found.rows.col(key).setConstant(hidden<S>);
  return found;
}

/// The same where no keys can be left out, as in self-attention of a whole model: the padding is a bias.
template <class S>
Hidden<S> with_padding_as_bias(Hidden<S> pairs, Index keys) {
  const Index kept = std::exchange(pairs.kept, 0);
  if (kept == 0 || kept == keys) return pairs;
  pairs.by_query = false;
  pairs.rows = Matrix<S>::Zero(1, keys);
  pairs.rows.rightCols(keys - kept).setConstant(hidden<S>);
  return pairs;
}

/// MultiheadAttention over one batch entry.
///
///   Math   bias_k and bias_v are one more key and value, here before the others, so that causal queries see them as
///          one key of a past; add_zero_attn is a learned sink of logit 0: its key and value are zero.
template <class S, class A>
Found<S> run_mha(const Fixture& file, Index entry, A& attend) {
  const Index batch = file.dim("query", 0);
  AttentionSpec spec = attention_spec(file.whole("embed_dim", 0), file.whole("num_heads", 0));
  AttentionWeights<S> weights = attention_weights<S>(file, "");
  const Matrix<S> query = file.part<S>("query", entry, batch);
  Matrix<S> key = file.has("key") ? file.part<S>("key", entry, batch) : query;
  Matrix<S> value = file.has("value") ? file.part<S>("value", entry, batch) : key;
  Hidden<S> pairs =
      hidden_pairs<S>(file, entry, batch, spec.heads, query.rows(), key.rows(), "attn_mask", "key_padding_mask");
  spec.mask = pairs.mask;
  std::string means = pairs.means();
  if (file.fact("add_zero_attn") == "true") {
    weights.sinks = RowVector<S>::Zero(spec.heads);
    means += ", learned sinks of logit 0";
  }
  const bool extra = file.fact("add_bias_kv") == "true";
  if (pairs.kept > 0) {
    key = key.topRows(pairs.kept).eval();
    value = value.topRows(pairs.kept).eval();
  }
  if (!extra && !file.has("value"))
    return {attention<S>(spec, weights, view(query), attend, 0, &key, pairs.bias()), "attention(): " + means};

  const Matrix<S> q = queries_of(spec, weights, view(query));
  Matrix<S> k = keys_of(spec, weights, view(key));
  Matrix<S> v = values_of(spec, weights, view(value));
  HeldRows held;
  if (extra) {
    means += ", one more key";
    const auto before = [](const Matrix<S>& first, const Matrix<S>& rest) {
      Matrix<S> all(rest.rows() + 1, rest.cols());
      all << first, rest;
      return all;
    };
    k = before(file.rows<S>("bias_k"), k);
    v = before(file.rows<S>("bias_v"), v);
    if (pairs.rows.size() > 0) {
      Matrix<S> wider = Matrix<S>::Zero(pairs.rows.rows(), pairs.rows.cols() + 1);
      wider.rightCols(pairs.rows.cols()) = pairs.rows;
      pairs.rows = wider;
    }
    EXPECT_NE(spec.mask.kind, MaskKind::blocks) << "its keys would have to move by one";
    if (spec.mask.kind == MaskKind::causal) held.first_query = 1;
  }
  Matrix<S> mixed(q.rows(), spec.heads * spec.value_dim);
  attend(AttentionInput<S>{spec, 0, view(q), view(k), view(v), no_rows<S>(), no_rows<S>(), weights, held, false,
                           view(weights.sinks), pairs.bias()},
         span(mixed));
  Matrix<S> out = mixed * weights.wo;
  if (weights.bo.size() > 0) out.rowwise() += weights.bo;
  return {out, "queries_of(), keys_of(), values_of(): " + means};
}

template <class S>
MlpWeights<S> mlp_weights(const Fixture& file, const std::string& module) {
  MlpWeights<S> w;
  w.w_in = transposed<S>(file, module + "linear1.weight");
  w.b_in = row_or_none<S>(file, module + "linear1.bias");
  w.w_out = transposed<S>(file, module + "linear2.weight");
  w.b_out = row_or_none<S>(file, module + "linear2.bias");
  return w;
}

MlpKind mlp_kind(const Fixture& file) { return file.fact("activation") == "gelu" ? MlpKind::gelu : MlpKind::relu; }

/// TransformerEncoderLayer and TransformerEncoder are a Model for forward().
template <class S, class A>
Found<S> run_encoder(const Fixture& file, Index entry, A& attend) {
  const Index batch = file.dim("src", 0);
  const Matrix<S> src = file.part<S>("src", entry, batch);
  const bool stack = file.fact("module") == "torch.nn.TransformerEncoder";
  Model<S> model;
  ModelSpec& spec = model.spec;
  spec.layers = file.whole("num_layers", 0);
  spec.width = src.cols();
  spec.attention = attention_spec(spec.width, file.whole("nhead", 0));
  spec.norm = NormKind::layer;
  spec.norm_place = file.fact("norm_first") == "true" ? NormPlace::before : NormPlace::after;
  spec.norm_epsilon = file.number("layer_norm_eps", 0);
  spec.mlp = mlp_kind(file);
  spec.hidden = file.whole("dim_feedforward", 0);
  spec.final_norm = file.fact("final_norm") == "true";
  for (Index layer = 0; layer < spec.layers; ++layer) {
    const std::string module = stack ? detail::text("layers.", layer, ".") : "";
    LayerWeights<S> w;
    w.attention_norm = norm_of<S>(file, module + "norm1");
    w.attention = attention_weights<S>(file, module + "self_attn.");
    w.mlp_norm = norm_of<S>(file, module + "norm2");
    w.mlp = mlp_weights<S>(file, module);
    model.layers.push_back(w);
  }
  if (spec.final_norm) model.final_norm = norm_of<S>(file, "norm");
  const Hidden<S> pairs = with_padding_as_bias(hidden_pairs<S>(file, entry, batch, spec.attention.heads, src.rows(),
                                                               src.rows(), "src_mask", "src_key_padding_mask"),
                                               src.rows());
  spec.attention.mask = pairs.mask;
  require_valid(model);
  return {forward(model, src, attend, nullptr, pairs.bias()),
          detail::text("forward(): NormPlace::", spec.norm_place == NormPlace::after ? "after" : "before", ", ",
                       pairs.means())};
}

/// TransformerDecoderLayer, put together of blocks: two attentions and an MLP, each with its norm and residual sum.
template <class S, class A>
Found<S> run_decoder(const Fixture& file, Index entry, A& attend) {
  const Index batch = file.dim("tgt", 0);
  Matrix<S> x = file.part<S>("tgt", entry, batch);
  Matrix<S> memory = file.part<S>("memory", entry, batch);
  const double epsilon = file.number("layer_norm_eps", 0);
  const bool first = file.fact("norm_first") == "true";
  const auto add = [&](const std::string& name, const auto& part) {
    const NormWeights<S> norm = norm_of<S>(file, name);
    if (first)
      x += part(normed(view(x), norm, NormKind::layer, epsilon));
    else
      x = normed(view(Matrix<S>(x + part(x))), norm, NormKind::layer, epsilon);
  };
  AttentionSpec spec = attention_spec(x.cols(), file.whole("nhead", 0));
  const Hidden<S> own = with_padding_as_bias(
      hidden_pairs<S>(file, entry, batch, spec.heads, x.rows(), x.rows(), "tgt_mask", "tgt_key_padding_mask"),
      x.rows());
  const Hidden<S> other = hidden_pairs<S>(file, entry, batch, spec.heads, x.rows(), memory.rows(), "memory_mask",
                                          "memory_key_padding_mask");
  if (other.kept > 0) memory = memory.topRows(other.kept).eval();
  const AttentionWeights<S> self = attention_weights<S>(file, "self_attn.");
  const AttentionWeights<S> cross = attention_weights<S>(file, "multihead_attn.");
  const MlpWeights<S> feed_forward = mlp_weights<S>(file, "");
  add("norm1", [&](const Matrix<S>& rows) {
    spec.mask = own.mask;
    return attention<S>(spec, self, view(rows), attend, 0, nullptr, own.bias());
  });
  add("norm2", [&](const Matrix<S>& rows) {
    spec.mask = other.mask;
    return attention<S>(spec, cross, view(rows), attend, 0, &memory, other.bias());
  });
  add("norm3", [&](const Matrix<S>& rows) { return mlp(view(rows), feed_forward, mlp_kind(file), 0); });
  return {x, "attention(), normed(), mlp(): " + own.means() + "; memory: " + other.means()};
}

template <class S, class A>
Found<S> run_layer(const Fixture& file, Index entry, A& attend) {
  const std::string module = file.fact("module");
  if (module == "torch.nn.MultiheadAttention") return run_mha<S>(file, entry, attend);
  if (module == "torch.nn.TransformerDecoderLayer") return run_decoder<S>(file, entry, attend);
  if (module == "torch.nn.TransformerEncoderLayer" || module == "torch.nn.TransformerEncoder")
    return run_encoder<S>(file, entry, attend);
  ADD_FAILURE() << "a module that this test does not know: " << module;
  return {};
}

/// Largest ||found - truth|| / ||truth|| over rows: a row is what a token gets, and its entries are sums of terms of
/// the row's size, however small they come out themselves.
template <class S>
double row_error(const Matrix<S>& found, const Matrix<double>& truth) {
  if (found.rows() != truth.rows() || found.cols() != truth.cols()) return std::numeric_limits<double>::infinity();
  double most = 0;
  for (Index row = 0; row < truth.rows(); ++row)
    most = larger_error(most, (found.row(row).template cast<double>() - truth.row(row)).norm() / truth.row(row).norm());
  return most;
}

std::vector<std::filesystem::path> torch_fixtures() {
  return fixtures_in(std::filesystem::path(TWOHEADS_SOURCE_DIR) / "tests/data/torch");
}

bool has_large_scores(const Fixture& file) { return file.number("largest_score", 0) > 50; }

TEST(TorchLayers, AreTheTableThatIsInTheDocumentation) {
  const std::string docs = read_bytes(std::string(TWOHEADS_SOURCE_DIR) + "/docs/conformance.md");
  std::string printed;
  for (const auto& path : torch_fixtures()) {
    const Fixture file(path);
    DirectAttention<double> direct;
    const std::string row = detail::text("| ", file.name(), " | yes | yes | yes | ",
                                         run_layer<double>(file, file.dim("output", 0) - 1, direct).means, " |");
    EXPECT_TRUE(contains(docs, row + "\n")) << row;
    printed += row + "\n";
  }
  std::cout << "| fixture | direct | kernel | grid of calls | in terms of |\n| --- | --- | --- | --- | --- |\n"
            << printed;
}

template <class S>
class TorchLayersIn : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(TorchLayersIn, Scalars);

TYPED_TEST(TorchLayersIn, ComeOutOfEachEngine) {
  using S = TypeParam;
  constexpr double most = std::is_same_v<S, double> ? 1e-12 : 2e-6;
  LargestErrors errors;
  int files = 0;
  for (const auto& path : torch_fixtures()) {
    const Fixture file(path);
    SCOPED_TRACE(file.name());
    if (has_large_scores(file)) continue;
    ++files;
    const Index batch = file.dim("output", 0);
    for (Index entry = 0; entry < batch; ++entry) {
      const Matrix<double> truth = file.part<double>("output", entry, batch);
      on_every_engine<S>([&](const char* engine, auto& attend) {
        const double error = row_error(run_layer<S>(file, entry, attend).rows, truth);
        errors.note(file.name(), engine, error);
        EXPECT_LE(error, most) << "entry " << entry;
      });
    }
  }
  EXPECT_EQ(files, 30);
  std::cout << errors.text(std::is_same_v<S, double> ? "torch, double" : "torch, float");
}

// A logit of 250 is off by 250 roundings, so that weights are: each engine is held against direct evaluation.
TYPED_TEST(TorchLayersIn, OfLargeScoresComeOutAsDirectEvaluationHasThem) {
  using S = TypeParam;
  const double unit = static_cast<double>(std::numeric_limits<S>::epsilon()) / 2;
  LargestErrors errors;
  int files = 0;
  for (const auto& path : torch_fixtures()) {
    const Fixture file(path);
    SCOPED_TRACE(file.name());
    if (!has_large_scores(file)) continue;
    ++files;
    const Matrix<double> truth = file.part<double>("output", 0, 1);
    DirectAttention<S> direct;
    const double of_direct = row_error(run_layer<S>(file, 0, direct).rows, truth);
    EXPECT_GT(direct.max_logit(), 100);
    EXPECT_LE(of_direct, 16 * unit * direct.max_logit());
    on_every_engine<S>([&](const char* engine, auto& attend) {
      const double error = row_error(run_layer<S>(file, 0, attend).rows, truth);
      errors.note(file.name(), engine, error);
      EXPECT_LE(error, 4 * of_direct + unit * direct.max_logit() + (std::is_same_v<S, double> ? 1e-15 : 1e-6));
    });
  }
  EXPECT_EQ(files, 2);
  std::cout << errors.text(std::is_same_v<S, double> ? "large scores, double" : "large scores, float");
}

}  // namespace
