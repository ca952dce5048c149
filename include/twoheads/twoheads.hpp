#pragma once

// The whole library in the order of the data. Needs Eigen alone.

// clang-format off
#include <twoheads/base/version.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/compiler.hpp>
#include <twoheads/base/aligned_buffer.hpp>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/base/digest.hpp>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/write_file.hpp>

#include <twoheads/model/mask.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/model/row_function.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/model/random.hpp>
#include <twoheads/model/model_hash.hpp>
#include <twoheads/model/llama2c.hpp>
#include <twoheads/model/tokenizer.hpp>

#include <twoheads/attention/input.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/attention/project.hpp>
#include <twoheads/attention/parts.hpp>
#include <twoheads/attention/grouped_query.hpp>
#include <twoheads/attention/forward.hpp>
#include <twoheads/attention/language.hpp>
#include <twoheads/attention/direct.hpp>
#include <twoheads/attention/partial.hpp>
#include <twoheads/attention/exp2_parts.hpp>
#include <twoheads/attention/simd_vector.hpp>
#include <twoheads/attention/simd_eigen.hpp>
#include <twoheads/attention/simd.hpp>
#include <twoheads/attention/panel_loops.hpp>
#include <twoheads/attention/key_band.hpp>
#include <twoheads/attention/tile_terms.hpp>
#include <twoheads/attention/tile_kernel.hpp>
#include <twoheads/attention/backward_loops.hpp>
#include <twoheads/attention/tile_backward.hpp>
#include <twoheads/attention/row_kernel.hpp>
#include <twoheads/attention/average_case.hpp>

#include <twoheads/plan/precision.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/packing.hpp>
#include <twoheads/plan/anchor.hpp>
#include <twoheads/plan/tile.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/straight.hpp>
#include <twoheads/plan/full.hpp>
#include <twoheads/plan/causal.hpp>
#include <twoheads/plan/window.hpp>
#include <twoheads/plan/documents.hpp>
#include <twoheads/plan/blocks.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <twoheads/plan/sampled.hpp>
#include <twoheads/plan/average_case.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/choose_rows.hpp>
#include <twoheads/plan/one_query.hpp>
#include <twoheads/plan/call_rows.hpp>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/visible.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <twoheads/plan/other_splits.hpp>
#include <twoheads/plan/scaling.hpp>
#include <twoheads/plan/print.hpp>
#include <twoheads/plan/svg_tiles.hpp>
#include <twoheads/plan/svg_raster.hpp>
#include <twoheads/plan/svg.hpp>

#include <twoheads/oracle/weights.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/oracle/vjp.hpp>
#include <twoheads/oracle/small_transformer.hpp>
#include <twoheads/oracle/rounding.hpp>
#include <twoheads/oracle/core.hpp>
#include <twoheads/oracle/any_oracle.hpp>
#include <twoheads/oracle/wrappers.hpp>
#include <twoheads/oracle/norms.hpp>
#include <twoheads/oracle/probe_report.hpp>
#include <twoheads/oracle/probe_calls.hpp>
#include <twoheads/oracle/probe_session.hpp>
#include <twoheads/oracle/probe_structure.hpp>
#include <twoheads/oracle/probe_scores.hpp>
#include <twoheads/oracle/probe_rounding.hpp>
#include <twoheads/oracle/probe.hpp>

#include <twoheads/codec/row_map.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/codes.hpp>
#include <twoheads/codec/head_weights.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/codec/converse.hpp>
#include <twoheads/codec/checks.hpp>
#include <twoheads/codec/score_bound.hpp>
#include <twoheads/codec/score_terms.hpp>
#include <twoheads/codec/encode.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/anchors.hpp>

#include <twoheads/exec/executor.hpp>
#include <twoheads/exec/execute.hpp>
#include <twoheads/exec/oracle_tasks.hpp>
#include <twoheads/exec/oracle_calls.hpp>
#include <twoheads/exec/oracle_engine.hpp>
#include <twoheads/exec/pool_work.hpp>
#include <twoheads/exec/pool_worker.hpp>
#include <twoheads/exec/pool.hpp>
#include <twoheads/exec/block_kernel.hpp>
#include <twoheads/exec/kernel_engine.hpp>
#include <twoheads/exec/kernel_attention.hpp>
#include <twoheads/exec/plan_choice.hpp>
#include <twoheads/exec/call_columns.hpp>
#include <twoheads/exec/oracle_plans.hpp>
#include <twoheads/exec/choose_plan.hpp>
#include <twoheads/exec/time_calls.hpp>
#include <twoheads/exec/time_kernel.hpp>

#include <twoheads/merge/merger.hpp>
#include <twoheads/merge/f_quantile.hpp>
#include <twoheads/merge/error_bars.hpp>

#include <twoheads/simulate.hpp>

#include <twoheads/exec/key_cache.hpp>
#include <twoheads/exec/session.hpp>
#include <twoheads/exec/session_file.hpp>
#include <twoheads/exec/sampler.hpp>

#include <twoheads/train/trainable.hpp>
#include <twoheads/train/attention_gradient.hpp>
#include <twoheads/train/parameters.hpp>
#include <twoheads/train/norm_gradient.hpp>
#include <twoheads/train/mlp_gradient.hpp>
#include <twoheads/train/projection_gradient.hpp>
#include <twoheads/train/layer_gradient.hpp>
#include <twoheads/train/training_pass.hpp>
#include <twoheads/train/backward.hpp>
#include <twoheads/train/trainable_direct.hpp>
#include <twoheads/train/trainable_kernel.hpp>
#include <twoheads/train/grid_gradient.hpp>
#include <twoheads/train/grid_backward.hpp>
#include <twoheads/train/trainable_grid.hpp>
#include <twoheads/train/transposed_mask.hpp>
#include <twoheads/train/forward_only.hpp>
#include <twoheads/train/example.hpp>
#include <twoheads/train/untrained.hpp>
#include <twoheads/train/schedule.hpp>
#include <twoheads/train/adamw.hpp>
#include <twoheads/train/training_state.hpp>
#include <twoheads/train/trainer.hpp>
#include <twoheads/train/training_file.hpp>
#include <twoheads/train/held_out.hpp>

#include <twoheads/paper/cells.hpp>
#include <twoheads/paper/packer.hpp>
#include <twoheads/paper/terms.hpp>
#include <twoheads/paper/steps.hpp>
#include <twoheads/paper/paper_attention.hpp>
#include <twoheads/paper/coded.hpp>
#include <twoheads/paper/appendix_a.hpp>
#include <twoheads/paper/strict.hpp>

#include <twoheads/compiled.hpp>
// clang-format on
