#pragma once

#include <concepts>
#include <optional>
#include <twoheads/base/index.hpp>
#include <utility>

namespace twoheads {
namespace detail {

/// Work as an executor is handed it: a sample for the concept to ask with.
struct SampleWork {
  int (*make_local)() = nullptr;
  void (*body)(int& local, Index piece) = nullptr;
  std::optional<int> (*next)() = nullptr;
  int (*work)(int& local, int& item) = nullptr;
  void (*take)(int& item, int result) = nullptr;
};

}  // namespace detail

/// Runs pieces of work that need nothing from each other.
///
///   Laws     for_each(count, make_local, body) calls body(local, i) once for each i of 0 .. count - 1, begun in that
///            order. in_order(make_local, next, work, take) calls take(item, work(local, item)) for the items that
///            next() gives until it gives none: take() by one thread at a time in the order of the items, next() by
///            one thread at a time, and few items are held at once.
///            A local is a workspace that make_local() returns; it is used by one piece of work at a time. Where
///            `concurrent`, several threads may call make_local(), body() and work() at once, and next() beside take().
///   Throws   what a piece of work, make_local(), next() or take() throws reaches the caller as it is; the rest is not
///            begun, and nothing runs any more by then. Of several exceptions one arrives.
template <class E>
concept Executor = std::copy_constructible<E> &&
    requires(const E& exec, Index count, const detail::SampleWork& sample) {
  { E::concurrent } -> std::convertible_to<bool>;
  { exec.threads() } -> std::same_as<Index>;
  exec.for_each(count, sample.make_local, sample.body);
  exec.in_order(sample.make_local, sample.next, sample.work, sample.take);
};

/// Runs pieces of work one after the other, on the thread that asks for them. Threads, behind twoheads::threads, runs
/// several at once.
class Serial {
 public:
  static constexpr bool concurrent = false;

  /// Pieces of work that may run at once.
  [[nodiscard]] Index threads() const { return 1; }

  template <class MakeLocal, class Body>
  void for_each(Index count, const MakeLocal& make_local, const Body& body) const {
    if (count < 1) return;
    auto local = make_local();
    for (Index i = 0; i < count; ++i) body(local, i);
  }

  template <class MakeLocal, class Next, class Work, class Take>
  void in_order(const MakeLocal& make_local, const Next& next, const Work& work, const Take& take) const {
    auto local = make_local();
    while (auto item = next()) {
      auto result = work(local, *item);
      take(*item, std::move(result));
    }
  }
};

static_assert(Executor<Serial>);

}  // namespace twoheads
