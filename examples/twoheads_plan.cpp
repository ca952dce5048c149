// The grid before anything runs: tiles, jobs, calls and rounds of a mask on an oracle.

#include <iostream>
#include <nlohmann/json.hpp>
#include <twoheads/plan/print.hpp>

#include "support/plan_arguments.hpp"

int main(int argc, char** argv) {
  CLI::App app("Plans the oracle calls that evaluate attention over N tokens, and draws their grid.", "twoheads_plan");
  programs::PlanArguments arguments(app, twoheads::Anchor::mean_key);
  programs::Index seed = 0;
  bool json = false;
  programs::add_count(app, "--seed", seed, 0, "seed of a sampled plan; exact plans have nothing to draw");
  app.add_flag("--json", json, "print one JSON object and nothing else");

  return programs::run(app, argc, argv, [&] {
    const twoheads::Plan plan = programs::make_plan(arguments.request());
    const std::string cover = arguments.cover(plan);
    arguments.draw(plan);
    if (json) {
      nlohmann::ordered_json result{{"calls", plan.calls()},         {"rounds", plan.rounds()},
                                    {"jobs", plan.jobs()},           {"tiles", plan.tiles()},
                                    {"rows_used", plan.rows_used()}, {"exact", plan.exact()},
                                    {"theorem", plan.theorem()},     {"paper_calls", plan.paper_calls()}};
      if (!cover.empty()) result["cover"] = cover;
      std::cout << result.dump() << "\n";
    } else {
      twoheads::print(std::cout, plan);
      if (!cover.empty()) std::cout << "  cover      " << cover << "\n";
    }
  });
}
