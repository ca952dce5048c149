#pragma once

#include <twoheads/base/index.hpp>
#include <utility>

namespace twoheads {

/// Runs pieces of work that need nothing from each other, on the thread that asks for it. Threads, behind
/// twoheads::threads, has the same members.
///
///   Laws     whatever an executor does, take() is called by one thread at a time, in the order in which next() gave
///            the items; a local is used by one piece of work at a time. What a piece of work throws reaches the
///            caller, and no further piece is begun.
class Serial {
 public:
  /// Pieces of work that may run at once.
  [[nodiscard]] Index threads() const { return 1; }

  /// Calls body(local, i) for i = 0 .. count - 1, each once; `make_local` makes the workspace of a thread.
  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    if (count < 1) return;
    auto local = make_local();
    for (Index i = 0; i < count; ++i) body(local, i);
  }

  /// Calls take(item, work(local, item)) for the items that next() gives, until it gives none.
  template <class MakeLocal, class Next, class Work, class Take>
  void in_order(const MakeLocal& make_local, const Next& next, const Work& work, const Take& take) const {
    auto local = make_local();
    while (auto item = next()) {
      auto result = work(local, *item);
      take(*item, std::move(result));
    }
  }
};

}  // namespace twoheads
