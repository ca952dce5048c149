#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <twoheads/base/compiler.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Sorts by `less`; what is neither less nor greater keeps its order.
///
/// As std::stable_sort, which is not used: with the standard library of GCC 12, clang 19 and newer warn of every use of
/// it in code that includes ours, and -Werror stops there.
template <class T, class Less>
void sort_stably(std::vector<T>& items, const Less& less) {
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (less(items[a], items[b])) return true;
    if (less(items[b], items[a])) return false;
    return a < b;
  });
  std::vector<T> sorted;
  sorted.reserve(items.size());
  for (const std::size_t from : order) sorted.push_back(std::move(items[from]));
  items = std::move(sorted);
}

}  // namespace twoheads::detail
