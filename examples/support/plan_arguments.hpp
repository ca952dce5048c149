#pragma once

#include <cerrno>
#include <fstream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/one_query.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/print.hpp>
#include <twoheads/plan/svg.hpp>
#include <utility>
#include <vector>

#include "support/arguments.hpp"
#include "support/paper_method.hpp"
#include "support/progress.hpp"
#include "support/terminal.hpp"
#include "support/text_files.hpp"

namespace programs {

inline CLI::Option* add_anchor(CLI::App& app, twoheads::Anchor& anchor) {
  using twoheads::Anchor;
  return add_choice<Anchor>(
      app, "--anchor", anchor,
      {{"zero", Anchor::zero},
       {"mean-key", Anchor::mean_key},
       {"gibbs", Anchor::gibbs},
       {"adaptive", Anchor::adaptive}},
      std::string("how the synthetic token's logit is chosen (default ") + twoheads::name(anchor) + ")");
}

/// The flags that describe a plan, and the request that they make.
class PlanArguments {
 public:
  explicit PlanArguments(CLI::App& app, twoheads::Anchor default_anchor) {
    using twoheads::MaskKind;
    using twoheads::Packing;
    request_.anchor = default_anchor;
    add_choice<MaskKind>(app, "--mask", request_.mask.kind,
                         {{"full", MaskKind::full},
                          {"causal", MaskKind::causal},
                          {"window", MaskKind::window},
                          {"sinks", MaskKind::sinks},
                          {"band", MaskKind::band},
                          {"documents", MaskKind::documents}},
                         "which (query, key) pairs are visible")
        ->required();
    window_ = add_count(app, "--window", request_.mask.window, 1, "keys of a window, the query's own included, r");
    sinks_ = add_count(app, "--sinks", request_.mask.sinks, 0,
                       "first keys that stay visible, s (default 0); with --samples: that stay exact");
    left_ = add_count(app, "--left", request_.mask.left, 0, "keys before the query that a band shows");
    right_ = add_count(app, "--right", request_.mask.right, 0, "keys after the query that a band shows");
    lengths_ = add_counts(app, "--lengths", lengths_read_, 1, "tokens of each document");
    causal_documents_ = app.add_flag("--causal-documents", request_.mask.causal_documents,
                                     "inside a document, a query sees no later key");
    add_count(app, "--tokens", request_.tokens, 1, "queries, N")->required();
    rows_ = add_rows(app, request_.oracle.rows);
    add_counts(app, "--row-counts", request_.oracle.row_counts, 1,
               "the only row counts that a call may have, in increasing order; in place of --rows, which is the last");
    app.add_flag("--fixed-rows", request_.oracle.fixed_rows, "every call has exactly --rows rows");
    add_count(app, "--keys", request_.keys, 1, "keys of cross-attention, NK (default: the tokens)");
    add_count(app, "--heads", request_.heads, 1, "query heads of the model, H (default 1)");
    add_count(app, "--kv-heads", kv_heads_, 1, "key/value heads (default: as many as query heads)");
    add_count(app, "--layers", request_.layers, 1, "layers of the model, L (default 1)");
    add_count(app, "--oracle-heads", request_.oracle.heads, 1,
              "heads of the oracle that run instances, H' (default 1)");
    add_count(app, "--oracle-layers", request_.oracle.layers, 1, "layers of the oracle, L' (default 1)");
    add_choice<Packing>(app, "--packing", request_.packing,
                        {{"residual", Packing::residual}, {"identity", Packing::identity}},
                        "what carries instances past the oracle's other layers: its residual stream, or an identity "
                        "head more in each layer (default residual)");
    add_choice<Kind>(app, "--oracle", oracle_, {{"plain", Kind::plain}, {"causal", Kind::causal}},
                     "what a row of the oracle sees (default: plain for full, causal for the others)");
    add_choice<Method>(app, "--method", method_,
                       {{"stable", Method::stable}, {"paper", Method::paper}, {"strict", Method::strict}},
                       "construction: the library's, the paper's as printed, or the printed one with merge and layer "
                       "MLP by calls too (default stable)");
    anchor_ = add_anchor(app, request_.anchor);
    app.add_flag("--check", check_, "enumerate every visible pair and compare with the mask");
    samples_ = add_count(app, "--samples", request_.sampling.samples, 1,
                         "key blocks drawn at random for each query block, S; full or causal");
    near_ = add_count(app, "--near", request_.sampling.near, 0,
                      "with --samples: a query's last r keys stay exact, rounded up to whole blocks");
    add_file(app, "--svg", svg_, "draw the grid as a picture into this file");
    add_choice<GridWord>(app, "--grid", grid_,
                         {{"auto", GridWord::chosen}, {"ascii", GridWord::ascii}, {"utf8", GridWord::utf8}},
                         "characters of the printed grid (default auto: UTF-8 on a terminal of that locale)");
  }

  /// Adds the flag of queries that stand after others, for a program that plans such chunks.
  void add_past(CLI::App& app) {
    past_ = add_count(app, "--past", request_.past, 0,
                      "tokens before the first query, whose keys it may see: a chunk of a longer sequence (default 0)");
  }

  /// The request that the flags make, checked against each other. Its oracle has auto_rows where --rows auto was given.
  [[nodiscard]] twoheads::PlanRequest request() const {
    twoheads::PlanRequest request = request_;
    if (request.oracle.layers > 1) {
      // --oracle-heads counts the heads that run instances.
      if (request.packing == twoheads::Packing::identity && request.oracle.heads < twoheads::OracleLimits::unlimited)
        ++request.oracle.heads;
      if (request.packing == twoheads::Packing::residual) request.oracle.residual = true;
    }
    if (method_ != Method::stable && (check_ || !svg_.empty() || anchor_->count() > 0))
      throw ArgumentError(
          "--check, --svg and --anchor need --method stable: the printed sums overlap, have no cover and no anchor");
    const bool full = request.mask.kind == twoheads::MaskKind::full;
    read_rows(request.oracle);
    read_mask(request.mask);
    read_sampling(request);
    if (request.past > 0 && (method_ != Method::stable || samples_->count() > 0))
      throw ArgumentError("--past needs --method stable and takes no --samples: neither print nor sample has a past");
    if (request.past > 0 && request.mask.kind == twoheads::MaskKind::documents)
      throw ArgumentError("--mask documents takes no --past");
    if (request.past > 0 && request.oracle.rows == auto_rows)
      throw ArgumentError("--rows auto measures whole inputs: it takes no --past");
    if (request.past > std::numeric_limits<Index>::max() - request.tokens)
      throw ArgumentError("--past", std::to_string(request.past), "no more than 64 bits hold with --tokens");
    const Index end = request.past + request.tokens;
    if (!full && request.keys > 0 && request.keys != end)
      throw ArgumentError("--keys", std::to_string(request.keys), "the number of tokens unless the mask is full");
    if (request.heads % kv_heads() != 0)
      throw ArgumentError("--kv-heads", std::to_string(kv_heads()),
                          "a divisor of --heads " + std::to_string(request.heads));
    if (request.keys == 0) request.keys = end;
    if (request.mask.kind == twoheads::MaskKind::documents && request.mask.ends.back() != request.tokens)
      throw ArgumentError("--lengths", std::to_string(request.mask.ends.back()) + " tokens together",
                          "as many as --tokens " + std::to_string(request.tokens));
    const bool chosen = request.oracle.rows == auto_rows;
    if (chosen && (request.sampling.samples > 0 || method_ != Method::stable))
      throw ArgumentError(
          "--rows auto looks for speed alone: it needs --method stable and no --samples, whose error depends on rows");
    const Index key_blocks = chosen ? request.keys : twoheads::ceil_div(request.keys, request.oracle.rows - 1);
    if (request.sampling.samples > key_blocks)
      throw ArgumentError("--samples", std::to_string(request.sampling.samples),
                          "1 to " + std::to_string(key_blocks) + ", the key blocks of calls of --rows " +
                              std::to_string(request.oracle.rows));
    const bool plain = oracle_ == Kind::plain || (oracle_ == Kind::own && full);
    request.oracle.kind = plain ? twoheads::OracleKind::plain : twoheads::OracleKind::causal;
    return request;
  }

  /// What --check finds, "exact" or a sentence; empty where it was not asked for.
  [[nodiscard]] std::string cover(const twoheads::Plan& plan) const {
    if (!check_) return "";
    Progress progress("cover");
    progress.begin(static_cast<double>(plan.query_blocks() * (plan.exact() ? 1 : plan.request().heads)));
    return twoheads::check_cover(plan, [&](Index) { progress.add(1); });
  }

  [[nodiscard]] Method method() const { return method_; }
  /// Whether --oracle was given, and --anchor.
  [[nodiscard]] bool chose_oracle() const { return oracle_ != Kind::own; }
  [[nodiscard]] bool chose_anchor() const { return anchor_->count() > 0; }

  /// Writes the picture that --svg asks for, if it does; throws std::runtime_error that names the file and the cause.
  void draw(const twoheads::Plan& plan) const {
    if (svg_.empty()) return;
    errno = 0;
    std::ofstream out(svg_, std::ios::binary);
    if (out) twoheads::write_svg(out, plan);
    // Closing writes what is still held back, so a full disk shows here at the latest.
    if (out.is_open()) out.close();
    if (out) return;
    throw unwritable("--svg", svg_);
  }

  /// How --grid and standard output have the grid drawn: colours on a terminal alone, unless NO_COLOR forbids them.
  [[nodiscard]] twoheads::GridStyle grid_style() const {
    const bool utf8 = grid_ == GridWord::utf8 || (grid_ == GridWord::chosen && terminal_takes_utf8());
    return {utf8, terminal_takes_colour()};
  }

  [[nodiscard]] Index kv_heads() const { return kv_heads_ > 0 ? kv_heads_ : request_.heads; }

 private:
  enum class Kind { own, plain, causal };
  enum class GridWord { chosen, ascii, utf8 };

  /// Holds --rows, --row-counts and --fixed-rows against each other.
  void read_rows(twoheads::OracleLimits& oracle) const {
    const std::vector<Index>& counts = oracle.row_counts;
    if (rows_->count() == 0 && counts.empty()) throw ArgumentError::missing("--rows or --row-counts is required");
    const bool chosen = rows_->count() > 0 && oracle.rows == auto_rows;
    if (chosen && (oracle.fixed_rows || !counts.empty()))
      throw ArgumentError("--rows auto chooses among all row counts: it takes no --fixed-rows and no --row-counts");
    if ((oracle.fixed_rows || !counts.empty()) && method_ != Method::stable)
      throw ArgumentError("--fixed-rows and --row-counts need --method stable: the printed calls are not padded");
    if (counts.empty()) return;
    for (std::size_t i = 1; i < counts.size(); ++i)
      if (counts[i] <= counts[i - 1])
        throw ArgumentError("--row-counts", std::to_string(counts[i - 1]) + "," + std::to_string(counts[i]),
                            "increasing counts");
    if (counts.back() < 2) throw ArgumentError("--row-counts", std::to_string(counts.back()), "one of 2 or more");
    if (rows_->count() > 0 && oracle.rows != counts.back())
      throw ArgumentError("--rows", std::to_string(oracle.rows),
                          "the last of --row-counts, " + std::to_string(counts.back()));
    if (oracle.fixed_rows && counts.size() > 1)
      throw ArgumentError("--fixed-rows is one row count, --row-counts are several");
    oracle.rows = counts.back();
  }

  /// Holds the flags of a mask against its kind: what a kind needs must be there, what it cannot use must not.
  void read_mask(twoheads::Mask& mask) const {
    using twoheads::MaskKind;
    const std::string kind = twoheads::name(mask.kind);
    const auto check = [&](const CLI::Option* option, bool needed, bool taken) {
      if (needed && option->count() == 0) throw ArgumentError("--mask " + kind + " needs " + option->get_name());
      if (!taken && option->count() > 0) throw ArgumentError("--mask " + kind + " takes no " + option->get_name());
    };
    const bool windowed = mask.kind == MaskKind::window || mask.kind == MaskKind::sinks;
    const bool band = mask.kind == MaskKind::band;
    const bool documents = mask.kind == MaskKind::documents;
    check(window_, windowed, windowed);
    // The exact part of a sampled plan may have sinks.
    check(sinks_, false, mask.kind == MaskKind::sinks || samples_->count() > 0);
    check(left_, false, band);
    check(right_, false, band);
    if (band && left_->count() + right_->count() == 0) throw ArgumentError("--mask band needs --left or --right");
    check(lengths_, documents, documents);
    check(causal_documents_, false, documents);
    if (!documents) return;
    try {
      mask = twoheads::Mask::documents(lengths_read_, mask.causal_documents);
    } catch (const twoheads::Error& error) {
      throw ArgumentError(std::string("--lengths: ") + error.what());
    }
  }

  void read_sampling(twoheads::PlanRequest& request) const {
    if (near_->count() > 0 && samples_->count() == 0) throw ArgumentError("--near needs --samples");
    if (samples_->count() == 0 || request.mask.kind == twoheads::MaskKind::sinks) return;
    request.sampling.sinks = std::exchange(request.mask.sinks, 0);
  }

  twoheads::PlanRequest request_;
  Kind oracle_ = Kind::own;
  CLI::Option* rows_ = nullptr;
  CLI::Option* anchor_ = nullptr;
  CLI::Option* window_ = nullptr;
  CLI::Option* sinks_ = nullptr;
  CLI::Option* left_ = nullptr;
  CLI::Option* right_ = nullptr;
  CLI::Option* lengths_ = nullptr;
  CLI::Option* samples_ = nullptr;
  CLI::Option* past_ = nullptr;
  CLI::Option* near_ = nullptr;
  CLI::Option* causal_documents_ = nullptr;
  std::vector<Index> lengths_read_;
  Index kv_heads_ = 0;
  Method method_ = Method::stable;
  bool check_ = false;
  std::string svg_;
  GridWord grid_ = GridWord::chosen;
};

/// The plan of a request; what a plan refuses is a fault of the flags.
[[nodiscard]] inline twoheads::Plan make_plan(const twoheads::PlanRequest& request) {
  try {
    return twoheads::Plan(request);
  } catch (const twoheads::Error& error) {
    throw ArgumentError(error.what());
  }
}

/// The plan by which one query is evaluated in place of its own; none of several queries.
[[nodiscard]] inline std::optional<twoheads::Plan> one_query_plan(const twoheads::PlanRequest& request,
                                                                  Index kv_heads) {
  if (request.tokens != 1) return std::nullopt;
  return make_plan(twoheads::one_query_request(request, kv_heads));
}

/// Prints a plan and, where one query is evaluated by another, what that one comes to.
inline void print_evaluated(std::ostream& out, const twoheads::Plan& plan,
                            const std::optional<twoheads::Plan>& one_query, const twoheads::GridStyle& style) {
  twoheads::print(out, plan, style);
  if (!one_query || one_query->calls() == plan.calls()) return;
  using twoheads::detail::counted;
  out << "  one query  as " << counted(one_query->tokens(), "row") << " of each key/value head over "
      << counted(one_query->keys(), "key") << ": " << counted(one_query->calls(), "call") << " and "
      << counted(one_query->jobs(), "job") << " instead\n";
}

}  // namespace programs
