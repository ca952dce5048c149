// The grid before anything runs: tiles, jobs, calls and rounds of a mask on an oracle.

#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "support/choose_arguments.hpp"
#include "support/engine_word.hpp"
#include "support/plan_arguments.hpp"
#include "support/rows_choice.hpp"
#include "support/scaling_arguments.hpp"

int main(int argc, char** argv) {
  CLI::App app("Plans the oracle calls that evaluate attention over N tokens, and draws their grid.", "twoheads_plan");
  programs::PlanArguments arguments(app, twoheads::Anchor::mean_key);
  arguments.add_past(app);
  programs::ChooseArguments choose(app);
  programs::ScalingArguments scaling(app);
  programs::EngineWord engine = programs::EngineWord::oracle;
  programs::Index seed = 1;
  programs::Index head_dim = 64;
  bool json = false;
  programs::add_count(app, "--seed", seed, 0, "seed of a sampled plan (default 1); exact plans have nothing to draw");
  programs::add_count(app, "--head-dim", head_dim, 1,
                      "columns of a head that --rows auto measures with, --choose and --ranks count (default 64)");
  programs::add_choice<programs::EngineWord>(
      app, "--engine", engine, {{"oracle", programs::EngineWord::oracle}, {"kernel", programs::EngineWord::kernel}},
      "what the plan is for: calls of an oracle, or our own kernel in blocks of --rows (default oracle)");
  app.add_flag("--json", json, "print one JSON object and nothing else");

  programs::add_examples(app, {"twoheads_plan --mask causal --tokens 1000 --rows 129",
                               "twoheads_plan --mask sinks --window 256 --sinks 4 --tokens 100000 --rows 513 --json",
                               "twoheads_plan --mask causal --tokens 64 --rows 17 --svg grid.svg"});
  return programs::run(app, argc, argv, [&] {
    choose.require_fit(arguments);
    scaling.require_fit(arguments);
    const bool kernel = engine == programs::EngineWord::kernel;
    if (kernel && (arguments.method() != programs::Method::stable || choose.chooses()))
      throw programs::ArgumentError("--engine kernel makes no calls: it takes no --method and --choose");
    if (arguments.method() != programs::Method::stable) {
      const programs::PaperFigures paper = programs::paper_figures(arguments.request(), arguments.method());
      if (!json) return programs::print(std::cout, paper);
      // The print's sums overlap and are subtracted from each other: there is no cover to check.
      const nlohmann::ordered_json result{{"calls", paper.calls},         {"rounds", paper.rounds},
                                          {"jobs", paper.jobs},           {"tiles", paper.tiles},
                                          {"rows_used", paper.rows_used}, {"exact", paper.exact},
                                          {"theorem", paper.theorem},     {"paper_calls", paper.calls}};
      std::cout << result.dump() << "\n";
      return;
    }
    twoheads::PlanRequest request = arguments.request();
    request.sampling.seed = static_cast<std::uint64_t>(seed);
    // A named oracle's tiles are those that the kernel takes, as in twoheads_simulate.
    if (kernel && !arguments.chose_oracle()) request.oracle.kind = twoheads::OracleKind::kernel;
    constexpr twoheads::Index widest = 1 << 20;
    if (head_dim > widest)
      throw programs::ArgumentError("--head-dim", std::to_string(head_dim), "1 to " + std::to_string(widest));
    twoheads::AttentionSpec spec;
    spec.head_dim = spec.value_dim = head_dim;
    const auto choice = programs::choose_rows_if_auto<float>(request, spec, kernel);
    const std::optional<twoheads::PlanChoice> chosen = choose.choice(arguments, request, head_dim);
    if (chosen && request.past > 0) throw programs::ArgumentError("--choose plans whole inputs: it takes no --past");
    if (chosen) request = chosen->request;
    const twoheads::Plan plan = programs::make_plan(request);
    const std::string cover = arguments.cover(plan);
    const auto figures = scaling.figures(plan, arguments.kv_heads(), head_dim);
    // Ranks share a query as it is.
    const auto one_query = figures ? std::nullopt : programs::one_query_plan(request, arguments.kv_heads());
    const twoheads::Plan& evaluated = one_query ? *one_query : plan;
    const twoheads::Index calls = kernel ? 0 : evaluated.calls();
    const twoheads::Index rounds = kernel ? 0 : evaluated.rounds();
    arguments.draw(plan);
    if (json) {
      nlohmann::ordered_json result{{"calls", calls},
                                    {"rounds", rounds},
                                    {"jobs", evaluated.jobs()},
                                    {"tiles", evaluated.tiles()},
                                    {"rows_used", evaluated.rows_used()},
                                    {"exact", evaluated.exact()},
                                    {"theorem", evaluated.theorem()},
                                    {"paper_calls", nullptr}};
      if (const auto paper = plan.paper_calls()) result["paper_calls"] = *paper;
      if (!cover.empty()) result["cover"] = cover;
      if (chosen) programs::ChooseArguments::add(result, *chosen);
      if (choice) result["rows"] = request.oracle.rows;
      if (choice) result["rows_reason"] = choice->reason();
      if (figures) programs::ScalingArguments::add(result, *figures);
      std::cout << result.dump() << "\n";
    } else {
      programs::print_evaluated(std::cout, plan, one_query, arguments.grid_style());
      if (!cover.empty()) std::cout << "  cover      " << cover << "\n";
      if (choice) std::cout << "  rows       " << choice->reason() << "\n";
      if (chosen) programs::ChooseArguments::print(std::cout, *chosen);
      if (figures) programs::ScalingArguments::print(std::cout, *figures);
    }
  });
}
