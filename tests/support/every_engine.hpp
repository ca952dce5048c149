#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <map>
#include <sstream>
#include <string>

#include "support/instances.hpp"

/// Rows of the oracle that small inputs are cut into calls of.
constexpr twoheads::Index small_rows = 5;

/// Calls run(engine, attend) with direct evaluation, the kernel (with blocks of its own choice and of two queries) and,
/// where `oracle` says so, the grid of calls on a plain and on a causal oracle of small_rows rows.
template <class S, class Run>
void on_every_engine(const Run& run, bool oracle = true) {
  using namespace twoheads;
  {
    SCOPED_TRACE("direct");
    DirectAttention<S> direct;
    run("direct", direct);
  }
  for (const Index rows : {0, 2}) {
    SCOPED_TRACE(detail::text("kernel, blocks of ", rows, " queries"));
    KernelOptions options;
    options.rows = rows;
    KernelAttention<S> kernel(options);
    run("kernel", kernel);
  }
  if (!oracle) return;
  for (const OracleKind kind : {OracleKind::plain, OracleKind::causal}) {
    SCOPED_TRACE(detail::text(name(kind), " oracle"));
    OracleLimits limits;
    limits.kind = kind;
    limits.rows = small_rows;
    SmallTransformer<S> small(limits);
    GridAttention<SmallTransformer<S>> grid(small);
    run("oracle", grid);
  }
}

/// A NaN counts as infinite, which a maximum might drop.
[[nodiscard]] inline double larger_error(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<double>::infinity() : std::max(a, b);
}

/// The largest errors found, by group and engine, to be printed.
class LargestErrors {
 public:
  void note(const std::string& group, const std::string& engine, double error) {
    double& most = most_[group][engine];
    most = larger_error(most, error);
  }

  /// A table in Markdown.
  [[nodiscard]] std::string text(const std::string& title) const {
    std::ostringstream out;
    out << "| " << title << " | direct | kernel | oracle |\n| --- | --- | --- | --- |\n" << std::setprecision(2);
    for (const auto& [group, engines] : most_) {
      out << "| " << group << " |";
      for (const char* engine : {"direct", "kernel", "oracle"}) {
        const auto found = engines.find(engine);
        if (found == engines.end())
          out << " - |";
        else
          out << " " << found->second << " |";
      }
      out << "\n";
    }
    return out.str();
  }

 private:
  std::map<std::string, std::map<std::string, double>> most_;
};
