// twoheads_lm on the trained model stories260K, where the shared data are there.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/program.hpp"
#include "support/sanitized.hpp"

namespace {

/// The float or int tensor of that name in a safetensors file, as doubles; empty where it is absent.
std::vector<double> read_tensor(const std::string& bytes, const std::string& name) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
  if (!header.contains(name)) return {};
  const std::string type = header[name]["dtype"];
  const char* data = bytes.data() + 8 + length + header[name]["data_offsets"][0].get<std::size_t>();
  const std::size_t size =
      header[name]["data_offsets"][1].get<std::size_t>() - header[name]["data_offsets"][0].get<std::size_t>();
  const auto read = [&](auto zero) {
    std::vector<double> values;
    for (std::size_t at = 0; at < size; at += sizeof(zero)) {
      std::memcpy(&zero, data + at, sizeof(zero));
      values.push_back(static_cast<double>(zero));
    }
    return values;
  };
  if (type == "F32") return read(float{});
  if (type == "F64") return read(double{});
  if (type == "I32") return read(std::int32_t{});
  return {};
}

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    const auto folder = shared_data("stories260K");
    if (!folder) GTEST_SKIP() << "the shared data folder is absent: the trained model stories260K is not tested";
    model_ = *folder / "stories260K.bin";
    tokenizer_ = *folder / "tok512.bin";
    text_ = read_bytes(*folder / "expected_stdout.txt");
    greedy_ = nlohmann::json::parse(read_bytes(*folder / "greedy_200.json"))["greedy_ids"];
    reference_ = read_bytes(*folder / "reference_logits.safetensors");
    std::vector<int> ids;
    for (const double id : read_tensor(reference_, "ids")) ids.push_back(static_cast<int>(id));
    ids_ = files_.write("ids.json", nlohmann::json(ids).dump());
  }

  [[nodiscard]] ProgramRun run(const std::string& line) const {
    std::vector<std::string> arguments{"--model", model_.string(), "--tokenizer", tokenizer_.string(), "--json"};
    for (const std::string& word : words(line)) arguments.push_back(word);
    return run_program("twoheads_lm", arguments);
  }

  /// Largest difference from the reference's logits at its rows.
  [[nodiscard]] double difference_from_reference(const std::filesystem::path& logits, const std::string& name) const {
    const std::vector<double> found = read_tensor(read_bytes(logits), "logits");
    const std::vector<double> expected = read_tensor(reference_, name);
    const std::vector<double> rows = read_tensor(reference_, "rows");
    if (expected.empty() || rows.empty()) return std::numeric_limits<double>::infinity();
    const std::size_t vocabulary = expected.size() / rows.size();
    double worst = 0;
    for (std::size_t row = 0; row < rows.size(); ++row)
      for (std::size_t token = 0; token < vocabulary; ++token) {
        const double difference = std::abs(found.at(static_cast<std::size_t>(rows[row]) * vocabulary + token) -
                                           expected[row * vocabulary + token]);
        if (!(difference <= worst)) worst = difference;
      }
    return worst;
  }

  TempFolder files_;
  std::filesystem::path model_, tokenizer_, ids_;
  std::string text_, reference_;
  nlohmann::json greedy_;
};

TEST_F(Stories, WritesTheReferenceTextThroughCallsOf64Rows) {
  const ProgramRun written = run("--rows 64 --generate " + std::to_string(sanitized ? 70 : 200));
  ASSERT_EQ(written.exit_code, 0) << written.err;
  const nlohmann::json json = written.json();
  if (sanitized) {
    EXPECT_EQ(json["ids"], nlohmann::json(std::vector<int>(greedy_.begin(), greedy_.begin() + 71)));
    return;
  }
  EXPECT_EQ(json["ids"], greedy_);
  EXPECT_EQ(json["text"], text_);
  // A token's layer takes no more than ceil(keys / 63) calls for each of 4 key/value heads.
  long most = 0;
  for (long keys = 1; keys <= 200; ++keys) most += 5 * 4 * ((keys + 62) / 63);
  EXPECT_LE(json["calls"].get<long>(), most);
  EXPECT_GT(json["calls"].get<long>(), most / 2);
}

TEST_F(Stories, WritesTheReferenceTextByTheKernelAndOnACausalOracle) {
  for (const char* line : {"--engine kernel", "--oracle causal --rows 64", "--oracle causal --rows 9"}) {
    const ProgramRun written = run(std::string(line) + " --generate " + std::to_string(sanitized ? 30 : 200));
    ASSERT_EQ(written.exit_code, 0) << line << "\n" << written.err;
    const auto count = static_cast<std::ptrdiff_t>(written.json()["ids"].size());
    EXPECT_EQ(written.json()["ids"], nlohmann::json(std::vector<int>(greedy_.begin(), greedy_.begin() + count)))
        << line;
  }
}

TEST_F(Stories, GoesOnFromASessionsFile) {
  const std::string session = (files_ / "session").string();
  std::vector<int> ids;
  std::string text;
  for (int turn = 0; turn < 3; ++turn) {
    const ProgramRun written = run("--engine kernel --generate 20 --session " + session);
    ASSERT_EQ(written.exit_code, 0) << written.err;
    for (const int id : written.json()["ids"].get<std::vector<int>>()) ids.push_back(id);
    text += written.json()["text"].get<std::string>();
  }
  EXPECT_EQ(ids, std::vector<int>(greedy_.begin(), greedy_.begin() + 61));
  EXPECT_EQ(text, text_.substr(0, text.size()));
  std::filesystem::resize_file(session, 1000);
  const ProgramRun failed = run("--engine kernel --generate 20 --session " + session);
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_NE(failed.err.find("session"), std::string::npos) << failed.err;
}

TEST_F(Stories, DrawsTheSameTextForASeedAndStreamsPastTheEnd) {
  const std::string line =
      "--engine kernel --generate 60 --temperature 1 --top-k 40 --top-p 0.9 --past-end --window 16 "
      "--sinks 2 --positions in-cache --seed ";
  const nlohmann::json a = run(line + "3").json();
  EXPECT_EQ(a["ids"].size(), 61U);
  EXPECT_EQ(run(line + "3").json()["ids"], a["ids"]);
  EXPECT_NE(run(line + "4").json()["ids"], a["ids"]);
}

TEST_F(Stories, ScoresInPiecesAsInOne) {
  const std::string line = "--engine kernel --rows 128 --score-ids " + ids_.string();
  const nlohmann::json one = run(line).json();
  EXPECT_EQ(run(line + " --chunk 256").json()["digest"], one["digest"]);
  const nlohmann::json pieces = run(line + " --chunk 7").json();
  EXPECT_LE(pieces["max_logit_error"].get<double>(), 1e-4);
  EXPECT_NEAR(pieces["nll"].get<double>(), one["nll"].get<double>(), 1e-5);
}

TEST(Folders, TakeThePlaceOfModelFiles) {
  const std::filesystem::path families = std::filesystem::path(TWOHEADS_SOURCE_DIR) / "tests/data/families";
  const TempFolder files;
  const std::string ids = files.write("ids.json", "[1, 5, 9, 2, 7, 30, 4, 8, 8, 3, 21, 6]").string();
  for (const char* family : {"llama", "mistral", "qwen3", "gpt2", "bloom"})
    for (const char* engine : {"oracle", "kernel", "direct"}) {
      const ProgramRun scored = run_program("twoheads_lm", {"--model", (families / family).string(), "--score-ids", ids,
                                                            "--rows", "5", "--engine", engine, "--json"});
      ASSERT_EQ(scored.exit_code, 0) << family << "\n" << scored.err;
      EXPECT_LE(scored.json()["max_logit_error"].get<double>(), 1e-4) << family << " " << engine;
    }
  const ProgramRun failed =
      run_program("twoheads_lm", {"--model", (families / "bert").string(), "--score-ids", ids, "--json"});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_NE(failed.err.find("is an encoder"), std::string::npos) << failed.err;
}

TEST_F(Stories, WritesTheSameTextForOtherRowsAndAnchors) {
  if (sanitized) GTEST_SKIP() << "minutes long under a sanitizer; the first test runs the same code";
  for (const char* line : {"--rows 17 --anchor mean-key", "--rows 33 --anchor gibbs", "--rows 200 --anchor adaptive",
                           "--rows 512 --anchor mean-key", "--rows 64 --anchor mean-key", "--rows 64 --anchor gibbs",
                           "--rows 33 --oracle-heads 3", "--engine direct"}) {
    const ProgramRun written = run(std::string(line) + " --generate 200");
    ASSERT_EQ(written.exit_code, 0) << line << "\n" << written.err;
    EXPECT_EQ(written.json()["ids"], greedy_) << line;
  }
}

TEST_F(Stories, ScoresTheReferenceTokensWithTheReferenceLogits) {
  if (sanitized) GTEST_SKIP() << "minutes long under a sanitizer; the first test runs the same code";
  const std::filesystem::path logits = files_ / "logits.safetensors";
  const ProgramRun scored = run("--rows 64 --score-ids " + ids_.string() + " --logits " + logits.string());
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  const nlohmann::json json = scored.json();
  EXPECT_EQ(json["tokens"], 1809);
  EXPECT_LE(json["max_logit_error"].get<double>(), 2e-4);
  EXPECT_EQ(json["argmax_changed"], 0.0);
  EXPECT_GT(json["repeats"].get<long>(), 0) << "the adaptive anchor finds unsafe tiles in these tokens";
  EXPECT_LE(difference_from_reference(logits, "full"), 2e-4);
}

TEST_F(Stories, ScoresWithAWindowAndSinksAsTheReferenceDoes) {
  if (sanitized) GTEST_SKIP() << "minutes long under a sanitizer; the simulation tests run the same code";
  struct Case {
    const char* flags;
    const char* reference;
  };
  const std::filesystem::path logits = files_ / "logits.safetensors";
  for (const Case& c : {Case{"--window 128", "window128"}, {"--window 128 --sinks 4", "window128_sinks4"}})
    for (const char* rows : {"64", "300"}) {
      const std::string line = std::string(c.flags) + " --rows " + rows;
      const ProgramRun scored = run(line + " --score-ids " + ids_.string() + " --logits " + logits.string());
      ASSERT_EQ(scored.exit_code, 0) << line << "\n" << scored.err;
      EXPECT_EQ(scored.json()["tokens"], 1809) << line;
      EXPECT_LE(scored.json()["max_logit_error"].get<double>(), 2e-4) << line;
      EXPECT_LE(difference_from_reference(logits, c.reference), 2e-4) << line;
      EXPECT_GT(difference_from_reference(logits, "full"), 0.1) << line << ": the mask makes a difference";
    }
}

TEST_F(Stories, ScoresInDoubleAsTheDirectTransformerDoes) {
  if (sanitized) GTEST_SKIP() << "minutes long under a sanitizer; the first test runs the same code";
  const ProgramRun scored = run("--rows 64 --scalar double --score-ids " + ids_.string());
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  EXPECT_LE(scored.json()["max_logit_error"].get<double>(), 1e-11);
  EXPECT_EQ(scored.json()["argmax_changed"], 0.0);
}

TEST_F(Stories, GoesOnFromAPromptAndScoresAText) {
  const ProgramRun written =
      run_program("twoheads_lm", {"--model", model_.string(), "--tokenizer", tokenizer_.string(), "--json", "--rows",
                                  "16", "--prompt", "Tom had a red ball.", "--generate", "5"});
  ASSERT_EQ(written.exit_code, 0) << written.err;
  EXPECT_EQ(written.json()["text"].get<std::string>().rfind("Tom had a red ball.", 0), 0U);

  const std::filesystem::path file = files_.write("text.txt", text_.substr(0, 100));
  const ProgramRun scored = run("--rows 16 --score " + file.string());
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  // Greedy text is likely text: far below the ln 512 = 6.2 nats of guessing.
  EXPECT_LT(scored.json()["nll"].get<double>(), 1.0);
  EXPECT_GT(scored.json()["nll"].get<double>(), 0.0);
}

TEST_F(Stories, NamesWhatIsWrongWithItsFiles) {
  const std::string bytes = read_bytes(model_);
  const auto expect_failure = [&](const std::vector<std::string>& arguments, const std::vector<std::string>& says) {
    const ProgramRun failed = run_program("twoheads_lm", arguments);
    EXPECT_TRUE(failed.exit_code == 1 || failed.exit_code == 2) << failed.exit_code << failed.err;
    EXPECT_EQ(failed.out, "");
    for (const std::string& word : says)
      EXPECT_NE(failed.err.find(word), std::string::npos) << failed.err << "lacks " << word;
  };
  const std::string tokenizer = tokenizer_.string();
  const std::string cut = files_.write("cut.bin", bytes.substr(0, bytes.size() / 2)).string();
  expect_failure({"--model", cut, "--tokenizer", tokenizer, "--generate", "3"},
                 {"cut.bin", std::to_string(bytes.size())});
  const std::string longer = files_.write("longer.bin", bytes + "x").string();
  expect_failure({"--model", longer, "--tokenizer", tokenizer, "--generate", "3"},
                 {"longer.bin", std::to_string(bytes.size())});
  std::string absurd = bytes;
  std::memset(absurd.data(), 0x7f, 28);
  expect_failure({"--model", files_.write("absurd.bin", absurd).string(), "--tokenizer", tokenizer, "--generate", "3"},
                 {"absurd.bin"});
  std::string nan = bytes;
  std::memset(nan.data() + 1000, 0xff, 4);
  expect_failure({"--model", files_.write("nan.bin", nan).string(), "--tokenizer", tokenizer, "--generate", "3"},
                 {"NaN"});
  const std::string short_tokenizer = files_.write("tok.bin", read_bytes(tokenizer_).substr(0, 3000)).string();
  expect_failure({"--model", model_.string(), "--tokenizer", short_tokenizer, "--generate", "3"}, {"tok.bin"});
  expect_failure({"--model", "/nonexistent", "--tokenizer", tokenizer, "--generate", "3"}, {"/nonexistent"});
  const std::string far = files_.write("far.json", "[1, 2, 512]").string();
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score-ids", far}, {"512", "511"});
  const std::string deep = files_.write("deep.json", std::string(300000, '[') + std::string(300000, ']')).string();
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score-ids", deep}, {"deep.json", "list"});
  const std::string half = files_.write("half.json", "[1, 2.5]").string();
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score-ids", half}, {"half.json", "entry 1"});
  const std::string empty = files_.write("empty.txt", "").string();
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score", empty},
                 {"1 token to score", "2 or more"});
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score", "/"},
                 {"/: a folder", "expected a file"});
  const std::string text = files_.write("text.json", "{\"ids\": 3}").string();
  expect_failure({"--model", model_.string(), "--tokenizer", tokenizer, "--score-ids", text}, {"text.json", "list"});
}

// --- the model that ships with the library ---------------------------------------------------------------------------

TEST(ShippedModel, IsSmallAndPredictsWhatItWasTrainedOn) {
  EXPECT_LE(std::filesystem::file_size(shipped_model() / "model.safetensors"), 3U << 20U);
  const TempFolder files;
  // A text like any in which the model is to be at home; references are its own way of numbering verses.
  const auto text = files.write("text", "Ge1:1 In the beginning God created the heaven and the earth.\n");
  for (const char* engine : {"direct", "kernel", "oracle"}) {
    const ProgramRun run = run_program(
        "twoheads_lm", {"--model", shipped_model().string(), "--score", text.string(), "--engine", engine, "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_LT(run.json()["nll"].get<double>() / std::log(2.0), 2.0) << engine;
    EXPECT_LE(run.json()["max_logit_error"].get<double>(), 1e-3) << engine;
  }
}

TEST(ShippedModel, GoesOnThroughCallsAsItDoesDirectly) {
  std::vector<std::string> texts;
  for (const char* engine : {"direct", "kernel", "oracle"}) {
    const ProgramRun run =
        run_program("twoheads_lm", {"--model", shipped_model().string(), "--prompt", "Ge1:2 And the earth was",
                                    "--generate", "60", "--engine", engine, "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.json()["ids"].size(), 83U);
    texts.push_back(run.json()["text"].get<std::string>());
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

TEST(ShippedModel, ItsDemoSaysWhatApproximationsCost) {
  const ProgramRun run =
      run_program("06_shipped_model",
                  {shipped_model().string(), (std::filesystem::path(TWOHEADS_SOURCE_DIR) / "README.md").string()});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  for (const char* words : {"all before it (exact)", "the first 4 (exact)", "4 of the blocks", "bits/byte"})
    EXPECT_NE(run.out.find(words), std::string::npos) << run.out;
  EXPECT_EQ(run_program("06_shipped_model", {"nowhere", "nothing"}).exit_code, 1);
  const ProgramRun no_text = run_program("06_shipped_model", {shipped_model().string(), "nothing"});
  EXPECT_EQ(no_text.exit_code, 1);
  EXPECT_NE(no_text.err.find("nothing"), std::string::npos) << no_text.err;
  EXPECT_EQ(run_program("06_shipped_model", {}).exit_code, 2);
}

}  // namespace
