#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/codec/score_bound.hpp>
#include <twoheads/exec/call_columns.hpp>
#include <twoheads/exec/plan_choice.hpp>
#include <twoheads/plan/call_rows.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// Block lengths to look at on one oracle, longest first, and whether they are all that there are.
///
///   Laws     all of them where plans are counted by closed forms (full masks; causal ones on causal oracles), up to
///            65536, and where there are up to 512 of them and few documents. Otherwise those that fill the row counts
///            that a call may have, those that cut the input into equal blocks, those of whole windows, and others
///            between, evenly spread by their ratios: 256 of these, down to 12 where counting a plan takes long.
///   Corner   a sample is drawn of whole calls: its error depends on the blocks
class BlockLengths {
 public:
  BlockLengths(const PlanProblem& problem, const OracleLimits& oracle) : most_(oracle.rows - 1) {
    const Index whole = std::max(problem.tokens, problem.keys);
    const Mask mask = problem.mask.simplified(problem.tokens);
    if (problem.sampling.samples > 0) {
      lengths_.push_back(most_);
      return;
    }
    const bool closed =
        mask.kind == MaskKind::full || (mask.kind == MaskKind::causal && oracle.kind == OracleKind::causal);
    // Beyond, all of a head is in one slot: halved triangles have every token in a tile of each level.
    // Few queries may stand after all keys of a causal oracle.
    const bool after = mask.kind == MaskKind::full && oracle.kind == OracleKind::causal;
    const Index levels = after    ? 2
                         : closed ? 1
                                  : 3 + static_cast<Index>(std::bit_width(static_cast<std::uint64_t>(whole)));
    if (most_ / levels > whole) most_ = whole * levels;
    // What counting one plan takes, in tiles: short documents are looked at one by one, triangles are halved.
    const auto documents = static_cast<Index>(mask.ends.size());
    const bool halved = !closed && oracle.kind == OracleKind::plain;
    const Index work = documents == 0 ? (halved ? 8 * most_ : 16) : halved ? 2 * whole : 16 * documents;
    complete_ = closed ? most_ <= 65536 : most_ <= 512 && work <= most_work / most_;
    if (complete_) {
      for (Index length = most_; length >= 1; --length) lengths_.push_back(length);
      return;
    }
    const Index budget = std::clamp<Index>(most_work / work, 12, 256);
    close_ = budget / 16;
    std::vector<Index> calls = oracle.row_counts;
    if (calls.empty()) calls.push_back(oracle.rows);
    for (const Index rows : calls) add_for_calls(rows - 1, mask, whole);
    const double step = std::pow(static_cast<double>(most_), -1.0 / static_cast<double>(budget));
    double length = static_cast<double>(most_);
    for (Index i = 0; i < budget; ++i, length *= step) add(static_cast<Index>(length));
    std::sort(lengths_.rbegin(), lengths_.rend());
    lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
  }

  [[nodiscard]] const std::vector<Index>& lengths() const { return lengths_; }
  [[nodiscard]] bool complete() const { return complete_; }
  /// Where these are not all: how many on either side of the best so far to look at, too.
  [[nodiscard]] Index close() const { return close_; }

 private:
  void add(Index length) {
    if (length >= 1 && length <= most_) lengths_.push_back(length);
  }
  /// The longest blocks of calls of so many rows, of one length, and of whole windows with their sinks.
  void add_for_calls(Index most, const Mask& mask, Index whole) {
    most = std::min(most, most_);
    if (most < 1) return;
    add(most);
    const Index blocks = ceil_div(whole, most);
    for (Index more = 0; more < 3; ++more) add(ceil_div(whole, blocks + more));
    if (const auto reach = mask.reach(whole)) {
      const Index window = reach->left + reach->right + 1;
      if (window <= most) add(most / window * window);
      if (reach->sinks < most) add((most - reach->sinks) / window * window + reach->sinks);
      add(2 * std::min(reach->sinks, most_ / 2) - 1);
    }
  }

  static constexpr Index most_work = Index{1} << 21;

  Index most_;
  bool complete_ = true;
  Index close_ = 0;
  std::vector<Index> lengths_;
};

/// A plan of a problem, its calls cut.
struct KnownOption {
  PlanOption option;
  CallRows calls;  ///< of a layer and round
  Index rows = 0;
  Index bytes_in = 0;
  Index bytes_out = 0;

  /// Cheaper; else, at the same price, fewer rows, then fewer bytes, then the longer blocks.
  [[nodiscard]] bool better_than(const KnownOption& other) const {
    if (!same_price(other)) return option.price < other.option.price;
    if (rows != other.rows) return rows < other.rows;
    const Index bytes = bytes_in + bytes_out;
    const Index other_bytes = other.bytes_in + other.bytes_out;
    if (bytes != other_bytes) return bytes < other_bytes;
    return option.block > other.option.block;
  }
  [[nodiscard]] bool same_price(const KnownOption& other) const {
    return std::abs(option.price - other.option.price) <= 1e-12 * std::abs(other.option.price);
  }
};

/// A plan of a problem as far as it is known before its calls are cut: no price is below `bound`.
struct OpenOption {
  PlanOption option;
  double bound = 0;
  double rows_bound = 0;
  mutable std::optional<KnownOption> known = {};  ///< once its calls are cut
};

/// The plans of a problem on one oracle.
///
///   Laws     best() is as good as any of the blocks, anchors, heads and layers that it looks at: what is not cut into
///            calls has a bound above the price of the best
class OraclePlans {
 public:
  OraclePlans(const PlanProblem& problem, std::size_t number)
      : problem_(problem), limits_(problem.oracles[number]), number_(number), columns_(problem_, limits_) {
    limits_.require_valid();
    if (limits_.kind == OracleKind::kernel) throw LimitError("the kernel is no oracle: expected plain or causal");
    // Hidden keys may be in any call: padding, dead keys, codes.
    const double beside =
        nats_beside(limits_.precision, 2 * facts_of(problem_.scalar).unit_roundoff, true, limits_.rows);
    const double room = limits_.largest_score - beside;
    if (problem_.largest_logit ? *problem_.largest_logit > room : !(room > 0))
      throw LimitError(
          text(problem_.largest_logit ? text("logits reach ", *problem_.largest_logit, ", ") : std::string(),
               "the oracle keeps scores up to ", limits_.largest_score,
               ", of which anchors and hidden "
               "keys take ",
               beside, ": an oracle without that limit, or smaller queries, would do"));
    const BlockLengths blocks(problem_, limits_);
    // All numbers of heads and layers only where these are few: more slots a call are fewer calls.
    capacity_ = limits_.heads > most_capacity / limits_.layers ? most_capacity : limits_.heads * limits_.layers;
    all_parts_ = capacity_ <= 64 && capacity_ * static_cast<Index>(blocks.lengths().size()) <= 1 << 15;
    for (const Index block : blocks.lengths()) look(block);
    if (open_.empty()) throw LimitError(fault_);
    sort();
    look_closer(blocks);
  }

  [[nodiscard]] PlanRequest request_of(const PlanOption& option) const {
    PlanRequest request = request_of(option.block);
    request.oracle.heads = option.heads;
    request.oracle.layers = option.layers;
    request.anchor = option.anchor;
    request.packing = option.packing;
    return request;
  }

  template <class Allows>
  [[nodiscard]] std::optional<KnownOption> best(const Allows& allows) const {
    std::optional<KnownOption> found;
    for (const OpenOption& open : open_) {
      if (found && open.bound > found->option.price) break;
      if (!allows(open.option)) continue;
      // The same price at best, and more rows.
      if (found && open.bound >= found->option.price * (1 - 1e-11) &&
          open.rows_bound > static_cast<double>(found->rows))
        continue;
      if (!open.known) open.known = cut(open.option);
      if (!found || open.known->better_than(*found)) found = open.known;
    }
    return found;
  }

 private:
  [[nodiscard]] PlanRequest request_of(Index block) const {
    PlanRequest request{problem_.mask, problem_.tokens, problem_.keys, problem_.heads, problem_.layers, limits_};
    request.sampling = problem_.sampling;
    request.block = block;
    return request;
  }

  void sort() {
    std::sort(open_.begin(), open_.end(), [](const OpenOption& a, const OpenOption& b) {
      return a.bound != b.bound ? a.bound < b.bound : a.rows_bound < b.rows_bound;
    });
  }

  /// Looks at the blocks around the best so far, as long as that finds better ones.
  void look_closer(const BlockLengths& blocks) {
    std::vector<Index> looked_at = blocks.lengths();
    for (int times = 0; times < 3 && blocks.close() > 0; ++times) {
      const Index found = best([](const PlanOption&) { return true; })->option.block;
      std::size_t added = 0;
      for (Index block = found - blocks.close(); block <= found + blocks.close(); ++block) {
        if (block < 1 || block >= limits_.rows) continue;
        if (std::find(looked_at.begin(), looked_at.end(), block) != looked_at.end()) continue;
        looked_at.push_back(block);
        look(block);
        ++added;
      }
      if (added == 0) return;
      sort();
    }
  }

  /// Adds what may be done with blocks of one length.
  void look(Index block) {
    PlanRequest request = request_of(block);
    request.oracle.heads = request.oracle.layers = 1;
    std::optional<Plan> plan;
    try {
      plan.emplace(request);
    } catch (const LimitError& error) {
      fault_ = error.what();
      return;
    } catch (const SpecError& error) {  // such as counts beyond 64 bits
      fault_ = error.what();
      return;
    }
    const Index slots = std::min(plan->slots_per_layer(), capacity_);
    if (parts_.empty() || parts_slots_ != slots) {
      parts_slots_ = slots;
      parts_ = used_parts(limits_, slots, all_parts_);
      first_fit_.clear();
    }
    const std::vector<Anchor> anchors = anchors_at_hand(problem_, limits_);
    for (const Anchor anchor : anchors) {
      // Blocks of one length after the other fit alike: what was too wide for one is not asked for again.
      std::size_t& first = first_fit_[{plan->straight(), anchor, Codes::columns_for(plan->jobs_per_slot())}];
      for (std::size_t part = first; part < parts_.size(); ++part) {
        const std::string& fault = columns_.fault(plan->straight(), anchor, plan->jobs_per_slot(), parts_[part]);
        if (fault.empty())
          add(*plan, anchor, parts_[part]);
        else
          fault_ = fault;
        if (all_parts_) continue;
        first = part;
        if (fault.empty()) break;
      }
      if (plan->straight()) break;  // without a synthetic key there is no anchor
    }
  }

  void add(const Plan& plan, Anchor anchor, const UsedPart& part) {
    OpenOption open;
    PlanOption& option = open.option;
    option = {number_,     plan.block(), anchor,         columns_.packing(part.layers),
              part.layers, part.heads,   part.instances, plan.straight()};
    const Index rounds = problem_.layers * (plan.straight() ? 1 : planned_rounds(anchor));
    const Index calls = ceil_div(plan.slots_per_layer(), part.instances);
    option.calls = checked_product("the number of calls", rounds, calls);
    const auto all_calls = static_cast<double>(option.calls);
    const double slot_rows = static_cast<double>(plan.slot_rows()) * static_cast<double>(problem_.heads);
    // A call has no fewer rows than its slots on average, and prices of rows are convex.
    const double least = static_cast<double>(limits_.call_rows(1));
    const double rows =
        limits_.fixed_rows ? least : std::max(least, slot_rows / static_cast<double>(calls * part.instances));
    const CallCost& price = problem_.price;
    open.bound = all_calls * (price.fixed + (price.per_row + price.per_pair * rows) * rows) * (1 - 1e-12);
    open.rows_bound = all_calls * rows * (1 - 1e-12);
    open_.push_back(std::move(open));
  }

  /// The calls of an option, with its price.
  [[nodiscard]] KnownOption cut(const PlanOption& option) const {
    KnownOption known{option, {}, 0, 0, 0};
    PlanRequest request = request_of(option);
    const Index layers = problem_.sampling.samples > 0 ? problem_.layers : 1;
    for (Index layer = 0; layer < layers; ++layer) {
      request.sampling.layer = layer;
      const Plan plan(request);
      const CallRows rows = limits_.fixed_rows
                                ? CallRows{{limits_.rows, ceil_div(plan.slots_per_layer(), option.instances)}}
                                : call_rows(plan, option.instances);
      for (const auto& [count, calls] : rows) known.calls[count] += calls * (problem_.layers / layers);
      if (layer == 0) jobs_per_slot_ = plan.jobs_per_slot();
    }
    const Index rounds = option.straight ? 1 : planned_rounds(option.anchor);
    double price = 0;
    Index rows = 0;
    for (const auto& [count, calls] : known.calls) {
      price += static_cast<double>(calls) * problem_.price(count);
      rows += checked_product("the number of rows", calls, count);
    }
    known.option.price = price * static_cast<double>(rounds);
    known.rows = checked_product("the number of rows", rows, rounds);
    const Index bytes = problem_.scalar == Precision::float64 ? 8 : 4;
    const UsedPart part{option.layers, option.heads, option.instances};
    for (const CallKind kind : CallColumns::kinds(option.straight, option.anchor)) {
      const StackLayout stacked = columns_.stack(columns_.instance(kind, jobs_per_slot_), part);
      known.bytes_in += checked_product("the number of bytes", rows, bytes * stacked.width());
      known.bytes_out += checked_product("the number of bytes", rows, bytes * stacked.output_width());
    }
    return known;
  }

  /// More slots than any call carries.
  static constexpr Index most_capacity = Index{1} << 40;

  const PlanProblem& problem_;
  const OracleLimits& limits_;
  std::size_t number_;
  CallColumns columns_;
  Index capacity_ = 1;  ///< slots of a call, H' L'
  bool all_parts_ = false;
  Index parts_slots_ = 0;
  std::vector<UsedPart> parts_;
  std::map<std::tuple<bool, Anchor, Index>, std::size_t> first_fit_;
  std::vector<OpenOption> open_;
  std::string fault_ = "no block length has a plan";
  mutable Index jobs_per_slot_ = 1;
};

}  // namespace detail
}  // namespace twoheads
