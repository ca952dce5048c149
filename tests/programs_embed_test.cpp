// twoheads_embed on the encoders of tests/data/families, and the example of a model of one's own.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "support/contains.hpp"
#include "support/program.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path fixture(const std::string& name) { return fs::path(TWOHEADS_SOURCE_DIR) / "tests/data/families" / name; }

/// A tensor of a fixture's expected numbers.
template <class Number>
std::vector<Number> expected(const std::string& family, const std::string& name) {
  const std::string bytes = read_bytes(fixture(family) / "expected.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const json offsets = json::parse(bytes.substr(8, length))[name]["data_offsets"];
  const auto begin = offsets[0].get<std::size_t>();
  std::vector<Number> values((offsets[1].get<std::size_t>() - begin) / sizeof(Number));
  std::memcpy(values.data(), bytes.data() + 8 + length + begin, values.size() * sizeof(Number));
  return values;
}

class Embed : public testing::Test {
 protected:
  /// Two sentences: the fixture's own, and its first five tokens.
  [[nodiscard]] ProgramRun run(const std::string& family, const std::string& line, bool types = true) const {
    const auto two = [&](const char* tensor) {
      const std::vector<std::int64_t> all = expected<std::int64_t>(family, tensor);
      return json{all, std::vector<std::int64_t>(all.begin(), all.begin() + 5)}.dump();
    };
    std::vector<std::string> arguments{"--model", fixture(family).string(), "--ids",
                                       files_.write("ids.json", two("ids")).string()};
    if (types) {
      arguments.emplace_back("--token-types");
      arguments.push_back(files_.write("types.json", two("token_type_ids")).string());
    }
    for (const std::string& word : words(line)) arguments.push_back(word);
    return run_program("twoheads_embed", arguments);
  }

  TempFolder files_;
};

double difference(const json& found, const std::vector<double>& wanted) {
  if (found.size() != wanted.size()) return INFINITY;
  double most = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double one = std::abs(found[i].get<double>() - wanted[i]);
    if (!(one <= most)) most = one;
  }
  return most;
}

TEST_F(Embed, VectorsAreThoseOfTheReferenceOnEveryEngine) {
  for (const std::string engine :
       {"oracle --rows 9", "oracle --rows 9 --oracle causal --threads 2", "kernel", "direct"}) {
    const ProgramRun mean = run("bert", "--json --engine " + engine);
    ASSERT_EQ(mean.exit_code, 0) << mean.err;
    const json result = mean.json();
    ASSERT_EQ(result["vectors"].size(), 2U) << mean.out;
    EXPECT_LE(difference(result["vectors"][0], expected<double>("bert", "mean")), 1e-5) << engine;
    EXPECT_EQ(result["calls"].get<int>() > 0, engine[0] == 'o') << engine;
    EXPECT_EQ(result["pooling"], "mean");
    EXPECT_EQ(result["tokens"], 31);
  }
}

TEST_F(Embed, PoolingAndNormAreThoseAskedFor) {
  for (const std::string pooling : {"cls", "pooler"}) {
    const ProgramRun found = run("roberta", "--json --pooling " + pooling);
    ASSERT_EQ(found.exit_code, 0) << found.err;
    EXPECT_LE(difference(found.json()["vectors"][0], expected<double>("roberta", pooling)), 1e-5);
  }
  const ProgramRun unit = run("distilbert", "--json --normalize", false);
  ASSERT_EQ(unit.exit_code, 0) << unit.err;
  std::vector<double> mean = expected<double>("distilbert", "mean");
  double square = 0;
  for (const double value : mean) square += value * value;
  for (double& value : mean) value /= std::sqrt(square);
  EXPECT_LE(difference(unit.json()["vectors"][0], mean), 1e-6);
}

TEST_F(Embed, SaysWhatItCannotDo) {
  const auto refused = [&](const ProgramRun& run, int code, const std::string& message) {
    EXPECT_EQ(run.exit_code, code);
    EXPECT_EQ(run.out, "");
    EXPECT_TRUE(contains(run.err, message)) << run.err;
  };
  const std::string model = fixture("bert").string();
  refused(run_line("twoheads_embed", "--model " + model), 2, "one of --text FILE and --ids FILE is needed");
  refused(run("bert", "--pooling max"), 2, "--pooling is 'max', it takes one of mean|cls|pooler");
  refused(run("distilbert", "--pooling pooler", false), 1, "sentence 0: the encoder has no pooler");
  refused(run("bert", "--engine direct --threads 2"), 2, "--engine direct runs on one thread");
  refused(run_line("twoheads_embed", "--model /nowhere --ids /nowhere"), 1, "/nowhere/config.json: no such file");
  refused(run_line("twoheads_embed", "--model " + fixture("llama").string() + " --ids /nowhere"), 1, "is a decoder");
  for (const auto& [text, message] :
       std::vector<std::pair<std::string, std::string>>{{"[1, 2]", "entry 0: expected a list"},
                                                        {"[[1, -2]]", "entry 0: number 1 is -2, expected a token id"},
                                                        {"[[1], []]", "entry 1: expected a list of one or more"},
                                                        {"[[1, 64]]", "sentence 0: token 1 has the id 64"},
                                                        {"[[[1]]]", "expected a JSON list of one or more lists"},
                                                        {"{}", "expected a JSON list"}}) {
    const std::string ids = files_.write("faulty.json", text).string();
    refused(run_line("twoheads_embed", "--model " + model + " --ids " + ids), 1, message);
  }
}

TEST_F(Embed, ReadsTextWhereThereAreTokenizers) {
  const fs::path folder = files_ / "folder";
  fs::copy(fixture("bert"), folder);
  std::string pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncat\nsat\n##s\n";
  for (int i = 8; i < 64; ++i) pieces += "[unused" + std::to_string(i) + "]\n";
  files_.write("folder/vocab.txt", pieces);
  const std::string text = files_.write("lines.txt", "The cats sat\r\ncat\n").string();
  const std::string ids = files_.write("ids.json", "[[2,4,5,7,6,3],[2,5,3]]").string();
  const std::string model = "--model " + folder.string() + " --json ";
  const ProgramRun read = run_line("twoheads_embed", model + "--text " + text);
#ifdef TWOHEADS_WITH_TEXT
  ASSERT_EQ(read.exit_code, 0) << read.err;
  const ProgramRun wanted = run_line("twoheads_embed", model + "--ids " + ids);
  EXPECT_EQ(read.json()["vectors"], wanted.json()["vectors"]);
  EXPECT_EQ(read.json()["tokens"], 9);
  const ProgramRun empty = run_line("twoheads_embed", model + "--text " + files_.write("empty.txt", "").string());
  EXPECT_EQ(empty.exit_code, 1);
  EXPECT_TRUE(contains(empty.err, "expected one or more lines")) << empty.err;
#else
  EXPECT_NE(read.exit_code, 0);
  EXPECT_TRUE(contains(read.err, "ICU")) << read.err;
#endif
}

TEST(YourOwnModel, PrintsCallsAndASmallDifference) {
  const ProgramRun run = run_line("04_your_own_model", "");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::string label = "largest difference:";
  const std::size_t at = run.out.find(label);
  ASSERT_NE(at, std::string::npos) << run.out;
  const double difference = std::stod(run.out.substr(at + label.size()));
  EXPECT_GT(difference, 0.0);
  EXPECT_LT(difference, 1e-11);
}

}  // namespace
