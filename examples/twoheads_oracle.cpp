// An oracle on standard input and output: what another program starts, here or over ssh, as an oracle in a process.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/remote/serve.hpp>
#include <utility>
#include <vector>

#include "support/arguments.hpp"
#include "support/eigen_core.hpp"
#include "support/instances.hpp"

namespace {

using namespace twoheads;
using Outputs = std::optional<std::vector<Tensor>>;

/// Misbehaviour, and in which share of the runs.
struct Fault {
  std::string kind;
  double share = 0;
};

const std::vector<std::string> fault_kinds{"throw", "hang", "exit", "late", "size", "nan", "other"};

Fault read_fault(const std::string& word) {
  const std::size_t colon = word.find(':');
  Fault fault{word.substr(0, colon), 1};
  const bool known = std::find(fault_kinds.begin(), fault_kinds.end(), fault.kind) != fault_kinds.end();
  const bool read = colon == std::string::npos || programs::read_number(word.substr(colon + 1), fault.share);
  if (!known || !read || !(fault.share >= 0 && fault.share <= 1))
    throw programs::ArgumentError("--fault", word,
                                  "throw, hang, exit, late, size, nan or other, and a share of the runs from 0 to 1, "
                                  "as in nan:0.1");
  return fault;
}

/// A graph that misbehaves: the first fault that is drawn for a run happens.
class Faults {
 public:
  Faults(std::vector<Fault> faults, std::uint64_t seed, std::chrono::milliseconds late, GraphRun run)
      : faults_(std::move(faults)), random_(seed), late_(late), run_(std::move(run)) {}

  [[nodiscard]] Outputs operator()(const std::vector<Tensor>& inputs) {
    std::string kind;
    for (const Fault& fault : faults_) {
      const double drawn = static_cast<double>(random_() >> 11) * 0x1p-53;
      if (kind.empty() && drawn < fault.share) kind = fault.kind;
    }
    if (kind == "throw") throw OracleError("a fault that was asked for");
    if (kind == "hang") return {};
    if (kind == "exit") std::_Exit(3);
    if (kind == "late") std::this_thread::sleep_for(late_);
    Outputs outputs = run_(inputs);
    Tensor& first = outputs->front();
    if (kind == "size") {
      first = Tensor(first.type(), {first.dims().begin(), first.dims().end() - 1});
    } else if (kind == "nan") {
      if (first.type() == TensorType::float32)
        *first.at<float>(0, 1) = std::numeric_limits<float>::quiet_NaN();
      else
        *first.at<double>(0, 1) = std::numeric_limits<double>::quiet_NaN();
    } else if (kind == "other" && previous_) {
      return previous_;
    }
    previous_ = outputs;
    return outputs;
  }

 private:
  std::vector<Fault> faults_;
  std::mt19937_64 random_;
  std::chrono::milliseconds late_;
  GraphRun run_;
  Outputs previous_;
};

enum class Graph { core, transformer };

struct Arguments {
  Graph graph = Graph::core;
  OracleKind kind = OracleKind::plain;
  TensorType scalar = TensorType::float32;
  bool by_key = false;
  Index rows = 65, heads = 4, key_cols = 32, value_cols = 32, width = 256, batch = 4;
  double score_scale = 1;
};

template <class Scalar>
std::pair<Description, GraphRun> made(const Arguments& given) {
  if (given.graph == Graph::core) {
    const CoreGraph graph{given.batch, given.heads, given.rows, given.key_cols, given.value_cols};
    programs::EigenCore<Scalar> core(limits_of(graph, given.kind, given.score_scale));
    return {describe(graph, tensor_type<Scalar>), graph_run<Scalar>(graph, std::move(core))};
  }
  const TransformerGraph graph{given.batch, given.heads, given.rows, given.width, given.key_cols, given.value_cols};
  OracleLimits limits = limits_of(graph, given.kind, given.score_scale);
  limits.width = std::max(limits.width, graph.heads * graph.value_cols);
  const SumOrder order = given.by_key ? SumOrder::by_key : SumOrder::blocked;
  return {describe(graph, tensor_type<Scalar>), graph_run(graph, SmallTransformer<Scalar>(limits, order))};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Serves a small transformer, or its attention alone, on standard input and output.", "twoheads_oracle");
  Arguments arguments;
  std::vector<std::string> faults;
  Index seed = 1, late_ms = 1000;
  programs::add_choice<Graph>(app, "--graph", arguments.graph,
                              {{"core", Graph::core}, {"transformer", Graph::transformer}},
                              "what is served (default core: q, k and v in, rows out)");
  programs::add_choice<OracleKind>(app, "--oracle", arguments.kind,
                                   {{"plain", OracleKind::plain}, {"causal", OracleKind::causal}},
                                   "which rows a row sees (default plain: all)");
  programs::add_choice<TensorType>(app, "--scalar", arguments.scalar,
                                   {{"float", TensorType::float32}, {"double", TensorType::float64}},
                                   "what it computes in (default float)");
  programs::add_count(app, "--rows", arguments.rows, 2, "rows of a call (default 65)");
  programs::add_count(app, "--heads", arguments.heads, 1, "heads of a call (default 4)");
  programs::add_count(app, "--key-cols", arguments.key_cols, 2, "columns of queries and keys (default 32)");
  programs::add_count(app, "--value-cols", arguments.value_cols, 2, "columns of values (default 32)");
  programs::add_count(app, "--width", arguments.width, 2, "columns of a transformer's rows (default 256)");
  programs::add_count(app, "--batch", arguments.batch, 1, "calls of a run (default 4)");
  programs::add_positive(app, "--score-scale", arguments.score_scale, "what scores are multiplied by (default 1)");
  app.add_flag("--by-key", arguments.by_key, "a transformer sums key by key: no bits depend on columns of zeros");
  app.add_option("--fault", faults,
                 "misbehave in a share of the runs, as in nan:0.1: throw, hang, exit, late, size, nan, or other, the "
                 "numbers of the run before");
  programs::add_count(app, "--seed", seed, 0, "seed of the faults (default 1)");
  programs::add_count(app, "--late-ms", late_ms, 0, "how late an answer is by the fault late (default 1000)");

  programs::add_examples(app,
                         {"twoheads_simulate --mask causal --tokens 500 --rows 33 --oracle-scale 1 --oracle-command "
                          "\"twoheads_oracle --oracle causal --rows 33 --key-cols 128 --value-cols 160\""});
  return programs::run(app, argc, argv, [&] {
    auto [description, run] =
        arguments.scalar == TensorType::float64 ? made<double>(arguments) : made<float>(arguments);
    std::vector<Fault> read;
    for (const std::string& word : faults) read.push_back(read_fault(word));
    if (!read.empty())
      run =
          Faults(std::move(read), static_cast<std::uint64_t>(seed), std::chrono::milliseconds(late_ms), std::move(run));
    serve(STDIN_FILENO, STDOUT_FILENO, description, run);
  });
}
