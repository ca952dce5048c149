#pragma once

#include <cstdint>
#include <string>
#include <twoheads/model/random.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <vector>

#include "support/instances.hpp"
#include "support/naive.hpp"
#include "support/sanitized.hpp"

/// Tasks of the paper's constructions for all masks, and models and tokens for them.
namespace paper_tasks {

using namespace twoheads;

template <class S>
using Counted = CountingOracle<SmallTransformer<S>>;

/// Whether a query sees a key, by Definitions 2.1 and 2.3 to 2.5.
inline naive::Visible sees(const Mask& mask) {
  return [mask](Index i, Index j) {
    if (mask.kind == MaskKind::full) return true;
    if (mask.kind == MaskKind::causal) return j <= i;
    const bool near = i - mask.window + 1 <= j && j <= i;
    return near || (mask.kind == MaskKind::sinks && j < mask.sinks && j <= i);
  };
}

inline OracleLimits limits_of(const Mask& mask, Index rows, Index heads = 1) {
  OracleLimits limits;
  limits.kind = mask.kind == MaskKind::full ? OracleKind::plain : OracleKind::causal;
  limits.rows = rows;
  limits.heads = heads;
  return limits;
}

inline PaperTask task_of(const Mask& mask, Index tokens, Index rows, Index heads = 1, Index oracle_heads = 1) {
  return {mask, tokens, 0, heads, 1, limits_of(mask, rows, oracle_heads)};
}

/// Tasks of all masks; no length is special to all of them.
inline std::vector<PaperTask> all_tasks() {
  std::vector<PaperTask> tasks;
  for (const Index n : {1, 2, 7, 15, 16, 33, 61}) {
    for (const Index rows : {2, 3, 6, 16, 17, 40, 70}) {
      if (n > 33 && (rows < 4 || sanitized)) continue;
      if (sanitized && rows > 17) continue;
      tasks.push_back(task_of(Mask::full(), n, rows));
      tasks.push_back(task_of(Mask::causal(), n, rows));
      for (const Index r : {1, 2, 5, 9}) {
        if (r >= rows - 1) continue;
        tasks.push_back(task_of(Mask::sliding_window(r), n, rows));
        for (const Index s : {0, 1, 3, 10})
          if (r + s <= rows - 1) tasks.push_back(task_of(Mask::window_and_sinks(r, s), n, rows));
      }
    }
  }
  return tasks;
}

inline std::string say(const PaperTask& task) {
  return detail::text(name(task.mask.kind), ", r ", task.mask.window, ", s ", task.mask.sinks, ", N ", task.tokens,
                      ", NK ", task.key_count(), ", R ", task.oracle.rows, ", H ", task.heads, ", H' ",
                      task.oracle.heads);
}

inline Model<double> model_of(const PaperTask& task, double logits = 1.0) {
  Model<double> model =
      random_model<double>(paper_layer(task.layers, 3 * task.heads, task.heads, task.mask, MlpKind::none, 0), 7);
  for (LayerWeights<double>& layer : model.layers) layer.attention.wq *= logits;
  return model;
}

inline Matrix<double> tokens_of(Index rows, Index width, std::uint64_t seed = 11) {
  return Random(seed).matrix<double>(rows, width);
}

}  // namespace paper_tasks
