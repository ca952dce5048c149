#pragma once

#include <string_view>

/// The cases of the ONNX operator Attention, and what each of them lacks here.
namespace onnx_attention {

/// A case, and why it does not run on the grid of calls, where it does not. All run on the other engines.
struct Listed {
  std::string_view name;
  const char* not_on_oracle;
};

inline constexpr const char* capped = "soft_cap: an oracle's softmax takes scores as they are";

inline constexpr Listed table[] = {
    {"24_fullymasked_qk_matmul_output_mode3_zero", nullptr},
    {"24_qk_matmul_output_mode3_softmax_precision", nullptr},
    {"3d", nullptr},
    {"3d_attn_mask", nullptr},
    {"3d_causal", nullptr},
    {"3d_diff_heads_sizes", nullptr},
    {"3d_diff_heads_sizes_attn_mask", nullptr},
    {"3d_diff_heads_sizes_softcap", capped},
    {"3d_gqa", nullptr},
    {"3d_gqa_attn_mask", nullptr},
    {"3d_gqa_scaled", nullptr},
    {"3d_gqa_softcap", capped},
    {"3d_scaled", nullptr},
    {"3d_transpose_verification", nullptr},
    {"3d_with_past_and_present", nullptr},
    {"3d_with_past_and_present_qk_matmul", nullptr},
    {"3d_with_past_and_present_qk_matmul_softcap", capped},
    {"4d", nullptr},
    {"4d_attn_mask", nullptr},
    {"4d_attn_mask_3d", nullptr},
    {"4d_attn_mask_3d_causal", nullptr},
    {"4d_attn_mask_4d", nullptr},
    {"4d_attn_mask_bool", nullptr},
    {"4d_attn_mask_bool_4d", nullptr},
    {"4d_causal", nullptr},
    {"4d_causal_nonpad_attn_mask_composition", nullptr},
    {"4d_causal_nonpad_batch_prefill", nullptr},
    {"4d_causal_nonpad_continued_prefill", nullptr},
    {"4d_causal_with_past_and_present", nullptr},
    {"4d_diff_heads_mask4d_padded_kv", nullptr},
    {"4d_diff_heads_sizes_attn_mask", nullptr},
    {"4d_diff_heads_sizes_causal", nullptr},
    {"4d_diff_heads_sizes_softcap", capped},
    {"4d_diff_heads_with_past_and_present_mask3d", nullptr},
    {"4d_diff_heads_with_past_and_present_mask4d", nullptr},
    {"4d_gqa", nullptr},
    {"4d_gqa_attn_mask", nullptr},
    {"4d_gqa_causal_nonpad_decode_fp16", nullptr},
    {"4d_gqa_scaled", nullptr},
    {"4d_gqa_with_past_and_present_fp16", nullptr},
    {"4d_scaled", nullptr},
    {"4d_softcap", capped},
    {"4d_softcap_neginf_mask", capped},
    {"4d_softcap_neginf_mask_poison", capped},
    {"4d_with_past_and_present", nullptr},
    {"4d_with_past_and_present_qk_matmul_bias", nullptr},
    {"4d_with_past_and_present_qk_matmul_bias_3d_mask", nullptr},
    {"4d_with_past_and_present_qk_matmul_bias_3d_mask_causal", nullptr},
    {"4d_with_past_and_present_qk_matmul_bias_4d_mask", nullptr},
    {"4d_with_past_and_present_qk_matmul_bias_4d_mask_causal", nullptr},
    {"4d_with_qk_matmul_bias", nullptr},
    {"4d_with_qk_matmul_softmax", nullptr},
    {"causal_boolmask_nan_robustness", nullptr},
    {"local_window", nullptr},
    {"local_window_ext_cache_float16_mask", nullptr},
    {"local_window_ext_cache_rank2_mask", nullptr},
    {"local_window_ext_cache_rank3_head_mask", nullptr},
    {"local_window_with_past", nullptr},
};

}  // namespace onnx_attention
