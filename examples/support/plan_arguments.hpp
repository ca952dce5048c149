#pragma once

#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>

#include "support/arguments.hpp"

namespace programs {

inline CLI::Option* add_anchor(CLI::App& app, twoheads::Anchor& anchor) {
  using twoheads::Anchor;
  return add_choice<Anchor>(app, "--anchor", anchor,
                            {{"zero", Anchor::zero},
                             {"mean-key", Anchor::mean_key},
                             {"gibbs", Anchor::gibbs},
                             {"adaptive", Anchor::adaptive}},
                            {}, "how the synthetic token's logit is chosen");
}

inline CLI::Option* add_rows(CLI::App& app, Index& rows) {
  const auto read = [&rows](const std::string& text) {
    if (text == "auto") throw NotBuiltYet("--rows auto");
    rows = read_count("--rows", text, 2);
  };
  return app
      .add_option_function<std::string>("--rows", read, "all rows that a call may have, the synthetic one included")
      ->type_name("INT");
}

/// The flags that describe a plan, and the request that they make.
class PlanArguments {
 public:
  explicit PlanArguments(CLI::App& app, twoheads::Anchor default_anchor) {
    using twoheads::MaskKind;
    request_.anchor = default_anchor;
    add_choice<MaskKind>(app, "--mask", request_.mask.kind, {{"full", MaskKind::full}, {"causal", MaskKind::causal}},
                         {"window", "sinks", "band", "documents"}, "which (query, key) pairs are visible")
        ->required();
    add_count(app, "--tokens", request_.tokens, 1, "queries, N")->required();
    add_rows(app, request_.oracle.rows)->required();
    add_count(app, "--keys", request_.keys, 1, "keys of cross-attention, NK (default: the tokens)");
    add_count(app, "--heads", request_.heads, 1, "query heads of the model, H (default 1)");
    add_count(app, "--kv-heads", kv_heads_, 1, "key/value heads (default: as many as query heads)");
    add_count(app, "--layers", request_.layers, 1, "layers of the model, L (default 1)");
    add_count(app, "--oracle-heads", request_.oracle.heads, 1, "heads of the oracle, H' (default 1)");
    add_count(app, "--oracle-layers", request_.oracle.layers, 1,
              "layers of the oracle, L' (default 1; more: not built yet)");
    add_choice<Kind>(app, "--oracle", oracle_, {{"plain", Kind::plain}, {"causal", Kind::causal}}, {},
                     "what a row of the oracle sees (default: plain for full, causal for causal)");
    add_choice<int>(app, "--method", method_, {{"stable", 0}}, {"paper"}, "construction (default stable)");
    add_anchor(app, request_.anchor);
    app.add_flag("--check", check_, "enumerate every visible pair and compare with the mask");
    add_later(app, {"--window", "--sinks", "--left", "--right", "--lengths", "--causal-documents", "--packing",
                    "--samples", "--near", "--ranks", "--svg"});
  }

  /// The request that the flags make, checked against each other.
  [[nodiscard]] twoheads::PlanRequest request() const {
    twoheads::PlanRequest request = request_;
    if (request.oracle.layers > 1) throw NotBuiltYet("--oracle-layers above 1");
    const bool causal = request.mask.kind == twoheads::MaskKind::causal;
    if (causal && oracle_ == Kind::plain) throw NotBuiltYet("--mask causal with --oracle plain");
    if (causal && request.keys > 0 && request.keys != request.tokens)
      throw ArgumentError("--keys", std::to_string(request.keys), "the number of tokens where the mask is causal");
    if (request.heads % kv_heads() != 0)
      throw ArgumentError("--kv-heads", std::to_string(kv_heads()),
                          "a divisor of --heads " + std::to_string(request.heads));
    if (request.keys == 0) request.keys = request.tokens;
    request.oracle.kind =
        causal || oracle_ == Kind::causal ? twoheads::OracleKind::causal : twoheads::OracleKind::plain;
    return request;
  }

  /// What --check finds, "exact" or a sentence; empty where it was not asked for.
  [[nodiscard]] std::string cover(const twoheads::Plan& plan) const {
    return check_ ? twoheads::check_cover(plan) : "";
  }

  [[nodiscard]] Index kv_heads() const { return kv_heads_ > 0 ? kv_heads_ : request_.heads; }

 private:
  enum class Kind { own, plain, causal };

  twoheads::PlanRequest request_;
  Kind oracle_ = Kind::own;
  Index kv_heads_ = 0;
  int method_ = 0;
  bool check_ = false;
};

/// The plan of a request; what a plan refuses is a fault of the flags.
[[nodiscard]] inline twoheads::Plan make_plan(const twoheads::PlanRequest& request) {
  try {
    return twoheads::Plan(request);
  } catch (const twoheads::Error& error) {
    throw ArgumentError(error.what());
  }
}

}  // namespace programs
