// Laws of executors, written once and run on every one: pieces, locals, order, exceptions, nesting. That simulations do
// not depend on threads is in threads_simulate_test.cpp.

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/threads.hpp>
#include <vector>

#include "support/message_of.hpp"

namespace {

using namespace twoheads;

struct NoCopies : Serial {
  NoCopies() = default;
  NoCopies(const NoCopies&) = delete;
};
struct NoWord {
  [[nodiscard]] Index threads() const { return 1; }
};
static_assert(Executor<Serial> && Executor<Threads> && !Executor<NoCopies> && !Executor<NoWord> && !Executor<int>);

/// Calls use(exec) with every executor, in a scope that names it.
template <class Use>
void on_every_executor(const Use& use) {
  const auto named = [&](const std::string& name, const auto& exec) {
    SCOPED_TRACE(name);
    use(exec);
  };
  named("Serial", Serial());
  for (const Index count : {1, 2, 3, 8}) named("Threads(" + std::to_string(count) + ")", Threads(count));
  named("of_caller", Threads::of_caller());
  const tbb::global_control room(tbb::global_control::max_allowed_parallelism, 3);
  tbb::task_arena arena(3);
  arena.execute([&] { named("of_caller in an arena of 3", Threads::of_caller()); });
}

/// Counts what is inside it at the moment, and the most that ever were.
class Crowd {
 public:
  class Visit {
   public:
    explicit Visit(Crowd& crowd) : crowd_(crowd) {
      const int now = ++crowd_.inside_;
      int most = crowd_.most_;
      while (most < now && !crowd_.most_.compare_exchange_weak(most, now)) {
      }
    }
    ~Visit() { --crowd_.inside_; }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    Crowd& crowd_;
  };

  [[nodiscard]] int inside() const { return inside_; }
  [[nodiscard]] int most() const { return most_; }

 private:
  std::atomic<int> inside_ = 0;
  std::atomic<int> most_ = 0;
};

/// A workspace that cannot be copied or moved and knows who is in it.
struct Local {
  explicit Local(std::atomic<int>& made) { ++made; }
  Local(const Local&) = delete;
  Local& operator=(const Local&) = delete;
  Crowd crowd;
  Index last = -1;
};

void rest() { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

int no_local() { return 0; }

/// Gives 0 .. count - 1.
auto numbers(Index count) {
  return [next = std::make_shared<Index>(0), count]() -> std::optional<Index> {
    if (*next == count) return std::nullopt;
    return (*next)++;
  };
}

TEST(ForEach, BeginsEachPieceOnceInTheirOrder) {
  on_every_executor([](const auto& exec) {
    for (const Index count : {-1, 0, 1, 2, 7, 500}) {
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(std::max<Index>(count, 0)));
      std::atomic<Index> begun = 0;
      std::atomic<bool> in_order = true;
      std::atomic<int> made = 0;
      std::atomic<int> most_in_local = 0;
      const auto body = [&](Local& local, Index piece) {
        // Each other thread can be late with one piece at most.
        if (begun++ < piece - (exec.threads() - 1) || piece <= local.last) in_order = false;
        local.last = piece;
        const Crowd::Visit visit(local.crowd);
        if (piece % 16 == 0) rest();
        ++times[static_cast<std::size_t>(piece)];
        most_in_local = std::max<int>(most_in_local, local.crowd.most());
      };
      exec.for_each(
          count, [&] { return Local(made); }, body);
      EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 1; })) << count << " pieces";
      EXPECT_TRUE(in_order) << count << " pieces";
      EXPECT_LE(made, std::min(exec.threads(), std::max<Index>(count, 0))) << count << " pieces";
      EXPECT_LE(most_in_local, 1) << count << " pieces";
    }
  });
}

TEST(InOrder, TakesEachItemOnceInTheirOrder) {
  on_every_executor([](const auto& exec) {
    for (const Index count : {0, 1, 2, 7, 500}) {
      std::vector<Index> taken;
      std::atomic<int> made = 0;
      std::atomic<int> most_in_local = 0;
      Crowd nexts;
      Crowd takes;
      Crowd items;
      // Neither items nor results can be copied.
      struct Item {
        Index number;
        std::unique_ptr<Crowd::Visit> held;
      };
      const auto next = [&, number = numbers(count)]() -> std::optional<Item> {
        const Crowd::Visit visit(nexts);
        const std::optional<Index> found = number();
        if (!found) return std::nullopt;
        return Item{*found, std::make_unique<Crowd::Visit>(items)};
      };
      const auto work = [&](Local& local, const Item& item) {
        const Crowd::Visit visit(local.crowd);
        if (item.number % 3 == 0) rest();
        most_in_local = std::max<int>(most_in_local, local.crowd.most());
        return std::make_unique<Index>(10 * item.number);
      };
      const auto take = [&](const Item& item, std::unique_ptr<Index> result) {
        const Crowd::Visit visit(takes);
        EXPECT_EQ(*result, 10 * item.number);
        taken.push_back(item.number);
      };
      exec.in_order([&] { return Local(made); }, next, work, take);
      ASSERT_EQ(static_cast<Index>(taken.size()), count);
      for (Index i = 0; i < count; ++i) EXPECT_EQ(taken[static_cast<std::size_t>(i)], i);
      EXPECT_EQ(nexts.most(), 1);
      EXPECT_EQ(takes.most(), count > 0 ? 1 : 0);
      EXPECT_LE(made, exec.threads());
      EXPECT_LE(most_in_local, 1);
      EXPECT_LE(items.most(), 2 * exec.threads());
      EXPECT_EQ(items.inside(), 0);
    }
  });
}

/// Not derived from anything that a catch of the library would know.
struct OwnError {
  int code = 0;
};

enum class Place { make_local, body, next, work, take };

/// Pieces begun until an exception from one place stopped 200000 of them; checks that it arrived as it was and that
/// nothing ran any more by then.
template <class Exec>
Index begun_until_thrown_at(const Exec& exec, Place place) {
  constexpr Index count = 200000;
  std::atomic<Index> begun = 0;
  Crowd crowd;
  const auto reach = [&](Place here, Index piece) {
    const Crowd::Visit visit(crowd);
    if (here == place && piece == 20) throw OwnError{static_cast<int>(place)};
    if (piece < 40) rest();
  };
  const auto make_local = [&] {
    reach(Place::make_local, 20);
    return 0;
  };
  try {
    if (place == Place::body)
      exec.for_each(count, make_local, [&](int&, Index piece) {
        ++begun;
        reach(Place::body, piece);
      });
    const auto next = [&, number = numbers(count)] {
      const std::optional<Index> found = number();
      if (found) reach(Place::next, *found);
      return found;
    };
    const auto work = [&](int&, Index item) {
      ++begun;
      reach(Place::work, item);
      return item;
    };
    exec.in_order(make_local, next, work, [&](Index item, Index) { reach(Place::take, item); });
    ADD_FAILURE() << "no exception";
  } catch (const OwnError& error) {
    EXPECT_EQ(error.code, static_cast<int>(place));
  }
  EXPECT_EQ(crowd.inside(), 0);
  return begun;
}

TEST(Exceptions, StopTheRestAndArriveAsTheyAre) {
  on_every_executor([](const auto& exec) {
    for (const Place place : {Place::make_local, Place::body, Place::next, Place::work, Place::take}) {
      EXPECT_LT(begun_until_thrown_at(exec, place), 100000) << "place " << static_cast<int>(place);
      // The executor goes on to work.
      std::atomic<Index> sum = 0;
      exec.for_each(100, no_local, [&](int&, Index piece) { sum += piece; });
      EXPECT_EQ(sum, 4950);
    }
    const auto fail_to_make = [&]() -> int { throw OwnError{7}; };
    EXPECT_THROW(exec.for_each(5, fail_to_make, [](int&, Index) {}), OwnError);
  });
}

TEST(Exceptions, OfTheLibraryKeepTheirTypeAndWords) {
  on_every_executor([](const auto& exec) {
    const auto body = [](int&, Index piece) {
      if (piece == 3) throw AnchorError("row 3 is unsafe");
    };
    EXPECT_EQ(message_of<AnchorError>([&] { exec.for_each(10, no_local, body); }), "row 3 is unsafe");
  });
}

// The fear: a thread that waits inside a piece takes up another piece of ours, and with it a local in use, a lock that
// is held, or one stack frame more a piece.
TEST(Nested, PiecesThatUseTbbAreHandedNoOtherPiece) {
  on_every_executor([](const auto& exec) {
    static thread_local int inside = 0;
    std::atomic<bool> entered_twice = false;
    std::atomic<int> made = 0;
    const auto piece = [&] {
      if (++inside > 1) entered_twice = true;
      tbb::parallel_for(0, 8, [](int) { rest(); });
      --inside;
    };
    exec.for_each(
        60, [&] { return Local(made); }, [&](Local&, Index) { piece(); });
    EXPECT_LE(made, exec.threads());
    made = 0;
    const auto work = [&](Local&, Index item) {
      piece();
      return item;
    };
    exec.in_order([&] { return Local(made); }, numbers(60), work, [&](Index, Index) { piece(); });
    EXPECT_FALSE(entered_twice);
    EXPECT_LE(made, exec.threads());
  });
}

TEST(Nested, ExecutorsRunInsideTheirOwnPieces) {
  on_every_executor([](const auto& exec) {
    std::atomic<Index> sum = 0;
    exec.for_each(6, no_local, [&](int&, Index) {
      exec.for_each(20, no_local, [&](int&, Index piece) { sum += piece; });
      exec.in_order(
          no_local, numbers(20), [](int&, Index item) { return item; }, [&](Index, Index item) { sum += item; });
    });
    EXPECT_EQ(sum, 6 * 2 * 190);
  });
}

TEST(Nested, InAnArenaOfTheCallerThePiecesRunThere) {
  tbb::task_arena arena(5);
  const Threads here = Threads::of_caller();
  arena.execute([&] {
    EXPECT_EQ(here.threads(), 5);
    std::atomic<bool> elsewhere = false;
    here.for_each(100, no_local, [&](int&, Index) {
      if (tbb::this_task_arena::max_concurrency() != 5) elsewhere = true;
    });
    EXPECT_FALSE(elsewhere);
  });
}

TEST(Nested, InsideALoopOfTheCallerThatIsCancelledEveryPieceIsDone) {
  for (const Threads& exec : {Threads(2), Threads::of_caller()}) {
    std::atomic<Index> done = 0;
    tbb::task_group_context context;
    tbb::parallel_for(
        0, 1,
        [&](int) {
          context.cancel_group_execution();
          exec.for_each(100, no_local, [&](int&, Index) { ++done; });
          exec.in_order(
              no_local, numbers(100), [](int&, Index item) { return item; }, [&](Index, Index) { ++done; });
        },
        context);
    EXPECT_EQ(done, 200);
  }
}

TEST(Nested, ManyCallersShareAnExecutor) {
  const Threads exec(3);
  std::atomic<Index> sum = 0;
  tbb::parallel_for(0, 50, [&](int) {
    exec.for_each(10, no_local, [&](int&, Index piece) { sum += piece; });
    Threads::of_caller().for_each(10, no_local, [&](int&, Index piece) { sum += piece; });
  });
  std::vector<std::thread> callers;
  for (int i = 0; i < 10; ++i)
    callers.emplace_back([&, copy = exec] { copy.for_each(10, no_local, [&](int&, Index piece) { sum += piece; }); });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 110 * 45);
}

/// How many pieces were there at once, where each waits until all are there or a time is over.
int meet(const Threads& exec, Index count, std::chrono::milliseconds most) {
  Crowd crowd;
  const auto end = std::chrono::steady_clock::now() + most;
  exec.for_each(count, no_local, [&](int&, Index) {
    const Crowd::Visit visit(crowd);
    while (crowd.most() < count && std::chrono::steady_clock::now() < end) rest();
  });
  return crowd.most();
}

constexpr std::chrono::seconds patience(30);
constexpr std::chrono::milliseconds moment(200);

TEST(ThreadsOfItsOwn, AreAsManyAsAskedForAlsoBeyondTheCores) {
  for (const Index count : {1, 2, 3, 8}) {
    const Threads exec(count);
    EXPECT_EQ(exec.threads(), count);
    EXPECT_EQ(meet(exec, count, patience), count);
    EXPECT_EQ(meet(exec, count + 1, moment), count);
  }
}

TEST(ThreadsOfItsOwn, AreNotLimitedByAnotherExecutorAndLimitNobodyAfterwards) {
  const auto limit = [] { return tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism); };
  const std::size_t before = limit();
  {
    const Index many = 4 * static_cast<Index>(before);
    const Threads large(many);
    const Threads small(many - 1);
    const Threads one(1);
    EXPECT_EQ(limit(), static_cast<std::size_t>(many));
    EXPECT_EQ(meet(large, many, patience), many);
    EXPECT_EQ(meet(one, 2, moment), 1);
  }
  EXPECT_EQ(limit(), before);
  const tbb::global_control own(tbb::global_control::max_allowed_parallelism, 1);
  EXPECT_EQ(meet(Threads(4), 4, moment), 1);
}

TEST(ThreadsOfItsOwn, AreAtLeastOne) {
  for (const Index count : {Index{0}, Index{-3}, Index{4097}, Index{1} << 40}) {
    const std::string message = message_of<SpecError>([&] { static_cast<void>(Threads(count)); });
    EXPECT_NE(message.find(std::to_string(count)), std::string::npos) << message;
  }
}

// The bits of a result must not hang on whose thread a piece ran.
TEST(Rounding, IsThatOfTheCallerOnEveryThread) {
  const Threads eight(8);
  for (const int mode : {FE_DOWNWARD, FE_UPWARD, FE_TONEAREST}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    std::atomic<bool> other = false;
    eight.for_each(200, no_local, [&](int&, Index) {
      if (std::fegetround() != mode) other = true;
      rest();
    });
    const auto work = [&](int&, Index item) {
      if (std::fegetround() != mode) other = true;
      rest();
      return item;
    };
    eight.in_order(no_local, numbers(200), work, [](Index, Index) {});
    const bool kept = std::fegetround() == mode;
    std::fesetround(FE_TONEAREST);
    EXPECT_FALSE(other) << "mode " << mode;
    EXPECT_TRUE(kept) << "mode " << mode;
  }
}

}  // namespace
