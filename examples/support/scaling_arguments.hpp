#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <twoheads/plan/scaling.hpp>
#include <vector>

#include "support/arguments.hpp"
#include "support/plan_arguments.hpp"

namespace programs {

/// What the model of scale says of a plan, beside what other splits would move.
struct ScalingFigures {
  twoheads::ScalePrediction predicted;
  std::optional<twoheads::SplitCost> ring;
  std::optional<twoheads::SplitCost> ulysses;
  Index layers = 1;
};

/// The flags of --ranks, which spreads the plan over ranks of a cluster and predicts what that comes to.
class ScalingArguments {
 public:
  explicit ScalingArguments(CLI::App& app) {
    twoheads::RankMachine& machine = request_.machine;
    ranks_ = add_count(app, "--ranks", request_.ranks, 1,
                       "predict time, bytes moved and memory of attention on so many ranks (processes on a network)");
    options_ = {
        add_positive(app, "--bandwidth", machine.bandwidth,
                     "with --ranks: bytes a second that a rank receives (default 1.25e9, 10 Gbit/s)"),
        add_number(app, "--latency", machine.latency, 0, true, "a finite number of 0 or more",
                   "with --ranks: seconds that a message costs (default 5e-6)"),
        add_positive(app, "--flops", machine.flops,
                     "with --ranks: floating-point operations a second of a rank (default 5e10)"),
        add_positive(app, "--call-seconds", machine.call_seconds,
                     "with --ranks: seconds of an oracle's call (default: its operations at --flops)"),
        add_count(app, "--scalar-bytes", request_.scalar_bytes, 1, "with --ranks: bytes of a number (default 4)"),
        add_count(app, "--work-bytes", request_.work_bytes, 1,
                  "with --ranks: memory for queries that the kernel works on (default 3 MiB)"),
        add_count(app, "--piece", request_.piece, 1, "with --ranks: keys that are fetched at once (default 4096)")};
  }

  /// Throws ArgumentError for flags that do not go with each other.
  void require_fit(const PlanArguments& arguments) const {
    if (ranks_->count() == 0) {
      for (const CLI::Option* option : options_)
        if (option->count() > 0) throw ArgumentError(option->get_name() + " needs --ranks");
      return;
    }
    const auto require_at_most = [](const char* flag, Index value, Index most) {
      if (value > most) throw ArgumentError(flag, std::to_string(value), "1 to " + std::to_string(most));
    };
    require_at_most("--ranks", request_.ranks, twoheads::ScaleRequest::most_ranks);
    if (request_.scalar_bytes > 64)
      throw ArgumentError("--scalar-bytes", std::to_string(request_.scalar_bytes), "1 to 64");
    if (arguments.method() != Method::stable) throw ArgumentError("--ranks needs --method stable");
  }

  /// What --ranks asks for, if it does.
  [[nodiscard]] std::optional<ScalingFigures> figures(const twoheads::Plan& plan, Index kv_heads,
                                                      Index head_dim) const {
    if (ranks_->count() == 0) return std::nullopt;
    if (plan.queries().begin > 0) throw ArgumentError("--ranks shares whole inputs: it takes no --past");
    if (plan.sampled() != nullptr) throw ArgumentError("--ranks shares exact plans: it takes no --samples");
    twoheads::ScaleRequest request = request_;
    request.head_dim = request.value_dim = head_dim;
    request.kv_heads = kv_heads;
    try {
      const twoheads::SplitCase problem = twoheads::split_case(plan, request);
      return ScalingFigures{twoheads::predict_scale(plan, request), twoheads::ring_cost(problem, request.ranks),
                            twoheads::ulysses_cost(problem, request.ranks), plan.request().layers};
    } catch (const twoheads::Error& error) {
      throw ArgumentError(error.what());
    }
  }

  /// Adds the keys of a prediction to a JSON object: seconds and bytes of all layers, memory of one.
  static void add(nlohmann::ordered_json& result, const ScalingFigures& figures) {
    const twoheads::ScalePrediction& found = figures.predicted;
    result["ranks"] = found.ranks;
    result["predicted_seconds"] = found.seconds;
    result["compute_seconds"] = found.compute_seconds;
    result["communication_seconds"] = found.hidden_seconds + found.exposed_seconds;
    result["exposed_seconds"] = found.exposed_seconds;
    result["contended_seconds"] = found.contended_seconds;
    result["bytes_moved"] = found.bytes_moved;
    result["most_received"] = found.most_received;
    result["messages"] = found.messages;
    result["rank_bytes"] = found.rank_bytes;
    result["excess_work"] = found.excess_work;
    result["exact_bytes"] = found.exact_bytes;
    const auto other = [&](const std::string& name, const std::optional<twoheads::SplitCost>& cost) {
      result["bytes_moved_" + name] = nullptr;
      result["rank_bytes_" + name] = nullptr;
      if (!cost) return;
      result["bytes_moved_" + name] = moved(*cost, figures.layers);
      result["rank_bytes_" + name] = cost->rank_bytes;
    };
    other("ring", figures.ring);
    other("ulysses", figures.ulysses);
  }

  static void print(std::ostream& out, const ScalingFigures& figures) {
    const twoheads::ScalePrediction& found = figures.predicted;
    out << "\n  on " << twoheads::detail::counted(found.ranks, "rank") << ", attention alone\n  predicted  "
        << found.seconds << " s: " << found.compute_seconds << " s of computing, "
        << found.hidden_seconds + found.exposed_seconds << " s of communication, of which " << found.exposed_seconds
        << " s are waited for\n  crowded    " << found.contended_seconds
        << " s where all ranks ask the same owners at the same time\n  excess     " << rounded(100 * found.excess_work)
        << " % more work for the rank that has most than in the mean\n  moved      "
        << (found.exact_bytes ? "" : "about ") << bytes(found.bytes_moved) << " in "
        << twoheads::detail::counted(found.messages, "message") << ", " << bytes(found.most_received)
        << " to the rank that receives most\n  memory     " << bytes(found.rank_bytes)
        << " for the rank that needs most\n  Ring       ";
    const auto other = [&](const std::optional<twoheads::SplitCost>& cost, const std::string& why) {
      if (cost)
        out << "would move " << bytes(moved(*cost, figures.layers)) << ", memory " << bytes(cost->rank_bytes) << "\n";
      else
        out << "cannot be: " << why << "\n";
    };
    other(figures.ring, "there are more ranks than tokens or keys");
    out << "  Ulysses    ";
    other(figures.ulysses, "there are more ranks than key/value heads, tokens or keys");
  }

 private:
  [[nodiscard]] static Index moved(const twoheads::SplitCost& cost, Index layers) {
    try {
      return twoheads::detail::checked_product("the bytes moved", cost.bytes_moved, layers);
    } catch (const twoheads::Error& error) {
      throw ArgumentError(error.what());
    }
  }

  [[nodiscard]] static double rounded(double value) { return std::round(value * 100) / 100; }

  /// "3.25 GiB"
  [[nodiscard]] static std::string bytes(Index count) {
    auto value = static_cast<double>(count);
    const char* unit = "bytes";
    for (const char* next : {"KiB", "MiB", "GiB", "TiB", "PiB"}) {
      if (value < 1024) break;
      value /= 1024;
      unit = next;
    }
    return twoheads::detail::text(rounded(value), " ", unit);
  }

  twoheads::ScaleRequest request_;
  CLI::Option* ranks_ = nullptr;
  std::vector<CLI::Option*> options_;
};

}  // namespace programs
