// Which kernels do an attention call on a GPU: chosen by element type, compute capability and shape, never by timing.
#include <type_traits>

#include "autograd/ops/attention_args.h"
#include "autograd/ops/attention_device.h"
#include "autograd/ops/attention_pages.h"
#include "core/cuda_context.h"

namespace matvlm {
namespace attention_kernels {

// As forward_decode, over pages. attention_decode.cu
template <int kDim>
void forward_decode_paged(Context& ctx, const Bf16Forward& args, const AttentionPages& pages);

}  // namespace attention_kernels
namespace {

using namespace attention_kernels;

void check_head_dim(const AttentionShape& shape) {
  check(shape.head_dim % 4 == 0 && shape.head_dim <= kMaxHeadDim, "[attention] head width on a GPU: found ",
        shape.head_dim, ", expected a multiple of 4 up to ", kMaxHeadDim);
}

// The tensor-core kernels work with the maximum of the unscaled logits, which a scale of 0 or less would not keep.
bool on_tensor_cores(Context& ctx, const AttentionShape& shape) {
  return ctx.cuda()->compute_capability() >= 80 && shape.scale > 0;
}

void check_tensor_cores(Context& ctx, const AttentionShape& shape) {
  check(on_tensor_cores(ctx, shape), "[attention] in bf16 on a GPU: found compute capability ",
        ctx.cuda()->compute_capability(), " and scale ", shape.scale, ", expected 80 or newer and a scale over 0");
}

bool aligned(const bf16* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
}

// Few queries against many keys: what counts is that all of the GPU reads keys and values.
constexpr int64_t kDecodeQueries = 16;
bool is_decode(const AttentionRanges& r) { return r.longest_q <= kDecodeQueries && r.longest_k >= 128; }

// Few queries leave most of a tile of 64 rows empty, and narrow heads most of a product.
bool on_hopper(Context& ctx, const Bf16Forward& a) {
  return ctx.cuda()->compute_capability() == 90 && !a.portable && a.shape.head_dim > 32 && a.shape.head_dim % 8 == 0 &&
         a.ranges.longest_q > 16 && a.kv_rows > 0 && aligned(a.q, a.q_stride) && aligned(a.k, a.k_stride) &&
         aligned(a.v, a.v_stride) && hopper_compiled(ctx);
}

// Whether the Hopper kernels turn dq and dk back before they round them. Everywhere else the kernel of the rotary
// embedding does so afterwards.
template <int kDim>
bool turns_in_epilogue(const RotaryAngles& turned) {
  return turned.table != nullptr && turned.dims == kTurnDims<kDim>;
}

template <class T>
void check_turn(const AttentionBackwardArgs<T, float>& a) {
  if (a.turned.dims == 0) return;
  check(!a.accumulate_dq && !a.accumulate_dk && a.forward.kv_rows == a.forward.tokens,
        "[attention] gradients from before a rotation: found ", a.forward.kv_rows, " rows of keys for ",
        a.forward.tokens, " of queries", a.accumulate_dq || a.accumulate_dk ? " and gradients to add to" : "",
        ", expected as many and none");
}

template <class T>
void turn_back(Context& ctx, const AttentionBackwardArgs<T, float>& args) {
  for (const RotaryArgs<T>& turn : turns_back(args)) rotary_cuda(ctx, turn);
}

template <int kDim>
void backward_hopper(Context& ctx, const Bf16Backward& args) {
  Bf16Backward own = args;
  const bool in_epilogue = turns_in_epilogue<kDim>(args.turned);
  if (!in_epilogue) own.turned = {};
  if (own.dq != nullptr) dq_hopper<kDim>(ctx, own);
  if (own.dk != nullptr || own.dv != nullptr) dkv_hopper<kDim>(ctx, own);
  if (!in_epilogue) turn_back(ctx, args);
}

// Calls f(integral_constant w): w the head width rounded up to what the kernels are compiled for.
template <class F>
void dispatch_width(int64_t head_dim, F&& f) {
  if (head_dim <= 32) return f(std::integral_constant<int, 32>{});
  if (head_dim <= 64) return f(std::integral_constant<int, 64>{});
  if (head_dim <= 80) return f(std::integral_constant<int, 80>{});
  if (head_dim <= 96) return f(std::integral_constant<int, 96>{});
  f(std::integral_constant<int, 128>{});
}

}  // namespace

template <>
void attention_forward_cuda(Context& ctx, const AttentionForwardArgs<float, float>& args) {
  check_head_dim(args.shape);
  forward_plain(ctx, args);
}

template <>
void attention_forward_cuda(Context& ctx, const AttentionForwardArgs<bf16, float>& args) {
  check_head_dim(args.shape);
  check_tensor_cores(ctx, args.shape);
  const bool hopper = on_hopper(ctx, args);
  dispatch_width(args.shape.head_dim, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (is_decode(args.ranges)) return forward_decode<kWidth>(ctx, args);
    if constexpr (kWidth > 32) {
      if (hopper) return forward_hopper<kWidth>(ctx, args);
    }
    forward_mma<kWidth>(ctx, args);
  });
}

bool decode_paged_fits(Context& ctx, const AttentionShape& shape, DType dtype, int64_t longest_q,
                       const AttentionPages& pages) {
  return dtype == DType::bf16 && on_tensor_cores(ctx, shape) && longest_q <= kDecodeQueries &&
         (pages.rows % 16 == 0 || pages.width == 1);
}

void decode_paged_cuda(Context& ctx, const AttentionForwardArgs<bf16, float>& args, const AttentionPages& pages) {
  check_head_dim(args.shape);
  dispatch_width(args.shape.head_dim,
                 [&](auto width) { forward_decode_paged<decltype(width)::value>(ctx, args, pages); });
}

template <>
void attention_backward_cuda(Context& ctx, const AttentionBackwardArgs<float, float>& args) {
  check_head_dim(args.forward.shape);
  check_turn(args);
  row_deltas(ctx, args);
  backward_plain(ctx, args);
  turn_back(ctx, args);
}

template <>
void attention_backward_cuda(Context& ctx, const AttentionBackwardArgs<bf16, float>& args) {
  check_head_dim(args.forward.shape);
  check_turn(args);
  row_deltas(ctx, args);
  check_tensor_cores(ctx, args.forward.shape);
  const bool hopper = on_hopper(ctx, args.forward) && aligned(args.grad_out, args.grad_out_stride);
  dispatch_width(args.forward.shape.head_dim, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if constexpr (kWidth > 32) {
      if (hopper) return backward_hopper<kWidth>(ctx, args);
    }
    backward_mma<kWidth>(ctx, args);
    turn_back(ctx, args);
  });
}

}  // namespace matvlm
