// Rotary embedding: checks, dispatch, autograd node.
#include "autograd/ops/rotary.h"

#include "autograd/ops/rotary_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

struct Rotation {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dims = 0;
  double theta = 0;
  std::vector<double> frequencies;  // empty: by theta
};

template <class T>
RotaryArgs<T> rotary_args(const Rotation& r, const Tensor& positions, const Tensor& x, const Tensor& y, bool inverse,
                          bool accumulate) {
  RotaryArgs<T> a;
  a.tokens = x.dim(0);
  a.heads = r.heads;
  a.head_dim = r.head_dim;
  a.rotary_dims = r.rotary_dims;
  a.theta = r.theta;
  a.frequencies = r.frequencies.empty() ? nullptr : r.frequencies.data();
  a.inverse = inverse;
  a.accumulate = accumulate;
  a.positions = positions.data<int32_t>();
  a.x = x.data<T>();
  a.x_stride = x.row_stride();
  a.y = y.data<T>();
  a.y_stride = y.row_stride();
  return a;
}

// angles: on a GPU where defined, the table of RotaryAngles.
void rotate(Context& ctx, const Rotation& r, const Tensor& positions, const Tensor& x, const Tensor& y, bool inverse,
            bool accumulate, const Tensor& angles = {}) {
  if (x.numel() == 0) return;
  const auto on_gpu = [&] {
    dispatch_float("rotary", x.dtype(), [&](auto element) {
      using T = decltype(element);
      RotaryArgs<T> args = rotary_args<T>(r, positions, x, y, inverse, accumulate);
      if (angles.defined()) args.table = angles.data<float>();
      rotary_cuda(ctx, args);
    });
  };
  Tensor table;
  if (!ctx.on_gpu()) table = Tensor::empty(ctx, {x.dim(0), r.rotary_dims}, DType::f32);
  dispatch_device(ctx, on_gpu, [&] {
    rotary_cpu(rotary_args<float>(r, positions, x, y, inverse, accumulate), table.data<float>());
  });
}

void check_arguments(const Context& ctx, const Rotation& r, const Tensor& x, const Tensor& positions) {
  check(r.heads > 0 && r.head_dim > 0, "[rotary] found ", r.heads, " heads of width ", r.head_dim,
        ", expected positive numbers");
  check(r.rotary_dims >= 0 && r.rotary_dims <= r.head_dim && r.rotary_dims % 2 == 0, "[rotary] rotary dims: found ",
        r.rotary_dims, ", expected an even number from 0 to the head width ", r.head_dim);
  check(r.theta > 0 || !r.frequencies.empty(), "[rotary] theta: found ", r.theta, ", expected a positive number");
  check(x.rank() == 2, "[rotary] x: found ", shape_string(x.shape()), ", expected [tokens, heads * head width]");
  check_shape("rotary", "x", x, {x.dim(0), r.heads * r.head_dim});
  check_shape("rotary", "positions", positions, {x.dim(0)});
  check_dtype("rotary", "positions", positions, DType::i32);
  check(x.device() == ctx.device() && positions.device() == ctx.device(), "[rotary] found x on ",
        device_name(x.device()), " and positions on ", device_name(positions.device()), ", expected ",
        device_name(ctx.device()));
  if (!ctx.on_gpu()) check_dtype("rotary", "x on the CPU", x, DType::f32);
}

Var rotary_node(Graph& g, const Var& x, const Rotation& r, const Tensor& positions) {
  check_arguments(g.ctx(), r, x.value(), positions);
  const Tensor y = Tensor::empty(g.ctx(), x.value().shape(), x.value().dtype());
  rotate(g.ctx(), r, positions, x.value(), y, false, false);
  return g.node(y, {x}, {}, [r, x = x.route(), positions](Graph& graph, const Tensor& grad_output) {
    const Graph::GradSlot slot = graph.grad_slot(x);
    rotate(graph.ctx(), r, positions, grad_output, slot.tensor, true, slot.accumulate);
  });
}

Rotation rotation_by(int64_t heads, int64_t head_dim, const std::vector<double>& frequencies) {
  check(!frequencies.empty(), "[rotary] found no frequencies, expected one for each pair");
  return {heads, head_dim, 2 * static_cast<int64_t>(frequencies.size()), 0, frequencies};
}

// The first columns of x, where they are. angles as in rotate().
void rotate_columns(Context& ctx, const Rotation& r, const Var& x, const Tensor& positions, const Tensor& angles) {
  const int64_t width = r.heads * r.head_dim;
  const Tensor& value = x.value();
  check(value.rank() == 2 && value.contiguous() && value.cols() >= width, "[rotary] x: found ",
        shape_string(value.shape()), ", expected [tokens, ", width, " or more], contiguous");
  const Tensor turned = value.slice_cols(0, width);
  check_arguments(ctx, r, turned, positions);
  rotate(ctx, r, positions, turned, turned, false, false, angles);
}

}  // namespace

RotaryAngles RotaryTurn::angles() const {
  if (frequencies.empty()) return {};
  return {dims(), positions.data<int32_t>(), frequencies.data(), table.defined() ? table.data<float>() : nullptr};
}

RotaryTurn turn_in_place(Graph& g, const Var& x, int64_t heads, int64_t head_dim,
                         const std::vector<double>& frequencies, const Tensor& positions) {
  const Rotation r = rotation_by(heads, head_dim, frequencies);
  RotaryTurn turn{frequencies, positions, {}};
  if (g.ctx().on_gpu() && g.recording() && x.requires_grad()) {
    turn.table = Tensor::empty(g.ctx(), {x.value().rows(), turn.dims()}, DType::f32);
  }
  rotate_columns(g.ctx(), r, x, positions, turn.table);
  return turn;
}

Var rotary_in_place(Graph& g, const Var& x, int64_t heads, int64_t head_dim, const std::vector<double>& frequencies,
                    const Tensor& positions) {
  const Rotation r = rotation_by(heads, head_dim, frequencies);
  rotate_columns(g.ctx(), r, x, positions, {});
  const int64_t width = heads * head_dim;
  return g.node(x.value(), {x}, {}, [r, width, x = x.route(), positions](Graph& graph, const Tensor& grad_output) {
    const Tensor columns = grad_output.slice_cols(0, width);
    rotate(graph.ctx(), r, positions, columns, columns, true, false);
    graph.add_grad(x, grad_output);
  });
}

Var rotary(Graph& g, const Var& x, int64_t heads, int64_t head_dim, int64_t rotary_dims, double theta,
           const Tensor& positions) {
  return rotary_node(g, x, {heads, head_dim, rotary_dims, theta, {}}, positions);
}

Var rotary(Graph& g, const Var& x, int64_t heads, int64_t head_dim, const std::vector<double>& frequencies,
           const Tensor& positions) {
  return rotary_node(g, x, rotation_by(heads, head_dim, frequencies), positions);
}

}  // namespace matvlm
