#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <queue>
#include <span>
#include <tuple>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/sort.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/tile.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Rows of a sequence that follow each other and belong to the same rank.
struct RowShare {
  Rows rows;        ///< positions in the sequence
  Index rank = 0;   ///< whose they are
  Index place = 0;  ///< of the first of them among the rank's own rows, which lie in the order of the sequence
};

/// Which rank has which rows of a sequence.
///
///   Laws     every row has one rank; a rank's own rows are numbered in the order of the sequence
class RowShares {
 public:
  /// `ends` and `owners`: the positions after units of rows, rising, and the ranks that they belong to.
  ///
  ///   Throws   SpecError for units that are empty or of no such rank
  RowShares(std::span<const Index> ends, std::span<const Index> owners, Index ranks)
      : sizes_(static_cast<std::size_t>(std::max<Index>(ranks, 0)), 0) {
    if (ranks < 1) throw SpecError(detail::text("rows are shared by ", ranks, " ranks, expected 1 or more"));
    if (ends.empty() || ends.size() != owners.size())
      throw SpecError(detail::text("there are ", ends.size(), " units of rows and ", owners.size(),
                                   " owners, expected 1 or more of each, and as many"));
    Index begin = 0;
    for (std::size_t unit = 0; unit < ends.size(); ++unit) {
      const Index owner = owners[unit];
      if (ends[unit] <= begin || owner < 0 || owner >= ranks)
        throw SpecError(detail::text("unit ", unit, " has rows ", begin, "..", ends[unit] - 1, " of rank ", owner,
                                     ", expected 1 row or more, and one of ", ranks, " ranks"));
      Index& size = sizes_[static_cast<std::size_t>(owner)];
      if (!shares_.empty() && shares_.back().rank == owner)
        shares_.back().rows.end = ends[unit];
      else
        shares_.push_back({{begin, ends[unit]}, owner, size});
      size += ends[unit] - begin;
      begin = ends[unit];
    }
  }

  [[nodiscard]] Index ranks() const { return static_cast<Index>(sizes_.size()); }  ///< how many there are
  [[nodiscard]] Index rows() const { return shares_.back().rows.end; }             ///< of the sequence
  /// Rows of one rank, 0..ranks() - 1.
  [[nodiscard]] Index size(Index rank) const {
    TWOHEADS_ASSERT(rank >= 0 && rank < ranks());
    return sizes_[static_cast<std::size_t>(rank)];
  }
  /// All rows, in order; neighbours differ in rank.
  [[nodiscard]] const std::vector<RowShare>& shares() const& { return shares_; }
  void shares() const&& = delete;  // a loop over them would outlive them

  /// Calls visit(share) for what the ranks have of a range of positions, in order.
  template <class Visit>
  void for_each_share(Rows positions, Visit&& visit) const {
    TWOHEADS_ASSERT(positions.begin >= 0 && positions.end <= rows());
    auto share = std::upper_bound(shares_.begin(), shares_.end(), positions.begin,
                                  [](Index position, const RowShare& s) { return position < s.rows.end; });
    for (; share != shares_.end() && share->rows.begin < positions.end; ++share) {
      const Rows rows{std::max(share->rows.begin, positions.begin), std::min(share->rows.end, positions.end)};
      if (!rows.empty()) visit(RowShare{rows, share->rank, share->place + rows.begin - share->rows.begin});
    }
  }
  /// The same for the whole sequence and one rank.
  template <class Visit>
  void for_each_own(Index rank, Visit&& visit) const {
    for (const RowShare& share : shares_)
      if (share.rank == rank) visit(share);
  }

 private:
  std::vector<RowShare> shares_;
  std::vector<Index> sizes_;
};

/// Rows shared in order, as many to each rank or the first ones one more: of a memory that is not the queries'.
[[nodiscard]] inline RowShares share_evenly(Index rows, Index ranks) {
  std::vector<Index> ends;
  std::vector<Index> owners;
  for (Index rank = 0; rank < ranks; ++rank) {
    const Rows own = even_rows(rank, ranks, rows);
    if (own.empty()) continue;
    ends.push_back(own.end);
    owners.push_back(rank);
  }
  return RowShares(ends, owners, ranks);
}

namespace detail {

/// Rows that the tile kernel and products of rows take together: whole panels of any vector.
constexpr Index rows_of_a_kernel_atom = 128;

/// Counts the slots of query blocks of a plan, without a look at each of them.
class SlotCounter {
 public:
  explicit SlotCounter(const Plan& plan) : plan_(plan) {}

  /// Slots of one head of a query block; all heads of a block have as many.
  [[nodiscard]] Index slots(Index query_block) {
    Index found = 0;
    plan_.for_each_run(
        query_block, 0, [&](const SlotRun& run) { found += run.times * (run.others > 0 ? 2 : 1); }, memory_);
    return found;
  }

 private:
  const Plan& plan_;
  TriangleRuns memory_;
};

/// The end of the first query block from `next` on that ends `least` rows after `first` or later, and at which no call
/// is left half full, if the blocks before `next` leave none.
[[nodiscard]] inline Index part_end(const Plan& plan, Index next, Index first, Index least) {
  Index slots = 0;
  SlotCounter counter(plan);
  for (Index block = next; block < plan.query_blocks(); ++block) {
    if (plan.slots_per_call() > 1) slots += counter.slots(block) * plan.request().heads;
    const Index end = plan.queries_of(block).end;
    if (end - first >= least && slots % plan.slots_per_call() == 0) return end;
  }
  return plan.queries().end;
}

/// Pairs that a mask shows the queries of a range.
[[nodiscard]] inline double visible_pairs(const Mask& mask, Rows queries, Index keys) {
  const auto rows = static_cast<double>(queries.size());
  if (mask.kind == MaskKind::full) return rows * static_cast<double>(keys);
  if (mask.kind == MaskKind::causal) return rows * (static_cast<double>(queries.begin + queries.end) + 1) / 2;
  const auto seen = [&](Index query) {
    double pairs = 0;
    mask.for_each_range(query, keys, [&](Rows range) { pairs += static_cast<double>(range.size()); });
    return pairs;
  };
  // What a window shows grows from the first query on, is the same for most, and shrinks before the last.
  const bool window = mask.kind == MaskKind::window || mask.kind == MaskKind::sinks || mask.kind == MaskKind::band;
  if (window && !queries.empty()) {
    const double first = seen(queries.begin);
    if (first == seen(queries.begin + queries.size() / 2) && first == seen(queries.end - 1)) return rows * first;
  }
  double pairs = 0;
  for (Index query = queries.begin; query < queries.end; ++query) pairs += seen(query);
  return pairs;
}

/// Units of rows for each of which somebody is to be found, and how much work each is.
struct DealtUnits {
  std::vector<Index> ends;
  std::vector<double> work;

  [[nodiscard]] Index size() const { return static_cast<Index>(ends.size()); }

  /// Neighbours joined to about `count` units.
  [[nodiscard]] DealtUnits joined(Index count) const {
    DealtUnits result;
    Index begin = 0;
    for (Index unit = 0; unit < count; ++unit) {
      const Index end = size() * (unit + 1) / count;
      if (end == begin) continue;
      result.ends.push_back(ends[static_cast<std::size_t>(end) - 1]);
      result.work.push_back(0);
      for (; begin < end; ++begin) result.work.back() += work[static_cast<std::size_t>(begin)];
    }
    return result;
  }
};

/// What the rank that has most has beyond the mean of all, as a share of it.
struct Excess {
  double work = 0;
  double rows = 0;
};

[[nodiscard]] inline Excess excess_of(const DealtUnits& units, std::span<const Index> owners, Index ranks) {
  const auto beyond = [&](const auto& amount) {
    std::vector<double> found(static_cast<std::size_t>(ranks), 0);
    double total = 0;
    for (std::size_t unit = 0; unit < owners.size(); ++unit) {
      found[static_cast<std::size_t>(owners[unit])] += amount(unit);
      total += amount(unit);
    }
    return total == 0 ? 0.0 : *std::max_element(found.begin(), found.end()) * static_cast<double>(ranks) / total - 1;
  };
  return {beyond([&](std::size_t unit) { return units.work[unit]; }), beyond([&](std::size_t unit) {
            return static_cast<double>(units.ends[unit] - (unit == 0 ? 0 : units.ends[unit - 1]));
          })};
}

/// Each rank takes units that follow each other, so that the largest work of a rank is as small as it can be.
[[nodiscard]] inline std::vector<Index> deal_in_order(const DealtUnits& units, Index ranks) {
  // Ranks that it takes where none may have more than `most`.
  const auto fill = [&](double most, std::vector<Index>* owners) {
    Index rank = 0;
    double work = 0;
    for (const double next : units.work) {
      if (work > 0 && work + next > most) {
        ++rank;
        work = 0;
      }
      work += next;
      if (owners != nullptr) owners->push_back(rank);
    }
    return rank + 1;
  };
  double enough = 0;
  double short_of = 0;
  for (const double work : units.work) {
    enough += work;
    short_of = std::max(short_of, work);
  }
  if (fill(short_of, nullptr) <= ranks) enough = short_of;
  for (int step = 0; step < 60 && short_of < enough; ++step) {
    const double middle = (short_of + enough) / 2;
    (fill(middle, nullptr) <= ranks ? enough : short_of) = middle;
  }
  std::vector<Index> owners;
  static_cast<void>(fill(enough, &owners));
  return owners;
}

/// Forth and back over the ranks, unit by unit: where work grows steadily, so does what each turn leaves uneven, and
/// the next turn evens it out.
[[nodiscard]] inline std::vector<Index> deal_back_and_forth(const DealtUnits& units, Index ranks) {
  std::vector<Index> owners;
  for (Index unit = 0; unit < units.size(); ++unit) {
    const Index place = unit % (2 * ranks);
    owners.push_back(place < ranks ? place : 2 * ranks - 1 - place);
  }
  return owners;
}

/// The largest unit that is left goes to the rank that has least so far.
[[nodiscard]] inline std::vector<Index> deal_by_size(const DealtUnits& units, Index ranks) {
  std::vector<Index> order(units.ends.size());
  for (std::size_t unit = 0; unit < order.size(); ++unit) order[unit] = static_cast<Index>(unit);
  sort_stably(order, [&](Index a, Index b) {
    return units.work[static_cast<std::size_t>(a)] > units.work[static_cast<std::size_t>(b)];
  });
  // Work, rows and number of a rank.
  using Load = std::tuple<double, Index, Index>;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (Index rank = 0; rank < ranks; ++rank) loads.push({0, 0, rank});
  std::vector<Index> owners(order.size());
  for (const Index unit : order) {
    const auto at = static_cast<std::size_t>(unit);
    auto [work, rows, rank] = loads.top();
    loads.pop();
    owners[at] = rank;
    loads.push({work + units.work[at], rows + units.ends[at] - (unit == 0 ? 0 : units.ends[at - 1]), rank});
  }
  return owners;
}

}  // namespace detail

/// Where the queries of a plan may be cut without a change of any bit or call: the ends of the least parts that one
/// rank evaluates. In the tile kernel rows are lanes that know nothing of each other; calls are not cut.
[[nodiscard]] inline std::vector<Index> atoms_of(const Plan& plan) {
  std::vector<Index> ends;
  if (plan.oracle().kind == OracleKind::kernel) {
    // Longer ones for sequences of many millions: a million parts can be dealt to anyone.
    constexpr Index many = Index{1} << 21;
    const Index length = ceil_div(plan.tokens(), many * detail::rows_of_a_kernel_atom) * detail::rows_of_a_kernel_atom;
    while (ends.empty() || ends.back() < plan.queries().end)
      ends.push_back(std::min((ends.empty() ? 0 : ends.back()) + length, plan.queries().end));
    return ends;
  }
  Index next = 0;
  for (Index begin = plan.queries().begin; begin < plan.queries().end; begin = ends.back()) {
    ends.push_back(detail::part_end(plan, next, begin, 1));
    next = plan.blocks_until(next, ends.back()).end;
  }
  return ends;
}

/// Shares the queries of a plan among ranks, so that all have about as many visible pairs to evaluate.
///
/// Where queries see few keys each rank takes rows that follow each other, so that few keys are another's. Otherwise
/// units of rows are dealt, as few and long as balance allows; a rank's rows then lie all over the sequence, and so do
/// the keys that others ask of it at the same time.
///
///   Laws     shares end where atoms_of(plan) end; equal on all ranks, and independent of their speed. The pairs of the
///            rank that has most exceed the mean by 2 % at most (5 % where queries see few keys), and its rows by a
///            tenth or a quarter, where atoms are small enough for that
///   Corner   more ranks than atoms: some have no row. A plan of a chunk (past > 0) is not shared: SpecError
[[nodiscard]] inline RowShares share_rows(const Plan& plan, Index ranks) {
  if (plan.queries().begin != 0)
    throw SpecError(detail::text("the queries of a chunk after ", plan.queries().begin,
                                 " tokens are not shared among ranks: expected a whole sequence"));
  if (ranks < 1) throw SpecError(detail::text("rows are shared by ", ranks, " ranks, expected 1 or more"));
  const Mask& mask = plan.request().mask;
  detail::DealtUnits atoms;
  atoms.ends = atoms_of(plan);
  for (std::size_t atom = 0; atom < atoms.ends.size(); ++atom)
    atoms.work.push_back(
        detail::visible_pairs(mask, {atom == 0 ? 0 : atoms.ends[atom - 1], atoms.ends[atom]}, plan.keys()));

  struct Deal {
    detail::DealtUnits units;
    std::vector<Index> owners;
    detail::Excess excess;
  };
  // Work is time, rows are memory: time counts more.
  const auto worth = [](const detail::Excess& excess) { return excess.work + 0.1 * std::max(excess.rows - 0.1, 0.0); };
  std::optional<Deal> best;
  const auto consider = [&](const detail::DealtUnits& units, const auto& how, double handicap = 0) {
    std::vector<Index> owners = how(units, ranks);
    const detail::Excess excess = detail::excess_of(units, owners, ranks);
    if (!best || worth(excess) + handicap < worth(best->excess)) best = Deal{units, std::move(owners), excess};
  };
  const Mask planned = mask.simplified(plan.tokens());
  const bool few_keys = planned.kind != MaskKind::full && planned.kind != MaskKind::causal;
  if (few_keys) consider(atoms, detail::deal_in_order);
  const bool in_order = few_keys && best->excess.work <= 0.05 && best->excess.rows <= 0.25;
  for (Index units = ranks; !in_order; units *= 2) {
    const detail::DealtUnits joined = atoms.joined(std::min(units, atoms.size()));
    // Rows that follow each other are worth some imbalance there.
    const double handicap = few_keys ? 0.02 : 0;
    if (!few_keys) consider(joined, detail::deal_back_and_forth);
    consider(joined, detail::deal_by_size, handicap);
    if ((best->excess.work <= 0.02 && best->excess.rows <= 0.1) || units >= atoms.size()) break;
  }
  return RowShares(best->units.ends, best->owners, ranks);
}

}  // namespace twoheads
