#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <twoheads/exec/choose_plan.hpp>
#include <vector>

#include "support/arguments.hpp"
#include "support/plan_arguments.hpp"

namespace programs {

/// The flags of --choose, which leaves oracle, block, anchor, heads and layers to the library.
class ChooseArguments {
 public:
  explicit ChooseArguments(CLI::App& app) {
    using twoheads::Precision;
    app.add_flag("--choose", choose_,
                 "choose oracle (unless --oracle is given), block length, anchor (unless given), heads and layers by "
                 "price, and say why");
    const std::vector<std::pair<std::string, Precision>> words{{"half", Precision::half},
                                                               {"bfloat16", Precision::bfloat16},
                                                               {"float32", Precision::float32},
                                                               {"float64", Precision::float64},
                                                               {"int8", Precision::int8}};
    options_ = {
        add_choice<Precision>(app, "--precision", precision_, words,
                              "with --choose: what the oracle rounds tokens, weights and answers to (default float32)"),
        add_choice<Precision>(
            app, "--scores-precision", scores_, words,
            "with --choose: what it rounds scores to (default float32, with --precision float64 that)"),
        add_positive(app, "--largest-logit", largest_logit_, "with --choose: no logit is larger in size"),
        add_positive(app, "--call-cost", call_cost_, "with --choose: price of a call (default 1, 0 with --row-cost)"),
        add_positive(app, "--row-cost", row_cost_, "with --choose: price of a row of a call (default 0)")};
  }

  /// Throws ArgumentError for flags that do not go with each other.
  void require_fit(const PlanArguments& arguments) const {
    if (!choose_) {
      for (const CLI::Option* option : options_)
        if (option->count() > 0) throw ArgumentError(option->get_name() + " needs --choose");
      return;
    }
    if (arguments.method() != Method::stable) throw ArgumentError("--choose needs --method stable");
  }

  [[nodiscard]] bool chooses() const { return choose_; }

  /// The choice for a request, where --choose asks for one.
  [[nodiscard]] std::optional<twoheads::PlanChoice> choice(const PlanArguments& arguments,
                                                           const twoheads::PlanRequest& request, Index head_dim) const {
    using twoheads::OracleKind;
    using twoheads::Precision;
    if (!choose_) return std::nullopt;
    twoheads::PlanProblem problem;
    problem.mask = request.mask;
    problem.tokens = request.tokens;
    problem.keys = request.keys;
    problem.heads = request.heads;
    problem.kv_heads = arguments.kv_heads();
    problem.layers = request.layers;
    problem.head_dim = head_dim;
    problem.scalar = precision_ == Precision::float64 ? Precision::float64 : Precision::float32;
    problem.sampling = request.sampling;
    if (arguments.chose_anchor()) problem.anchors = {request.anchor};
    if (largest_logit_ > 0) problem.largest_logit = largest_logit_;
    if (call_cost_ > 0 || row_cost_ > 0) problem.price = {call_cost_, row_cost_, 0};
    twoheads::OracleLimits oracle = request.oracle;
    const Precision scores = scores_ != Precision::own ? scores_ : problem.scalar;
    if (precision_ != Precision::own || scores_ != Precision::own)
      oracle.precision = {precision_, scores, precision_, precision_};
    // Scores of 16 bits are fit for small ones alone: this oracle is one whose scores end where they stop being so.
    if (largest_logit_ > 0 && (scores == Precision::half || scores == Precision::bfloat16))
      oracle.largest_score = twoheads::OracleLimits::largest_score_error / twoheads::facts_of(scores).unit_roundoff;
    problem.oracles = {oracle};
    if (!arguments.chose_oracle()) {
      oracle.kind = oracle.kind == OracleKind::plain ? OracleKind::causal : OracleKind::plain;
      problem.oracles.push_back(oracle);
    }
    try {
      return twoheads::choose_plan(problem);
    } catch (const twoheads::Error& error) {
      throw ArgumentError(std::string("--choose finds no plan") + given() + ": " + error.what());
    }
  }

  /// Adds the keys of a choice to a JSON object.
  static void add(nlohmann::ordered_json& result, const twoheads::PlanChoice& choice) {
    result["rows"] = choice.call_rows;
    result["block"] = choice.chosen.block;
    result["anchor"] = twoheads::name(choice.chosen.anchor);
    result["packing"] = twoheads::name(choice.chosen.packing);
    result["oracle"] = twoheads::name(choice.request.oracle.kind);
    result["price"] = choice.price;
    result["expected_error"] = choice.expected_error;
    result["wasted_rows"] = choice.wasted_rows;
    result["bytes_in"] = choice.bytes_in;
    result["bytes_out"] = choice.bytes_out;
    result["reason"] = choice.reason();
  }

  static void print(std::ostream& out, const twoheads::PlanChoice& choice) {
    out << "  chosen     a " << twoheads::name(choice.request.oracle.kind) << " oracle, blocks of "
        << choice.chosen.block << ", anchor " << twoheads::name(choice.chosen.anchor) << ", price " << choice.price
        << "\n  error      about " << choice.expected_error << " of a row's largest value\n  bytes      "
        << choice.bytes_in << " in, " << choice.bytes_out << " out\n  reason     " << choice.reason() << "\n";
    for (const twoheads::PlanOption& other : choice.others)
      out << "  else       oracle " << other.oracle + 1 << ", blocks of " << other.block << ", "
          << twoheads::detail::counted(other.instances, "slot") << " a call, anchor " << twoheads::name(other.anchor)
          << ": " << twoheads::detail::counted(other.calls, "call") << ", price " << other.price << "\n";
  }

 private:
  /// The flags given that may be why.
  [[nodiscard]] std::string given() const {
    std::string words;
    for (const CLI::Option* option : options_)
      if (option->count() > 0) words += (words.empty() ? " with " : " ") + option->get_name();
    return words;
  }

  bool choose_ = false;
  twoheads::Precision precision_ = twoheads::Precision::own;
  twoheads::Precision scores_ = twoheads::Precision::own;
  double largest_logit_ = 0;
  double call_cost_ = 0;
  double row_cost_ = 0;
  std::vector<CLI::Option*> options_;
};

}  // namespace programs
