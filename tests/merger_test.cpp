#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <twoheads/merge/merger.hpp>
#include <twoheads/model/random.hpp>
#include <utility>
#include <vector>

#include "support/bounds.hpp"
#include "support/naive.hpp"
#include "support/seed.hpp"

namespace {

using namespace twoheads;
using bounds::Real;

std::uint64_t seed() { return seed_or(442); }

constexpr Index tokens = 10;
constexpr Index heads = 2;
constexpr Index value_dim = 3;
const std::vector<Rows> blocks{{0, 4}, {4, 8}, {8, 10}};

struct Piece {
  Job job;
  Partial<float> partial;
};

/// A job whose tile holds all queries of its block.
Job job_of(const Tile& tile, Index head, Index block) { return {tile, head, block, tile.queries, 0}; }

/// Three partials for each head of each query block, in the plan's order of jobs: block, head, tile.
std::vector<Piece> pieces(Random& random) {
  std::vector<Piece> all;
  for (std::size_t block = 0; block < blocks.size(); ++block)
    for (Index head = 0; head < heads; ++head)
      for (Index tile = 0; tile < 3; ++tile) {
        const Rows queries = blocks[block];
        Partial<float> partial{random.matrix<float>(queries.size(), value_dim), Vector<double>(queries.size())};
        for (Index row = 0; row < queries.size(); ++row) partial.log_weight[row] = 30 * random.normal();
        all.push_back({job_of({queries, {tile, tile + 1}}, head, static_cast<Index>(block)), std::move(partial)});
      }
  return all;
}

/// The rows that the pieces of one block and head join to, said with merge_into alone.
Matrix<float> folded(const std::vector<Piece>& all, Index block, Index head) {
  auto sum = Partial<double>::empty(blocks[static_cast<std::size_t>(block)].size(), value_dim);
  for (const Piece& piece : all)
    if (piece.job.query_block == block && piece.job.head == head) merge_into(sum, piece.partial);
  return sum.value.cast<float>();
}

TEST(Merger, WritesTheFoldOfEachBlockToTheRowsAndColumnsOfItsHead) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  const std::vector<Piece> all = pieces(random);
  // The output is a block of a wider matrix, whose other columns belong to someone else.
  Matrix<float> whole = Matrix<float>::Constant(tokens, heads * value_dim + 3, 7);
  auto inner = whole.middleCols(2, heads * value_dim);
  Merger<float> merger(span(inner), value_dim);
  for (const Piece& piece : all) merger(piece.job, piece.partial);
  merger.finish();
  for (std::size_t block = 0; block < blocks.size(); ++block)
    for (Index head = 0; head < heads; ++head)
      EXPECT_EQ(whole.block(blocks[block].begin, 2 + head * value_dim, blocks[block].size(), value_dim),
                folded(all, static_cast<Index>(block), head))
          << "block " << block << ", head " << head;
  EXPECT_TRUE((whole.leftCols(2).array() == 7).all());
  EXPECT_TRUE((whole.rightCols(1).array() == 7).all());
  whole.setConstant(7);
  merger.finish();
  EXPECT_TRUE((whole.array() == 7).all()) << "there is nothing left to write";
}

TEST(Merger, OfOneHeadWritesBlockAfterBlock) {
  Random random(seed());
  Matrix<float> out(6, 2);
  Merger<float> merger(span(out), 2);
  const Matrix<float> rows = random.matrix<float>(6, 2);
  for (Index block = 0; block < 3; ++block) {
    const Rows queries = block_rows(block, 2, 6);
    merger(job_of({queries, {0, 1}}, 0, block), {rows.middleRows(queries.begin, 2), Vector<double>::Ones(2)});
  }
  merger.finish();
  EXPECT_EQ(out, rows);
}

TEST(Merger, JoinsInTheOrderOfArrival) {
  // Many partials of which none outweighs the others: the order shows in the last bits.
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  std::vector<Partial<double>> parts;
  for (int part = 0; part < 40; ++part)
    parts.push_back({random.matrix<double>(64, 1), Vector<double>(random.matrix<double>(64, 1))});
  const auto merged = [&](bool reverse) {
    Matrix<double> out(64, 1);
    Merger<double> merger(span(out), 1);
    for (std::size_t i = 0; i < parts.size(); ++i)
      merger(job_of({{0, 64}, {0, 1}}, 0, 0), parts[reverse ? parts.size() - 1 - i : i]);
    merger.finish();
    return out;
  };
  auto fold = Partial<double>::empty(64, 1);
  for (const Partial<double>& part : parts) merge_into(fold, part);
  EXPECT_EQ(merged(false), fold.value);
  EXPECT_NE(merged(true), fold.value);
}

TEST(Merger, WritesABlockWhenTheNextBlockOrHeadBegins) {
  Random random(seed());
  const std::vector<Piece> all = pieces(random);
  Matrix<float> out = Matrix<float>::Constant(tokens, heads * value_dim, 7);
  Merger<float> merger(span(out), value_dim);
  for (std::size_t i = 0; i < 3; ++i) merger(all[i].job, all[i].partial);
  EXPECT_TRUE((out.array() == 7).all());
  merger(all[3].job, all[3].partial);
  EXPECT_EQ(out.topLeftCorner(4, value_dim), folded(all, 0, 0));
  EXPECT_TRUE((out.topRightCorner(4, value_dim).array() == 7).all());
  for (std::size_t i = 4; i < 7; ++i) merger(all[i].job, all[i].partial);
  EXPECT_EQ(out.topRightCorner(4, value_dim), folded(all, 0, 1));
  EXPECT_TRUE((out.bottomRows(6).array() == 7).all());
}

TEST(Merger, WritesNothingWithoutAPartialAndZerosForRowsThatSawNoKey) {
  Matrix<float> out = Matrix<float>::Constant(2, 1, 7);
  Merger<float> merger(span(out), 1);
  merger.finish();
  EXPECT_TRUE((out.array() == 7).all());
  Partial<float> partial = Partial<float>::empty(2, 1);
  partial.value(1, 0) = 5;
  partial.log_weight[1] = -900;
  for (int repeat = 0; repeat < 2; ++repeat) merger(job_of({{0, 2}, {0, 1}}, 0, 0), partial);
  merger.finish();
  EXPECT_EQ(out(0, 0), 0);
  EXPECT_EQ(out(1, 0), 5);
}

TEST(Merger, KeepsTheDigitsOfAThousandFloatPartials) {
  // The truth takes the same floats: what is left is one rounding to float, an ulp of the result or half of it.
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  Matrix<float> out(1, 4);
  Merger<float> merger(span(out), 4);
  naive::Table truth = naive::zeros(1, 4);
  constexpr int parts = 4096;
  for (int part = 0; part < parts; ++part) {
    const Partial<float> partial{(random.matrix<float>(1, 4).array() + 4.0F).matrix(), Vector<double>::Zero(1)};
    for (Index c = 0; c < 4; ++c) truth[0][naive::at(c)] += static_cast<Real>(partial.value(0, c)) / parts;
    merger(job_of({{0, 1}, {part, part + 1}}, 0, 0), partial);
  }
  merger.finish();
  EXPECT_LE(bounds::max_row_error(out, truth, naive::largest(truth)), 0.51L * bounds::eps<float>);
}

TEST(Merger, RefusesPartialsOfAnotherShapeAndTilesOfOtherQueries) {
  Matrix<float> out = Matrix<float>::Zero(4, 2);
  Merger<float> merger(span(out), 2);
  EXPECT_THROW(merger(job_of({{0, 2}, {0, 1}}, 0, 0), Partial<float>::empty(2, 3)), ShapeError);
  EXPECT_THROW(merger(job_of({{0, 2}, {0, 1}}, 0, 0), Partial<float>::empty(3, 2)), ShapeError);
  merger(job_of({{0, 2}, {0, 1}}, 0, 0), Partial<float>::empty(2, 2));
  EXPECT_THROW(merger(job_of({{0, 3}, {0, 1}}, 0, 0), Partial<float>::empty(3, 2)), std::logic_error);
}

TEST(Merger, JoinsTilesOfAPartOfTheirBlocksQueriesWhereTheirQueriesStand) {
  SCOPED_TRACE(testing::Message() << "seed " << seed());
  Random random(seed());
  Matrix<float> out = Matrix<float>::Constant(12, 3, 7);
  Merger<float> merger(span(out), 3);
  auto sum = Partial<double>::empty(6, 3);
  for (const Rows& queries : {Rows{4, 6}, {6, 7}, {5, 10}, {9, 10}}) {
    const Partial<float> partial{random.matrix<float>(queries.size(), 3), 3 * Vector<double>::Ones(queries.size())};
    merger(Job{Tile{queries, {0, 1}}, 0, 1, {4, 10}, 0}, partial);
    auto whole = Partial<float>::empty(6, 3);
    whole.value.middleRows(queries.begin - 4, queries.size()) = partial.value;
    whole.log_weight.segment(queries.begin - 4, queries.size()) = partial.log_weight;
    merge_into(sum, whole);
  }
  merger.finish();
  EXPECT_EQ(out.middleRows(4, 6), sum.value.cast<float>());
  EXPECT_TRUE((out.topRows(4).array() == 7).all());
  EXPECT_TRUE((out.bottomRows(2).array() == 7).all());
  // Rows before the block, and behind it.
  for (const Rows& queries : {Rows{3, 5}, {9, 11}})
    EXPECT_THROW(merger(Job{Tile{queries, {0, 1}}, 0, 2, {4, 10}, 0}, Partial<float>::empty(2, 3)), std::logic_error);
}

}  // namespace
