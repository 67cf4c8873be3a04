// Checks, dispatch and node of the patch embedding.
#include "autograd/ops/patch_embed.h"

#include "autograd/ops/cast.h"
#include "autograd/ops/patch_embed_cpu.h"
#include "autograd/ops/patch_embed_device.h"
#include "autograd/ops/reduce.h"
#include "core/dispatch.h"

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
  return Tensor::empty(ctx, {g.images * g.patches(), 3 * g.patch * g.patch}, DType::f32);
}

void forward_gpu(Context& ctx, const PatchGeometry& g, const Tensor& images, const Weight& w, const Weight& bias,
                 const Weight& position, const Tensor& y) {
  const Tensor planes = Tensor::empty(ctx, {g.images, g.width, g.patches()}, y.dtype());
  patch_convolution_cuda(ctx, g, y.dtype(), images.raw(), w.value.raw(), planes.raw());
  planes_to_rows_cuda(ctx, g, y.dtype(), planes.raw(), bias.value.raw(), position.value.raw(), y.raw());
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
    // In float32 also for bf16 activations: cuDNN would round the filter gradient to bf16.
    const Tensor dplanes = Tensor::empty(ctx, {g.images, g.width, g.patches()}, DType::f32);
    rows_to_planes_cuda(ctx, g, dy.dtype(), dy.raw(), dy.row_stride(), dplanes.data<float>());
    const Tensor pixels = as_type(ctx, images, DType::f32);
    patch_filter_grad_cuda(ctx, g, pixels.data<float>(), dplanes.data<float>(), grad_to_add(ctx, w));
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
