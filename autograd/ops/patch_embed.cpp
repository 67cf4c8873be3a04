// Checks, dispatch and node of the patch embedding.
#include "autograd/ops/patch_embed.h"

#include "autograd/ops/cast.h"
#include "autograd/ops/patch_embed_cpu.h"
#include "autograd/ops/patch_embed_device.h"
#include "autograd/ops/reduce.h"
#include "core/dispatch.h"
#include "core/gemm.h"

namespace matvlm {
namespace {

PatchGeometry checked_geometry(const Tensor& images, const Weight& w, const Weight& bias, const Weight& position) {
  check(images.rank() == 4 && images.dim(1) == 3 && images.dim(2) == images.dim(3) && images.contiguous(),
        "[patch_embed] images: found ", shape_string(images.shape()), ", expected [n, 3, S, S], contiguous");
  check(w.value.rank() == 4 && w.value.dim(1) == 3 && w.value.dim(2) == w.value.dim(3), "[patch_embed] weight: found ",
        shape_string(w.value.shape()), ", expected [D, 3, p, p]");
  const PatchGeometry g = {images.dim(0), images.dim(2), w.value.dim(2), w.value.dim(0)};
  check(g.patch > 0 && g.patch <= g.side, "[patch_embed] patches of ", g.patch, " pixels in images of ", g.side);
  check_shape("patch_embed", "bias", bias.value, {g.width});
  check_shape("patch_embed", "position", position.value, {g.patches(), g.width});
  check_dtype("patch_embed", "bias", bias.value, w.value.dtype());
  check_dtype("patch_embed", "position", position.value, w.value.dtype());
  return g;
}

Tensor as_type(Context& ctx, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype) return t;
  Tensor out = Tensor::empty(ctx, t.shape(), dtype);
  cast_into(ctx, t, out);
  return out;
}

Tensor column_scratch(Context& ctx, const PatchGeometry& g) {
  return Tensor::empty(ctx, {g.images * g.patches(), g.depth()}, DType::f32);
}

// Patches as rows, [n * P, 3 * p * p] in rows of whole 16 bytes, as fast products want them; zeros at their ends.
int64_t padded_depth(const PatchGeometry& g, DType dtype) {
  const int64_t unit = 16 / dtype_size(dtype);
  return (g.depth() + unit - 1) / unit * unit;
}

Tensor patches_gpu(Context& ctx, const PatchGeometry& g, const Tensor& pixels) {
  const int64_t depth = padded_depth(g, pixels.dtype());
  Tensor columns = Tensor::empty(ctx, {g.images * g.patches(), depth}, pixels.dtype());
  patches_as_rows_cuda(ctx, g, pixels.dtype(), pixels.raw(), depth, columns.raw());
  return columns;
}

// w as [D, padded depth].
Tensor padded_filters(Context& ctx, const PatchGeometry& g, const Tensor& w) {
  const Tensor filters = w.reshape({g.width, g.depth()});
  const int64_t depth = padded_depth(g, w.dtype());
  if (depth == g.depth()) return filters;
  Tensor out = Tensor::zeros(ctx, {g.width, depth}, w.dtype());
  out.slice_cols(0, g.depth()).copy_from(ctx, filters);
  return out;
}

void forward_gpu(Context& ctx, const PatchGeometry& g, const Tensor& images, const Weight& w, const Weight& bias,
                 const Weight& position, const Tensor& y) {
  gemm(ctx, false, true, 1.0F, patches_gpu(ctx, g, images), padded_filters(ctx, g, w.value), 0.0F, y);
  add_positions_cuda(ctx, g, y.dtype(), bias.value.raw(), position.value.raw(), y.raw());
}

void forward_cpu(Context& ctx, const PatchGeometry& g, const Tensor& images, const Weight& w, const Weight& bias,
                 const Weight& position, const Tensor& y) {
  const Tensor columns = column_scratch(ctx, g);
  patch_embed_forward_cpu<float>({.images = g.images,
                                  .side = g.side,
                                  .patch = g.patch,
                                  .width = g.width,
                                  .pixels = images.data<float>(),
                                  .w = w.value.data<float>(),
                                  .bias = bias.value.data<float>(),
                                  .position = position.value.data<float>(),
                                  .columns = columns.data<float>(),
                                  .y = y.data<float>()});
}

void backward_gpu(Context& ctx, const PatchGeometry& g, const Tensor& images, const Weight& w, const Weight& bias,
                  const Weight& position, const Tensor& dy) {
  if (w.trainable()) {
    const Tensor columns = patches_gpu(ctx, g, images).slice_cols(0, g.depth());
    const float held = take_grad_factor(*w.param);
    gemm(ctx, true, false, 1.0F, dy, columns, held, w.param->grad.reshape({g.width, g.depth()}));
  }
  if (grad_to_add(ctx, bias) != nullptr) add_column_sums(ctx, dy, bias.param->grad);
  if (position.trainable()) {
    add_position_grad_cuda(ctx, g, dy.dtype(), dy.raw(), dy.row_stride(), grad_to_add(ctx, position));
  }
}

void backward_cpu(Context& ctx, const PatchGeometry& g, const Tensor& images, const Weight& w, const Weight& bias,
                  const Weight& position, const Tensor& dy) {
  Tensor columns;
  if (w.trainable()) columns = column_scratch(ctx, g);
  patch_embed_backward_cpu<float>({.images = g.images,
                                   .side = g.side,
                                   .patch = g.patch,
                                   .width = g.width,
                                   .dy = dy.data<float>(),
                                   .dy_stride = dy.row_stride(),
                                   .pixels = images.data<float>(),
                                   .columns = columns.defined() ? columns.data<float>() : nullptr,
                                   .dw = grad_to_add(ctx, w),
                                   .dbias = grad_to_add(ctx, bias),
                                   .dposition = grad_to_add(ctx, position)});
}

}  // namespace

Var patch_embed(Graph& g, const Tensor& images, const Weight& w, const Weight& bias, const Weight& position) {
  const PatchGeometry geometry = checked_geometry(images, w, bias, position);
  Context& ctx = g.ctx();
  const DType dtype = w.value.dtype();
  Tensor y = Tensor::empty(ctx, {geometry.images * geometry.patches(), geometry.width}, dtype);
  const Tensor pixels = as_type(ctx, images, dtype);
  if (y.numel() > 0) {
    dispatch_device(
        ctx, [&] { forward_gpu(ctx, geometry, pixels, w, bias, position, y); },
        [&] { forward_cpu(ctx, geometry, pixels, w, bias, position, y); });
  }
  return g.node(y, {}, {w, bias, position}, [geometry, pixels, w, bias, position](Graph& graph, const Tensor& dy) {
    if (dy.numel() == 0) return;
    dispatch_device(
        graph.ctx(), [&] { backward_gpu(graph.ctx(), geometry, pixels, w, bias, position, dy); },
        [&] { backward_cpu(graph.ctx(), geometry, pixels, w, bias, position, dy); });
  });
}

}  // namespace matvlm
