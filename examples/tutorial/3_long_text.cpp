// The model that ships with the library reads a text piece by piece and goes on from it, through calls of 64 rows:
// 3_long_text examples/models/bible LICENSE

#include <cmath>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <twoheads/io/model_folder.hpp>
#include <twoheads/twoheads.hpp>
#include <vector>

using namespace twoheads;

/// The `count` likeliest bytes after a text that is read in pieces of 100, each of them the likeliest after the last.
template <class Scalar, class AttendFn>
std::vector<int> go_on(const LanguageModel<Scalar>& model, const std::vector<int>& ids, AttendFn& attend, int count) {
  Session<Scalar, AttendFn> session(model, attend);
  for (auto piece = ids.begin(); piece != ids.end();) {
    const auto end = piece + std::min<std::ptrdiff_t>(100, ids.end() - piece);
    session.append(std::vector<int>(piece, end));
    piece = end;
  }
  std::vector<int> written;
  while (static_cast<int>(written.size()) < count) {
    Index likeliest = 0;
    session.next_logits().row(0).maxCoeff(&likeliest);
    written.push_back(static_cast<int>(likeliest));
    session.append(std::vector<int>{written.back()});
  }
  return written;
}

void run(const std::string& folder, const std::string& path) {
  const LanguageModel<float> model = read_model<float>(folder);
  std::ifstream file(path, std::ios::binary);
  const std::vector<int> ids = byte_ids(std::string(std::istreambuf_iterator<char>(file), {}));
  if (!file || ids.empty()) throw std::runtime_error(path + ": no bytes to read");

  // The whole text at once: what each byte should be followed by.
  SmallTransformer<float> oracle({.kind = OracleKind::causal, .rows = 64});
  GridAttention<SmallTransformer<float>> calls(oracle);
  const Matrix<float> scores = logits(model, view(forward(model.body, embed(model, ids), calls)));
  const LanguageModel<double> wide = cast_model<double>(model);
  const Matrix<double> truth = logits(wide, view(forward(wide.body, embed(wide, ids), DirectAttention<double>())));
  std::cout << "bytes:                          " << ids.size() << "\n"
            << "calls of at most 64 rows:       " << calls.counts().calls << "\n"
            << "largest difference of a logit:  "
            << (scores.cast<double>() - truth).cwiseAbs().maxCoeff<Eigen::PropagateNaN>() << "\n";

  // Piece by piece, and on from there. On a plain oracle a single query shows every key of a call.
  SmallTransformer<float> plain({.kind = OracleKind::plain, .rows = 64});
  GridAttention<SmallTransformer<float>> pieces(plain);
  const std::vector<int> written = go_on(model, ids, pieces, 40);
  DirectAttention<double> direct;
  std::cout << "calls, piece by piece:          " << pieces.counts().calls << "\n"
            << "the bytes that direct evaluation in double writes:  "
            << (written == go_on(wide, ids, direct, 40) ? "yes" : "no") << "\n"
            << std::string(written.begin(), written.end()) << "\n";
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: 3_long_text FOLDER TEXT\n";
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
