#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <twoheads/base/errors.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/exec/plan_choice.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/packing.hpp>
#include <vector>

namespace twoheads::detail {

/// Heads and layers of an oracle that a plan uses.
struct UsedPart {
  Index layers = 1;
  Index heads = 1;
  Index instances = 1;
};

/// What calls of an oracle look like for a problem: their columns, and whether the oracle takes them.
class CallColumns {
 public:
  CallColumns(const PlanProblem& problem, const OracleLimits& oracle) : problem_(problem), oracle_(oracle) {}

  [[nodiscard]] InstanceLayout instance(CallKind kind, Index jobs_per_slot) const {
    InstanceLayout found{kind, problem_.encoding, problem_.head_dim, problem_.value_dim, problem_.input_width};
    found.code_cols = Codes::columns_for(jobs_per_slot);
    found.anchor_cols = anchor_cols(oracle_.precision);
    found.checked = problem_.checksums;
    return found;
  }

  [[nodiscard]] StackLayout stack(const InstanceLayout& instance, const UsedPart& part) const {
    OracleLimits used = oracle_;
    used.heads = part.heads;
    used.layers = part.layers;
    return StackLayout(used, packing(part.layers), instance.width(), instance.answer_cols(), oracle_.rows,
                       part.instances);
  }

  /// The only packing that several layers of the oracle take; a single layer has nothing to carry.
  [[nodiscard]] Packing packing(Index layers) const {
    return oracle_.residual || layers == 1 ? Packing::residual : Packing::identity;
  }

  /// The calls of a round, as OracleEngine makes them.
  [[nodiscard]] static std::vector<CallKind> kinds(bool straight, Anchor anchor) {
    const CallKind first = first_call(straight, anchor);
    return first == CallKind::values_and_keys ? std::vector{first, CallKind::weight} : std::vector{first};
  }

  /// What of the oracle is too small for a call, or an empty text; asked for many blocks, so it is remembered.
  [[nodiscard]] const std::string& fault(bool straight, Anchor anchor, Index jobs_per_slot, const UsedPart& part) {
    const Index codes = Codes::columns_for(jobs_per_slot);
    const auto key = std::tuple(straight, anchor, codes, part.layers, part.heads, part.instances);
    const auto found = faults_.find(key);
    if (found != faults_.end()) return found->second;
    std::string fault;
    for (const CallKind kind : kinds(straight, anchor))
      if (fault.empty()) fault = fault_of(instance(kind, jobs_per_slot), part);
    return faults_.emplace(key, fault).first->second;
  }

 private:
  [[nodiscard]] std::string fault_of(const InstanceLayout& instance, const UsedPart& part) const {
    // Asked for many parts: an oracle without limits needs no layout.
    const Index columns = std::min({oracle_.width, oracle_.key_cols, oracle_.value_cols});
    if (columns == OracleLimits::unlimited && oracle_.largest_score == std::numeric_limits<double>::infinity())
      return {};
    return call_fault(instance, stack(instance, part), oracle_);
  }

  const PlanProblem& problem_;
  const OracleLimits& oracle_;
  std::map<std::tuple<bool, Anchor, Index, Index, Index, Index>, std::string> faults_;
};

/// Heads and layers that are worth a look, one for each number of slots that a call may carry: most slots first.
[[nodiscard]] inline std::vector<UsedPart> used_parts(const OracleLimits& oracle, Index most_slots, bool all) {
  std::map<Index, UsedPart> found;
  const Index most_heads = std::min(oracle.heads, most_slots + 1);
  const auto look = [&](Index layers, Index heads) {
    const bool identity = layers > 1 && !oracle.residual;
    if (identity && heads < 2) return;
    const Index per_layer = identity ? heads - 1 : heads;
    const Index slots = per_layer > most_slots / layers ? most_slots : std::min(per_layer * layers, most_slots);
    found.try_emplace(slots, UsedPart{layers, heads, slots});
  };
  const Index most_layers = std::min(oracle.layers, most_slots);
  // Fewer layers come first, and all heads but where there are few: any number below may be what fits the width.
  for (Index layers = 1; layers <= most_layers;
       layers = all || layers < 64 ? layers + 1 : std::max(layers + 1, most_layers)) {
    look(layers, oracle.heads);
    for (Index heads = most_heads; heads >= 1; heads = all || heads <= 64 ? heads - 1 : heads * 7 / 8)
      look(layers, heads);
  }
  std::vector<UsedPart> parts;
  for (auto part = found.rbegin(); part != found.rend(); ++part) parts.push_back(part->second);
  return parts;
}

}  // namespace twoheads::detail
