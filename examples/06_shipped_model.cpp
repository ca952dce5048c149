// The model that comes with the library: it reads a text, goes on from there, and predicts what it was not trained on,
// through calls of a small transformer. What exact calls leave as it is, and what approximations cost, in one table.

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <numbers>
#include <string>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/twoheads.hpp>
#include <vector>

#include "support/language_scores.hpp"
#include "support/progress.hpp"

using namespace twoheads;

namespace {

using Calls = GridAttention<SmallTransformer<float>>;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The text as the model goes on, each byte drawn from what it expects.
void write_on(const LanguageModel<float>& model, const std::string& text, Index rows, Index bytes) {
  // A single query sees all keys before it: on a plain oracle every row of a call is one of them.
  SmallTransformer<float> oracle({.kind = OracleKind::plain, .rows = rows});
  Calls attend(oracle);
  Session session(model, attend);
  session.append(byte_ids(text));
  const Index read = attend.counts().calls;
  const std::string::size_type line = text.rfind('\n', text.size() > 160 ? text.size() - 160 : 0);
  std::cout << "..." << text.substr(line == std::string::npos ? 0 : line) << " >> ";
  Sampler sampler(SamplerOptions{.temperature = 0.7, .seed = 7});
  for (Index i = 0; i < bytes; ++i) {
    const int next = sampler(view(session.next_logits()));
    std::cout << static_cast<char>(next) << std::flush;
    session.append(std::vector<int>{next});
  }
  std::cout << " ...\n\n"
            << text.size() << " bytes were read through " << read << " calls of at most " << rows << " rows, " << bytes
            << " written through " << attend.counts().calls - read << ".\n\n";
}

/// What predicting a text comes to.
struct Prediction {
  double bits = 0;         ///< a byte
  double direct_bits = 0;  ///< the same by direct evaluation in float64 under the same mask
  double largest = 0;      ///< difference of a logit between the two
  Index calls = 0;
  double seconds = 0;
};

/// Predicts each window by itself, all bytes after its first quarter.
Prediction predict(LanguageModel<float> model, const std::vector<std::string>& windows, const Mask& mask, Index rows,
                   const Sampling& sampling) {
  model.body.spec.attention.mask = mask;
  const LanguageModel<double> wide = cast_model<double>(model);
  SmallTransformer<float> oracle({.kind = OracleKind::causal, .rows = rows});
  Calls attend(oracle, {.sampling = sampling});
  Prediction found;
  Index count = 0;
  programs::Progress progress("windows predicted");
  progress.begin(static_cast<double>(windows.size()));
  for (const std::string& window : windows) {
    const std::vector<int> ids = byte_ids(window);
    const double begin = seconds();
    const Matrix<float> scores = logits(model, view(forward(model.body, embed(model, ids), attend)));
    found.seconds += seconds() - begin;
    const Matrix<double> direct = logits(wide, view(forward(wide.body, embed(wide, ids), DirectAttention<double>())));
    found.largest = std::max(found.largest, (scores.cast<double>() - direct).cwiseAbs().maxCoeff());
    for (Index row = scores.rows() / 4; row + 1 < scores.rows(); ++row, ++count) {
      const Index next = ids[static_cast<std::size_t>(row + 1)];
      found.bits += programs::nats_of(scores.row(row).cast<double>(), next);
      found.direct_bits += programs::nats_of(direct.row(row), next);
    }
    progress.add(1);
  }
  found.direct_bits /= static_cast<double>(count) * std::numbers::ln2;
  found.bits /= static_cast<double>(count) * std::numbers::ln2;
  found.calls = attend.counts().calls;
  return found;
}

void show(const std::string& name, const Prediction& found) {
  std::cout << "  " << std::left << std::setw(46) << name << std::right << std::setw(8) << found.calls << std::setw(11)
            << std::fixed << std::setprecision(3) << found.bits << std::setw(15) << std::scientific
            << std::setprecision(1) << found.largest << std::setw(10) << std::fixed << std::setprecision(1)
            << found.seconds << "\n"
            << std::defaultfloat;
}

int run(const std::string& folder, const std::string& path) {
  constexpr Index rows = 64;
  constexpr std::size_t length = 1024;
  constexpr std::size_t most_windows = 8;
  const auto model = read_model<float>(folder);
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    std::cerr << path << ": cannot be read\n";
    return 1;
  }
  // Windows from all over the text.
  const std::size_t fit = std::min(text.size() / length, most_windows);
  std::vector<std::string> windows;
  for (std::size_t i = 0; i < fit; ++i) windows.push_back(text.substr(i * (text.size() / fit), length));
  if (windows.empty()) {
    std::cerr << path << ": " << text.size() << " bytes, expected " << length << " or more\n";
    return 1;
  }

  const AttentionSpec& a = model.body.spec.attention;
  std::cout << "A model of bytes: " << model.body.spec.layers << " layers of width " << model.body.spec.width << ", "
            << a.heads << " heads. A window of " << length << " bytes, for one head, as calls of at most " << rows
            << " rows:\n\n";
  print(std::cout,
        Plan({.mask = Mask::causal(), .tokens = length, .oracle = {.kind = OracleKind::causal, .rows = rows}}));
  std::cout << "\nIt goes on from the text that it reads:\n\n";
  // As long as what it was trained on, and no longer.
  write_on(model, windows.front().substr(0, 700), rows, 300);

  std::cout << windows.size() << " windows of " << length << " bytes, predicted after their first quarter:\n\n  "
            << std::left << std::setw(46) << "each byte sees" << std::right << std::setw(8) << "calls" << std::setw(11)
            << "bits/byte" << std::setw(15) << "logits off by" << std::setw(10) << "seconds\n";
  const auto line = [&](const std::string& name, const Mask& mask, const Sampling& sampling = {}) {
    show(name, predict(model, windows, mask, rows, sampling));
  };
  const Prediction exact = predict(model, windows, Mask::causal(), rows, {});
  std::cout << "  " << std::left << std::setw(46) << "all before it, directly in float64" << std::right << std::setw(8)
            << "-" << std::setw(11) << std::fixed << std::setprecision(3) << exact.direct_bits << std::setw(15) << "-"
            << std::setw(10) << "-" << std::defaultfloat << "\n";
  show("all before it (exact)", exact);
  line("the last 128 and the first 4 (exact)", Mask::window_and_sinks(128, 4));
  line("the last 128, 4 of the blocks before, drawn", Mask::causal(), {.samples = 4, .near = 128});
  line("the last 128, 1 of the blocks before, drawn", Mask::causal(), {.samples = 1, .near = 128});
  std::cout
      << "\nLogits are compared with direct evaluation in float64 under the same mask; where blocks are drawn, that\n"
         "is all that comes before.\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr
        << "usage: 06_shipped_model FOLDER TEXT\nFOLDER: a model of bytes, such as examples/models/bible; TEXT: a "
           "file to read and predict\n";
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
