// Cases of others: the ONNX operator Attention (opsets 23 to 25), as its own project publishes them. What the operator
// says is put in the library's own terms here, and evaluated by each engine.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <twoheads/exec/key_cache.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <type_traits>
#include <vector>

#include "support/contains.hpp"
#include "support/every_engine.hpp"
#include "support/fixture.hpp"
#include "support/message_of.hpp"
#include "support/onnx_attention_table.hpp"
#include "support/shared_data.hpp"

namespace {

using namespace twoheads;
using namespace onnx_attention;

/// One batch entry of a case in the library's terms.
template <class S>
struct Entry {
  AttentionSpec spec;
  Matrix<S> q;
  KeyCache<S> cache;    ///< past keys and values, and those that follow
  Index keys = 0;       ///< of the cache, that are seen at all
  Index past = 0;       ///< position of the first query
  Matrix<S> bias = {};  ///< empty: none
  bool by_head = false;
  bool by_query = true;
  Matrix<S> expected = {};
  std::string means = {};  ///< of the library, by which the entry is expressed

  [[nodiscard]] AttentionInput<S> input() const {
    static const AttentionWeights<S> none;
    const Rows seen{0, keys};
    return {spec,
            0,
            view(q),
            block_view(cache.keys(), seen, 0, cache.keys().cols()),
            block_view(cache.values(), seen, 0, cache.values().cols()),
            no_rows<S>(),
            no_rows<S>(),
            none,
            HeldRows{past, 0, 0},
            false,
            no_rows<S>(),
            {view(bias), by_head, by_query}};
  }

  template <class A>
  [[nodiscard]] Matrix<S> run(A&& attend) const {
    Matrix<S> out = Matrix<S>::Constant(q.rows(), spec.heads * spec.value_dim, S(7));
    attend(input(), span(out));
    return out;
  }
};

/// Tokens of one batch entry, one a row with its heads side by side, of a tensor (B, n, heads * d) or (B, heads, n, d).
template <class S>
Matrix<S> tokens_of(const Fixture& file, const std::string& tensor, Index entry) {
  const Matrix<S> part = file.part<S>(tensor, entry, file.dim(tensor, 0));
  if (file.shape(tensor).size() == 3) return part;
  const Index heads = file.dim(tensor, 1);
  const Index count = file.dim(tensor, 2);
  Matrix<S> rows(count, heads * part.cols());
  for (Index head = 0; head < heads; ++head)
    rows.middleCols(head * part.cols(), part.cols()) = part.middleRows(head * count, count);
  return rows;
}

AttentionSpec spec_of(const Fixture& file) {
  AttentionSpec spec;
  const bool flat = file.shape("Q").size() == 3;
  const auto heads = [&](const char* attribute, const char* tensor) {
    return flat ? file.whole(attribute, 0) : file.dim(tensor, 1);
  };
  spec.heads = heads("q_num_heads", "Q");
  spec.kv_heads = heads("kv_num_heads", "K");
  spec.head_dim = file.dim("Q", -1) / (flat ? spec.heads : 1);
  spec.value_dim = file.dim("V", -1) / (flat ? spec.kv_heads : 1);
  spec.score_scale = file.number("scale", 1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
  spec.soft_cap = file.number("softcap", 0.0);
  return spec;
}

/// A mask of a case, broadcast to (B, heads, queries, its own keys).
template <class S>
struct GivenMask {
  GivenMask(const Fixture& file, Index entry) : rows(file.rows<S>("attn_mask")) {
    std::vector<Index> shape = file.shape("attn_mask");
    while (shape.size() < 4) shape.insert(shape.begin(), 1);
    heads = shape[1];
    queries = shape[2];
    first = shape[0] > 1 ? entry * heads * queries : 0;
  }
  /// What the mask says of a query of a head: nothing is hidden where it has no more columns, all is.
  [[nodiscard]] S at(Index head, Index query, Index key, S beyond) const {
    if (key >= rows.cols()) return beyond;
    return rows(first + (heads > 1 ? head : 0) * queries + (queries > 1 ? query : 0), key);
  }

  Matrix<S> rows;
  Index heads = 1, queries = 1, first = 0;
};

/// Puts a batch entry in the library's terms.
///
///   Math   query i of the entry stands at offset + i: after the past, or with nonpad_kv_seqlen such that the last
///          query stands at the last key. is_causal: key j <= offset + i; left_window_size w: offset + i - j <= w.
template <class S>
Entry<S> entry_of(const Fixture& file, Index entry) {
  const bool causal = file.whole("is_causal", 0) != 0;
  const Index left = file.whole("left_window_size", -1);
  AttentionSpec spec = spec_of(file);
  AttentionSpec cached = spec;
  cached.mask = Mask::causal();
  Entry<S> e{spec, tokens_of<S>(file, "Q", entry), KeyCache<S>(cached, 1)};
  e.expected = tokens_of<S>(file, "Y", entry);
  if (file.has("past_key"))
    e.cache.append(tokens_of<S>(file, "past_key", entry), tokens_of<S>(file, "past_value", entry));
  Index offset = e.cache.tokens();
  e.cache.append(tokens_of<S>(file, "K", entry), tokens_of<S>(file, "V", entry));
  e.keys = e.cache.tokens();
  const Index queries = e.q.rows();
  const auto add = [&](const std::string& means) { e.means += (e.means.empty() ? "" : ", ") + means; };
  if (file.has("nonpad_kv_seqlen")) {
    e.keys = file.integers("nonpad_kv_seqlen")[static_cast<std::size_t>(entry)];
    offset = e.keys - queries;
    add("fewer keys");
  }
  // Keys that no query reaches are left out.
  if (causal && offset + queries < e.keys) {
    e.keys = offset + queries;
    add("fewer keys");
  }
  const auto in_place = [&](Index i, Index j) {
    const Index at = offset + i;
    return (!causal || j <= at) && (left < 0 || at - j <= left);
  };
  std::optional<GivenMask<S>> given;
  if (file.has("attn_mask")) given.emplace(file, entry);
  const bool boolean = given && file.is("attn_mask", Dtype::boolean);

  if (boolean && given->heads == 1) {
    e.spec.mask = Mask::pairs(queries, e.keys,
                              [&](Index i, Index j) { return in_place(i, j) && given->at(0, i, j, S(0)) != S(0); });
    add("Mask::pairs");
    return e;
  }
  if (causal && offset >= 0 && offset + queries == e.keys) {
    e.spec.mask = left < 0 ? Mask::causal() : Mask::sliding_window(left + 1);
    e.past = offset;
    add(left < 0 ? "Mask::causal" : "Mask::sliding_window");
    if (offset > 0) add("first_query");
  } else if (causal || left >= 0) {
    e.spec.mask = Mask::pairs(queries, e.keys, in_place);
    add("Mask::pairs");
  }
  if (!given) return e;
  e.by_head = given->heads > 1;
  e.by_query = given->queries > 1;
  const Index of_a_head = e.by_query ? queries : 1;
  const S hidden = -std::numeric_limits<S>::infinity();
  e.bias.resize((e.by_head ? spec.heads : 1) * of_a_head, e.keys);
  for (Index row = 0; row < e.bias.rows(); ++row)
    for (Index key = 0; key < e.keys; ++key) {
      const S value = given->at(row / of_a_head, row % of_a_head, key, boolean ? S(0) : hidden);
      e.bias(row, key) = !boolean ? value : value != S(0) ? S(0) : hidden;
    }
  add(boolean ? "ScoreBias of -infinity" : "ScoreBias");
  return e;
}

/// Calls use(file, row of the table) for each case; false where there are none here.
template <class Use>
bool for_each_case(const Use& use) {
  const auto folder = shared_data("onnx_attention");
  if (!folder) return false;
  for (const auto& path : fixtures_in(*folder)) {
    const Fixture file(path);
    SCOPED_TRACE(file.name());
    const auto listed =
        std::find_if(std::begin(table), std::end(table), [&](const Listed& row) { return row.name == file.name(); });
    if (listed == std::end(table))
      ADD_FAILURE() << file.name() << " is in no row of the table: no case is left out silently";
    else
      use(file, *listed);
  }
  return true;
}

template <class S>
double largest_difference(const Matrix<S>& a, const Matrix<S>& b) {
  double most = a.rows() == b.rows() && a.cols() == b.cols() ? 0 : std::numeric_limits<double>::infinity();
  if (most == 0)
    for (Index i = 0; i < a.size(); ++i)
      most = larger_error(most, std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i])));
  return most;
}

/// Under which heading a case's error is printed.
std::string group_of(const Fixture& file) {
  if (file.is("Q", Dtype::f16)) return "half inputs";
  if (file.number("softcap", 0) != 0) return "soft cap";
  if (file.whole("left_window_size", -1) >= 0) return "window";
  if (file.has("nonpad_kv_seqlen")) return "external cache";
  if (file.has("past_key")) return "past";
  if (file.has("attn_mask")) return file.is("attn_mask", Dtype::boolean) ? "boolean mask" : "additive mask";
  return file.whole("is_causal", 0) != 0 ? "causal" : "plain, scaled, grouped heads";
}

/// The row of a case in docs/conformance.md.
std::string row_of(const Listed& listed, const Fixture& file) {
  std::string others;
  const auto add = [&](const char* text) { others += (others.empty() ? "" : "; ") + std::string(text); };
  if (file.has("present_key")) add("present_key, present_value: KeyCache");
  if (file.has("qk_matmul_output")) add("qk_matmul_output: not an output of ours");
  const std::string means = entry_of<float>(file, 0).means;
  return detail::text("| ", listed.name, " | yes | yes | ",
                      listed.not_on_oracle == nullptr ? "yes" : listed.not_on_oracle, " | ",
                      means.empty() ? "Mask::full" : means, " | ", others, " |");
}

constexpr const char* absent = "../shared/data/onnx_attention is not here: no conformance cases of ONNX Attention";

TEST(OnnxAttention, HasNoCaseThatTheTableDoesNotList) {
  std::set<std::string> listed;
  for (const Listed& row : table) listed.emplace(row.name);
  EXPECT_EQ(listed.size(), 58U);
  EXPECT_EQ(listed.size(), std::size(table));
  std::set<std::string> found;
  if (!for_each_case([&](const Fixture& file, const Listed&) { found.insert(file.name()); })) GTEST_SKIP() << absent;
  EXPECT_EQ(found, listed);
}

TEST(OnnxAttention, HasTheTableThatIsInTheDocumentation) {
  const std::string docs = read_bytes(std::string(TWOHEADS_SOURCE_DIR) + "/docs/conformance.md");
  std::string printed;
  if (!for_each_case([&](const Fixture& file, const Listed& listed) {
        const std::string row = row_of(listed, file);
        EXPECT_TRUE(contains(docs, row + "\n")) << row;
        printed += row + "\n";
      }))
    GTEST_SKIP() << absent;
  std::cout << "| case | direct | kernel | grid of calls | in terms of | other outputs |\n"
            << "| --- | --- | --- | --- | --- | --- |\n"
            << printed;
}

template <class S>
class OnnxAttentionIn : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(OnnxAttentionIn, Scalars);

TYPED_TEST(OnnxAttentionIn, ComesOutOfEachEngine) {
  using S = TypeParam;
  LargestErrors errors;
  const bool here = for_each_case([&](const Fixture& file, const Listed& listed) {
    const double most = file.is("Q", Dtype::f16) ? 2e-3 : 1e-5;
    Index calls = 0;
    for (Index index = 0; index < file.dim("Q", 0); ++index) {
      const Entry<S> entry = entry_of<S>(file, index);
      const auto run = [&](const char* engine, auto& attend) {
        const double error = largest_difference(entry.run(attend), entry.expected);
        errors.note(group_of(file), engine, error);
        EXPECT_LE(error, most) << "entry " << index;
        if constexpr (requires { attend.counts(); }) calls += attend.counts().calls;
      };
      on_every_engine<S>(run, listed.not_on_oracle == nullptr);
      if (listed.not_on_oracle == nullptr) continue;
      OracleLimits limits;
      limits.rows = small_rows;
      SmallTransformer<S> oracle(limits);
      GridAttention<SmallTransformer<S>> grid(oracle);
      EXPECT_TRUE(contains(message_of<SpecError>([&] { (void)entry.run(grid); }), "takes scores as they are"));
    }
    // Two kinds of oracles, a call for each of two heads at least.
    EXPECT_GE(calls, listed.not_on_oracle == nullptr ? 4 : 0);
  });
  if (!here) GTEST_SKIP() << absent;
  std::cout << errors.text(std::is_same_v<S, float> ? "ONNX Attention, float" : "ONNX Attention, double");
}

TEST(OnnxAttention, OfHalfInputsComesOutOfAnOracleOfHalfPrecision) {
  OracleLimits limits;
  limits.rows = small_rows;
  limits.precision = mixed_precision(Precision::half);
  int cases = 0;
  int refused = 0;  // entries with a bias, which tokens of half would round
  double most = 0;
  const bool here = for_each_case([&](const Fixture& file, const Listed&) {
    if (!file.is("Q", Dtype::f16)) return;
    ++cases;
    for (Index index = 0; index < file.dim("Q", 0); ++index) {
      const Entry<float> entry = entry_of<float>(file, index);
      limits.score_scale = entry.spec.score_scale;  // or tokens would be rounded a second time
      AnyOracle<float> oracle([&] { return RoundingTransformer<float>(limits); });
      GridAttention<AnyOracle<float>> grid(oracle);
      if (entry.bias.size() > 0) {
        ++refused;
        EXPECT_TRUE(
            contains(message_of<LimitError>([&] { (void)entry.run(grid); }), "would round what ALiBi or a bias"));
        continue;
      }
      const double error = largest_difference(entry.run(grid), entry.expected);
      most = larger_error(most, error);
      EXPECT_LE(error, 2e-3) << "entry " << index;
    }
  });
  if (!here) GTEST_SKIP() << absent;
  EXPECT_EQ(cases, 4);
  EXPECT_EQ(refused, 4);
  std::cout << "an oracle of half precision: " << most << "\n";
}

TEST(OnnxAttention, HasItsPresentKeysAndValuesInACache) {
  int cases = 0;
  const bool here = for_each_case([&](const Fixture& file, const Listed&) {
    if (!file.has("present_key")) return;
    ++cases;
    for (Index index = 0; index < file.dim("Q", 0); ++index) {
      const Entry<float> entry = entry_of<float>(file, index);
      EXPECT_EQ(entry.cache.keys(), tokens_of<float>(file, "present_key", index));
      EXPECT_EQ(entry.cache.values(), tokens_of<float>(file, "present_value", index));
    }
  });
  if (!here) GTEST_SKIP() << absent;
  EXPECT_EQ(cases, 14);
}

}  // namespace
