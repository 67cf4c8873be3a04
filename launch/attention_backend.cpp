#include "launch/attention_backend.h"

#include "core/dnn_graph.h"

namespace matvlm {

void check_attention_backend(const RunConfig& config) {
  check(config.attention.backend == AttentionBackend::native || dnn_version() > 0,
        "key 'attention.backend': found cudnn, but this build has no CUDA and cuDNN, expected native");
}

std::shared_ptr<DnnAttention> make_attention_backend(Context& ctx, const RunConfig& config) {
  if (config.attention.backend == AttentionBackend::native) return nullptr;
  check_attention_backend(config);
  check(ctx.on_gpu(), "key 'attention.backend': found cudnn on the CPU, expected native there");
  return make_dnn_attention(ctx);
}

}  // namespace matvlm
