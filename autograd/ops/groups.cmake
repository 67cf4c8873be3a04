# Which kernels are compiled together; those that take long by themselves are left alone and compile side by side.
matvlm_compile_together(core gemm_rows core/gemm_rows core/gemm_fp8_rows)
function(matvlm_group name)
  list(TRANSFORM ARGN PREPEND autograd/ops/)
  matvlm_compile_together(autograd ${name} ${ARGN})
endfunction()
matvlm_group(elementwise activation adamw add attention_dnn cast embed_splice kv_cache patch_embed quantize random_fill
  rotary)
matvlm_group(norms attention_delta gated_rms_norm layer_norm reduce rms_norm)
matvlm_group(losses head_loss layer_loss loss_sums)
matvlm_group(attention_plain attention attention_backward)
matvlm_group(attention_hopper attention_hopper_dkv attention_hopper_dq attention_hopper_forward)
matvlm_group(attention_short attention_decode attention_mma_small)
matvlm_group(sequences conv1d ssd_step ssd_chunk)
