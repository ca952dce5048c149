// Oracles as ONNX graphs. Where Node and onnxruntime-node are there, examples/onnxruntime/runner.js answers calls by
// them, in frames that this file writes and reads by itself.

#include <gtest/gtest.h>
#include <onnx/checker.h>

#include <cstdint>
#include <map>
#include <set>
#include <twoheads/onnx/export.hpp>
#include <twoheads/onnx/write.hpp>

#ifdef TWOHEADS_WITH_REMOTE
#include <twoheads/attention/input.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/remote/remote_core.hpp>
#include <twoheads/remote/remote_transformer.hpp>

#include "support/instances.hpp"
#endif
#include "support/contains.hpp"
#include "support/frames.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/onnx_graphs.hpp"
#include "support/onnx_runner.hpp"
#include "support/seed.hpp"
#include "support/shared_data.hpp"
#include "support/temp_folder.hpp"

namespace {

using twoheads::Index;
using twoheads::OnnxNumber;
using twoheads::OnnxSpec;
using twoheads::OracleKind;

using frames::bytes_of;
using frames::Frame;
using frames::Tensor;

using namespace onnx_graphs;
using namespace onnx_runner;

// --- what is exported ------------------------------------------------------------------------------------------------

class Exported : public testing::TestWithParam<Case> {
 protected:
  OnnxSpec spec_ = some_spec(GetParam().kind, GetParam().number);
  onnx::ModelProto model_ = export_graph(GetParam().graph, spec_);
};
INSTANTIATE_TEST_SUITE_P(All, Exported, testing::ValuesIn(all_cases()), name_of);

TEST_P(Exported, PassesTheChecker) { EXPECT_NO_THROW(onnx::checker::check_model(model_)); }

TEST_P(Exported, TakesAndGivesTheDeclaredShapesAndNoMask) {
  std::map<std::string, Shape> inputs{{"q", {2, 3, 8, 5}}, {"k", {2, 3, 8, 5}}, {"v", {2, 3, 8, 4}}};
  std::map<std::string, Shape> outputs{{"o", {2, 3, 8, 4}}};
  if (GetParam().graph == Graph::transformer) {
    inputs = {{"rows", {2, 8, 6}}, {"wq", {3, 6, 5}}, {"wk", {3, 6, 5}}, {"wv", {3, 6, 4}}};
    outputs = {{"output", {2, 8, 12}}};
  }
  EXPECT_EQ(shapes_of(model_.graph().input(), spec_.number), inputs);
  EXPECT_EQ(shapes_of(model_.graph().output(), spec_.number), outputs);
}

TEST_P(Exported, HasStandardOperatorsAndNoneToSpare) {
  const std::set<std::string> standard{"MatMul", "Transpose", "Mul", "Add", "Softmax", "Reshape"};
  for (const onnx::NodeProto& node : model_.graph().node()) {
    EXPECT_EQ(node.domain(), "");
    EXPECT_EQ(standard.count(node.op_type()), 1u) << node.op_type();
  }
  // k transposed, scores, scale, weights, answers, and the mask; three projections and three other shapes.
  const int nodes = 5 + (spec_.kind == OracleKind::causal ? 1 : 0) + (GetParam().graph == Graph::core ? 0 : 6);
  EXPECT_EQ(model_.graph().node_size(), nodes);
  spec_.rounding = twoheads::Precision::half;
  // There and back: q, k, v, weights and answers; token rows.
  const onnx::ModelProto rounding = export_graph(GetParam().graph, spec_);
  EXPECT_EQ(rounding.graph().node_size(), nodes + (GetParam().graph == Graph::core ? 10 : 12));
  EXPECT_NO_THROW(onnx::checker::check_model(rounding));
  spec_.rounding = twoheads::Precision::own;
  spec_.score_scale = 1;
  EXPECT_EQ(export_graph(GetParam().graph, spec_).graph().node_size(), nodes - 1) << "a scale of 1 needs no node";
}

TEST_P(Exported, IsTheSameInItsFile) {
  const TempFolder folder;
  const std::string path = folder / "graph.onnx";
  twoheads::write_onnx(path, model_);
  onnx::ModelProto read;
  ASSERT_TRUE(read.ParseFromString(read_bytes(path)));
  EXPECT_EQ(read.SerializeAsString(), model_.SerializeAsString());
}

TEST(Export, RefusesWhatIsNoGraph) {
  const auto message = [](const auto& change) {
    OnnxSpec spec = some_spec();
    change(spec);
    return message_of<twoheads::SpecError>([&] { static_cast<void>(twoheads::export_transformer(spec)); });
  };
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.rows = 0; }), "number of rows is 0"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.batch = -1; }), "batch is -1"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.width = 0; }), "width is 0"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.kind = OracleKind::kernel; }), "kind kernel"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.score_scale = std::nan(""); }), "score scale is nan"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.score_scale = 1e300; }), "float32 holds as inf"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.score_scale = 1e-300; }), "float32 holds as 0"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) {
                         s.kind = OracleKind::causal;
                         s.rows = 8193;
                       }),
                       "8193 rows"));
  EXPECT_TRUE(contains(message([](OnnxSpec& s) { s.rounding = twoheads::Precision::int8; }), "rounds to int8"));
  OnnxSpec no_tokens = some_spec();
  no_tokens.width = 0;
  EXPECT_NO_THROW(static_cast<void>(twoheads::export_core(no_tokens)));
}

TEST(Export, NamesTheFileThatCannotBeWritten) {
  const TempFolder folder;
  const std::string path = folder / "no_folder/graph.onnx";
  const onnx::ModelProto model = twoheads::export_core(some_spec());
  EXPECT_TRUE(contains(message_of<twoheads::FileError>([&] { twoheads::write_onnx(path, model); }),
                       path + ": cannot be written"));
}

// --- ONNX Runtime answers --------------------------------------------------------------------------------------------

class Answered : public Runner, public testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Answered, testing::ValuesIn(all_cases()), name_of);

TEST_P(Answered, EqualNaiveAttention) {
  const auto [graph, kind, number] = GetParam();
  const OnnxSpec spec = some_spec(kind, number);
  const std::vector<std::vector<Tensor>> calls{draw_operands(graph, spec, seed_or(41)),
                                               draw_operands(graph, spec, seed_or(42))};
  const RunnerResult result = run_bytes(
      export_graph(graph, spec).SerializeAsString(),
      bytes_of(Frame{frames::run, 10, bytes_of(calls[0])}) + bytes_of(Frame{frames::run, 11, bytes_of(calls[1])}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(result.frames.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const Frame& frame = result.frames[i];
    ASSERT_EQ(frame.kind, frames::answer) << frame.body;
    EXPECT_EQ(frame.id, 10 + i);
    const std::vector<Tensor> outputs = frames::read_tensors(frame.body);
    ASSERT_EQ(outputs.size(), 1u);
    EXPECT_EQ(outputs[0].wide, number == OnnxNumber::float64);
    ASSERT_EQ(outputs[0].shape, graph == Graph::core ? Shape({2, 3, 8, 4}) : Shape({2, 8, 12}));
    for (Index call = 0; call < spec.batch; ++call)
      for (Index head = 0; head < spec.heads; ++head)
        EXPECT_LE(difference(found(graph, spec, outputs[0], call, head), expected(graph, spec, calls[i], call, head)),
                  number == OnnxNumber::float64 ? 1e-13L : 1e-6L)
            << "call " << call << ", head " << head;
  }
}

naive::Table rounded(naive::Table table, twoheads::Precision to) {
  for (naive::Row& row : table)
    for (naive::Real& x : row) {
      const auto wide = static_cast<float>(x);
      x = to == twoheads::Precision::half ? static_cast<float>(Eigen::half(wide))
                                          : static_cast<float>(Eigen::bfloat16(wide));
    }
  return table;
}

TEST_F(Runner, RoundsWhereTheGraphSays) {
  for (const twoheads::Precision to : {twoheads::Precision::half, twoheads::Precision::bfloat16}) {
    OnnxSpec spec = some_spec(OracleKind::causal);
    spec.rounding = to;
    const std::vector<Tensor> operands = draw_operands(Graph::core, spec, seed_or(46));
    const RunnerResult result =
        run_bytes(twoheads::export_core(spec).SerializeAsString(), bytes_of(Frame{frames::run, 1, bytes_of(operands)}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    ASSERT_EQ(result.frames.size(), 1u);
    ASSERT_EQ(result.frames[0].kind, frames::answer) << result.frames[0].body;
    const Tensor output = frames::read_tensors(result.frames[0].body).front();
    Index same = 0;
    for (Index place = 0; place < spec.batch * spec.heads; ++place) {
      const naive::Table s = naive::logits(rounded(table(operands[0], place), to),
                                           rounded(table(operands[1], place), to), spec.score_scale);
      const auto sees = [](Index query, Index key) { return key <= query; };
      // Identity values show the weights.
      naive::Table identity = naive::zeros(spec.rows, spec.rows);
      for (Index i = 0; i < spec.rows; ++i) identity[naive::at(i)][naive::at(i)] = 1;
      const naive::Table weights = rounded(naive::softmax_mean(s, identity, sees), to);
      const naive::Table truth = rounded(naive::product(weights, rounded(table(operands[2], place), to)), to);
      const naive::Table answers = table(output, place);
      for (std::size_t i = 0; i < truth.size(); ++i)
        for (std::size_t j = 0; j < truth[i].size(); ++j) same += answers[i][j] == truth[i][j] ? 1 : 0;
    }
    // Sums in float may fall on the other side of a midpoint, rarely.
    EXPECT_GE(same, 183) << "of 192 answers are those of naive attention rounded to " << name(to);
  }
}

TEST_F(Runner, DescribesTheGraph) {
  const RunnerResult result =
      run_bytes(twoheads::export_transformer(some_spec()).SerializeAsString(), bytes_of(Frame{frames::hello, 5, ""}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(result.frames.size(), 1u);
  EXPECT_EQ(result.frames[0].kind, frames::description);
  EXPECT_EQ(result.frames[0].id, 5u);
  frames::Reader reader(result.frames[0].body);
  EXPECT_EQ(reader.next<std::uint32_t>(), 4u);
  EXPECT_EQ(reader.next<std::uint32_t>(), 1u);
  const std::vector<std::pair<std::string, Shape>> values{
      {"rows", {2, 8, 6}}, {"wq", {3, 6, 5}}, {"wk", {3, 6, 5}}, {"wv", {3, 6, 4}}, {"output", {2, 8, 12}}};
  for (const auto& value : values) {
    EXPECT_EQ(reader.text(reader.next<std::uint32_t>()), value.first);
    EXPECT_EQ(reader.next<std::uint32_t>(), 1u) << "float32";
    Shape shape(reader.next<std::uint32_t>());
    for (Index& size : shape) size = static_cast<Index>(reader.next<std::uint64_t>());
    EXPECT_EQ(shape, value.second) << value.first;
  }
  EXPECT_TRUE(reader.at_end());
}

TEST_F(Runner, FailsTheCallsThatAreWrongAndAnswersTheRest) {
  const OnnxSpec spec = some_spec();
  const std::vector<Tensor> operands = draw_operands(Graph::core, spec, seed_or(43));
  std::vector<Tensor> wrong_shape = operands, wrong_number = operands, too_few(operands.begin(), operands.end() - 1);
  wrong_shape[0].shape = {2, 3, 5, 8};
  for (Tensor& tensor : wrong_number) tensor.wide = true;
  const std::string right = bytes_of(operands);
  std::string wrong_checksum = bytes_of(Frame{frames::run, 4, right});
  wrong_checksum.back() = static_cast<char>(wrong_checksum.back() ^ 1);
  const std::string calls = bytes_of(Frame{frames::run, 1, bytes_of(wrong_shape)}) +
                            bytes_of(Frame{frames::run, 2, bytes_of(wrong_number)}) +
                            bytes_of(Frame{frames::run, 3, bytes_of(too_few)}) + wrong_checksum +
                            bytes_of(Frame{frames::run, 5, right.substr(0, right.size() - 1)}) +
                            bytes_of(Frame{frames::run, 6, right + "x"}) + bytes_of(Frame{frames::run, 7, ""}) +
                            bytes_of(Frame{99, 8, ""}) + bytes_of(Frame{frames::run, 9, right});
  const std::vector<std::string> faults{"invalid dimensions", "data type",    "2 tensors, expected 3", "checksum",
                                        "ends within",        "1 bytes more", "ends within",           "kind 99"};
  const RunnerResult result = run_bytes(twoheads::export_core(spec).SerializeAsString(), calls);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(result.frames.size(), faults.size() + 1);
  for (std::size_t i = 0; i < faults.size(); ++i) {
    EXPECT_EQ(result.frames[i].kind, frames::failure);
    EXPECT_EQ(result.frames[i].id, i + 1);
    EXPECT_TRUE(contains(result.frames[i].body, faults[i])) << result.frames[i].body;
  }
  EXPECT_EQ(result.frames.back().kind, frames::answer);
  EXPECT_EQ(result.frames.back().id, 9u);
}

TEST_F(Runner, FindsFramesHoweverTheirBytesArrive) {
  OnnxSpec spec = some_spec();
  spec.rows = 32;
  spec.heads = 40;
  const std::string call = bytes_of(draw_operands(Graph::core, spec, seed_or(44)));
  constexpr std::size_t piece = 65536;
  ASSERT_GT(call.size(), 2 * piece);
  // The header of call 2 lies across the end of the first piece.
  const std::string calls = bytes_of(Frame{99, 1, std::string(piece - 32 - 17, 'x')}) +
                            bytes_of(Frame{frames::run, 2, call}) + bytes_of(Frame{frames::run, 3, call});
  const std::string model = twoheads::export_core(spec).SerializeAsString();
  for (const Input input : {Input::file, Input::pipe}) {
    const RunnerResult result = run_bytes(model, calls, input);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    ASSERT_EQ(result.frames.size(), 3u);
    EXPECT_EQ(result.frames[0].kind, frames::failure);
    EXPECT_EQ(result.frames[1].kind, frames::answer);
    EXPECT_EQ(result.frames[2].kind, frames::answer);
    EXPECT_EQ(result.frames[1].body, result.frames[2].body) << "two calls of the same operands";
  }
}

TEST_F(Runner, EndsWithAnErrorAfterABrokenHeaderOrWithinAFrame) {
  const std::string model = twoheads::export_core(some_spec()).SerializeAsString();
  const std::string good = bytes_of(Frame{frames::hello, 1, ""});
  std::string bad = good;
  bad[8] = static_cast<char>(bad[8] ^ 1);
  const RunnerResult broken = run_bytes(model, good + bad + good);
  EXPECT_EQ(broken.exit_code, 1);
  EXPECT_EQ(broken.frames.size(), 1u) << "the frame before it is answered";
  EXPECT_TRUE(contains(broken.err, "checksum of a frame header")) << broken.err;
  const RunnerResult cut = run_bytes(model, good + good.substr(0, 31));
  EXPECT_EQ(cut.exit_code, 1);
  EXPECT_EQ(cut.frames.size(), 1u);
  EXPECT_TRUE(contains(cut.err, "ends within a frame")) << cut.err;
}

TEST_F(Runner, SaysThatItCannotLoadAModel) {
  const RunnerResult result = run_bytes("no model", bytes_of(Frame{frames::hello, 3, ""}));
  EXPECT_EQ(result.exit_code, 1);
  ASSERT_EQ(result.frames.size(), 1u);
  EXPECT_EQ(result.frames[0].kind, frames::failure);
  EXPECT_EQ(result.frames[0].id, 3u);
  EXPECT_TRUE(contains(result.frames[0].body, "graph.onnx cannot be loaded")) << result.frames[0].body;
}

// --- long attention through it ---------------------------------------------------------------------------------------

#ifdef TWOHEADS_WITH_REMOTE

class LongAttention : public Runner {
 protected:
  /// Largest error of causal attention of 3 heads over 100 tokens,
  /// by calls of the graph's 16 rows, against naive attention.
  template <class Scalar>
  [[nodiscard]] naive::Real error_of(twoheads::AnyOracle<Scalar> oracle) const {
    twoheads::AttentionSpec spec;
    spec.heads = spec.kv_heads = 3;
    spec.head_dim = 5;
    spec.value_dim = 4;
    spec.mask = twoheads::Mask::causal();
    twoheads::Random random(seed_or(45));
    const twoheads::Matrix<Scalar> q = random.matrix<float>(100, 15).cast<Scalar>();
    const twoheads::Matrix<Scalar> k = random.matrix<float>(100, 15).cast<Scalar>();
    const twoheads::Matrix<Scalar> v = random.matrix<float>(100, 12).cast<Scalar>();
    twoheads::Matrix<Scalar> out(100, 12);
    twoheads::GridAttention<twoheads::AnyOracle<Scalar>> attend(oracle);
    attend(twoheads::projected_input(spec, twoheads::view(q), twoheads::view(k), twoheads::view(v)),
           twoheads::span(out));
    return difference(naive::plain(out), naive::attention(spec, naive::plain(q), naive::plain(k), naive::plain(v),
                                                          naive::visible(spec.mask)));
  }

  [[nodiscard]] std::vector<std::string> command(const std::string& file) const {
    return {"env",     "NODE_PATH=" + modules_->string(),
            "node",    TWOHEADS_SOURCE_DIR "/examples/onnxruntime/runner.js",
            "--model", file};
  }

  [[nodiscard]] static OnnxSpec roomy_spec(OracleKind kind, OnnxNumber number) {
    OnnxSpec spec = some_spec(kind, number);
    spec.rows = 16;
    // For the anchor's columns, for codes, and for what an answer tells beside its values.
    spec.key_cols = 12;
    spec.value_cols = 16;
    spec.width = 120;
    return spec;
  }
};

TEST_F(LongAttention, ThroughOnnxRuntimeEqualsNaiveAttention) {
  for (const Graph graph : {Graph::core, Graph::transformer})
    for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
      const TempFolder folder;
      const std::vector<std::string> runner = command(folder / "graph.onnx");
      twoheads::write_onnx(folder / "graph.onnx", export_graph(graph, roomy_spec(kind, OnnxNumber::float64)));
      const auto oracle = [&] {
        if (graph == Graph::core)
          return twoheads::AnyOracle<double>([=] { return twoheads::remote_core_oracle<double>(runner, kind, 0.5); });
        return twoheads::AnyOracle<double>(
            [=] { return twoheads::RemoteTransformer<double>(twoheads::RemoteSession(runner), kind, 0.5); });
      };
      EXPECT_LE(error_of(oracle()), 1e-12L) << name(kind) << (graph == Graph::core ? " core" : " transformer");
    }
}

TEST_F(LongAttention, ThroughGraphsOfLowPrecisionKeepsToIt) {
  OnnxSpec spec = roomy_spec(OracleKind::causal, OnnxNumber::float32);
  spec.rounding = twoheads::Precision::half;
  const TempFolder folder;
  const std::vector<std::string> runner = command(folder / "graph.onnx");
  twoheads::write_onnx(folder / "graph.onnx", twoheads::export_core(spec));
  const twoheads::AnyOracle<float> oracle([=] {
    twoheads::RemoteCore<float> core{twoheads::RemoteSession(runner)};
    twoheads::OracleLimits limits = core.limits(OracleKind::causal, 0.5);
    limits.precision = twoheads::mixed_precision(twoheads::Precision::half);
    return twoheads::core_oracle<float>(limits, std::move(core));
  });
  EXPECT_LE(error_of(oracle), 4e-3L) << "values are of size 3";
}

#endif

}  // namespace
