// Attention as graphs of cuDNN operations, in the form that its fused engines look for: products, masks by comparison
// of indices, softmax by its parts. One plan a shape.
#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <map>

#include "autograd/ops/attention_dnn.h"
#include "autograd/ops/attention_dnn_device.h"
#include "core/cuda_context.h"
#include "core/dnn_graph.h"

namespace matvlm {
namespace {

// From here on backward zeroes its accumulator itself and packed rows may have grouped heads. Until kPaddedBackward,
// backward without boundaries is wrong unless keys come in multiples of 128, so it is given boundaries always.
constexpr int64_t kOldest = 90600;
constexpr int64_t kPaddedBackward = 91500;
constexpr const char* kName = "attention, back end cudnn";

enum Operand { kQ, kK, kV, kOut, kGradOut, kDq, kDk, kDv, kOperands };
constexpr bool kOfKeys[kOperands] = {false, true, true, false, false, false, true, true};

// What a plan is made for.
struct Problem {
  AttentionShape shape;
  int64_t batch = 0, length = 0;
  bool uniform = false;
  bool backward = false;
  bool statistics = false;  // forward: the log-sum-exp is wanted
  std::array<int64_t, kOperands> strides = {};

  std::vector<int64_t> key() const {
    std::vector<int64_t> k = {
        shape.heads, shape.kv_heads, shape.head_dim,  shape.causal ? 1 : 0, std::bit_cast<int64_t>(shape.scale),
        batch,       length,         uniform ? 1 : 0, backward ? 1 : 0,     statistics ? 1 : 0};
    k.insert(k.end(), strides.begin(), strides.end());
    return k;
  }
  int operands() const { return backward ? kOperands : kOut + 1; }
  int64_t heads(int operand) const { return kOfKeys[operand] ? shape.kv_heads : shape.heads; }
};

struct Plan {
  Plan(Context& ctx, const Problem& problem, bool is_deterministic)
      : p(problem), deterministic(is_deterministic), graph(ctx, kName) {}

  Problem p;
  bool deterministic;
  DnnGraph graph;
  std::array<DnnTensor, kOperands> operands = {};
  std::array<DnnTensor, kOperands> offsets = {};  // equal strides of tensors of one kind share theirs
  DnnTensor lengths_q = 0, lengths_k = 0;
  DnnTensor lse = 0;
  DnnTensor row_sums = 0, dq_sums = 0;  // scratch of the backward

  DnnLengths over(DnnTensor m, DnnTensor n, DnnTensor k) const { return {m, n, k}; }
  // [B, H, rows, columns] without gaps.
  DnnTensorInfo dense(int64_t rows, int64_t columns, DnnType type = DnnType::f32) const {
    const int64_t h = p.shape.heads;
    return {{p.batch, h, rows, columns}, {h * rows * columns, rows * columns, columns, 1}, type, 0};
  }
  DnnTensorInfo scores(DnnType type = DnnType::f32) const { return dense(p.length, p.length, type); }
  DnnTensorInfo per_row() const {
    return {{p.batch, p.shape.heads, p.length, 1}, {p.shape.heads * p.length, p.length, 1, 1}, DnnType::f32, 0};
  }
  DnnTensorInfo heads_of(int operand, bool transposed) const;

  DnnTensor apply(DnnPointwise mode, const std::vector<DnnTensor>& inputs, const DnnTensorInfo& out,
                  DnnType compute = DnnType::f32);
  void add_boundaries();
  void add_operand(int operand, bool transposed = false);
  DnnTensor add_scores();
  DnnTensor add_boundary_mask(DnnTensor s);
  DnnTensor add_causal_mask(DnnTensor s);
  void add_forward();
  void add_backward();
  void add_key_gradient(DnnTensor weights, DnnTensor rows, DnnTensor gradient);
};

DnnTensorInfo Plan::heads_of(int operand, bool transposed) const {
  const int64_t stride = p.strides[static_cast<size_t>(operand)];
  const int64_t width = p.shape.head_dim;
  DnnTensorInfo info{{p.batch, p.heads(operand), p.length, width},
                     {p.length * stride, width, stride, 1},
                     DnnType::bf16,
                     offsets[static_cast<size_t>(operand)]};
  if (transposed) {
    std::swap(info.dims[2], info.dims[3]);
    std::swap(info.strides[2], info.strides[3]);
  }
  return info;
}

DnnTensor Plan::apply(DnnPointwise mode, const std::vector<DnnTensor>& inputs, const DnnTensorInfo& out,
                      DnnType compute) {
  const DnnTensor result = graph.inner(out);
  graph.pointwise(mode, inputs, result, compute);
  return result;
}

// Lengths of the sequences, and where each starts in every operand.
void Plan::add_boundaries() {
  if (p.uniform) return;
  const DnnTensorInfo lengths{{p.batch, 1, 1, 1}, {1, 1, 1, 1}, DnnType::i32, 0};
  lengths_q = graph.memory(lengths);
  lengths_k = graph.memory(lengths);
  constexpr int kSameKind[kOperands] = {kQ, kK, kV, kOut, kOut, kQ, kK, kV};
  for (int i = 0; i < p.operands(); ++i) {
    const int other = kSameKind[i];
    const bool shared = other != i && p.strides[static_cast<size_t>(other)] == p.strides[static_cast<size_t>(i)];
    offsets[static_cast<size_t>(i)] = shared ? offsets[static_cast<size_t>(other)]
                                             : graph.memory({{p.batch + 1, 1, 1, 1}, {1, 1, 1, 1}, DnnType::i32, 0});
  }
}

void Plan::add_operand(int operand, bool transposed) {
  operands[static_cast<size_t>(operand)] = graph.memory(heads_of(operand, transposed));
}

// scale * q k^T
DnnTensor Plan::add_scores() {
  const DnnTensor products = graph.inner(scores());
  graph.matmul(operands[kQ], operands[kK], products, over(lengths_q, lengths_k, 0), !p.uniform && !p.backward);
  return apply(DnnPointwise::multiply, {products, graph.number(static_cast<float>(p.shape.scale))}, scores());
}

// -inf past the end of a sequence.
DnnTensor Plan::add_boundary_mask(DnnTensor s) {
  if (p.uniform) return s;
  const auto inside = [&](int64_t axis, DnnTensor lengths) {
    const DnnTensor index = graph.inner(scores(DnnType::i32));
    graph.index(s, axis, index, DnnType::i32);
    return apply(DnnPointwise::less, {index, lengths}, scores(DnnType::boolean), DnnType::boolean);
  };
  const DnnTensor rows = inside(2, lengths_q);
  const DnnTensor columns = inside(3, lengths_k);
  const DnnTensor both = apply(DnnPointwise::logical_and, {rows, columns}, scores(DnnType::boolean), DnnType::boolean);
  return apply(DnnPointwise::select, {s, graph.number(-std::numeric_limits<float>::infinity()), both}, scores());
}

// -inf where a key comes after the query.
DnnTensor Plan::add_causal_mask(DnnTensor s) {
  if (!p.shape.causal) return s;
  const DnnTensor row = graph.inner(scores(DnnType::i32));
  graph.index(s, 2, row);
  const DnnTensor column = graph.inner(scores(DnnType::i32));
  graph.index(s, 3, column);
  const DnnTensor seen = apply(DnnPointwise::greater_equal, {row, column}, scores(DnnType::boolean), DnnType::boolean);
  return apply(DnnPointwise::select, {s, graph.number(-std::numeric_limits<float>::infinity()), seen}, scores());
}

void Plan::add_forward() {
  add_boundaries();
  add_operand(kQ);
  add_operand(kK, true);
  add_operand(kV);
  add_operand(kOut);
  const DnnTensor s = add_causal_mask(add_boundary_mask(add_scores()));
  const DnnTensor max = graph.inner(per_row());
  graph.reduce(DnnReduction::max, s, max);
  const DnnTensor e = apply(DnnPointwise::exp, {apply(DnnPointwise::subtract, {s, max}, scores())}, scores());
  const DnnTensor sum = graph.inner(per_row());
  graph.reduce(DnnReduction::sum, e, sum);
  // Without them the engines do not know the graph: they stay inside where nobody wants them.
  const DnnTensor statistics = p.statistics ? graph.memory(per_row()) : graph.inner(per_row());
  if (p.statistics) lse = statistics;
  graph.pointwise(DnnPointwise::add, {max, apply(DnnPointwise::log, {sum}, per_row())}, statistics);
  const DnnTensor weights = apply(DnnPointwise::divide, {e, sum}, scores(DnnType::bf16));
  graph.matmul(weights, operands[kV], operands[kOut], over(lengths_q, 0, lengths_k));
}

// gradient = weights^T rows, added up over the query heads of a key head.
void Plan::add_key_gradient(DnnTensor weights, DnnTensor rows, DnnTensor gradient) {
  DnnTensorInfo turned = scores(DnnType::bf16);
  std::swap(turned.strides[2], turned.strides[3]);
  const DnnTensor transposed = graph.inner(turned);
  graph.reshape(weights, transposed);
  const DnnLengths lengths = over(lengths_k, 0, lengths_q);
  if (p.shape.heads == p.shape.kv_heads) return graph.matmul(transposed, rows, gradient, lengths);
  const DnnTensor every_head = graph.inner(dense(p.length, p.shape.head_dim, DnnType::bf16));
  graph.matmul(transposed, rows, every_head, lengths);
  graph.reduce(DnnReduction::sum, every_head, gradient);
}

void Plan::add_backward() {
  add_boundaries();
  add_operand(kQ);
  add_operand(kK, true);
  add_operand(kV, true);
  for (const int operand : {kOut, kGradOut, kDq, kDk, kDv}) add_operand(operand);
  lse = graph.memory(per_row());
  // <grad_out, out> of every row
  const DnnTensor products =
      apply(DnnPointwise::multiply, {operands[kGradOut], operands[kOut]}, dense(p.length, p.shape.head_dim));
  const DnnTensor plain_sums = graph.inner(per_row());
  graph.reduce(DnnReduction::sum, products, plain_sums);
  row_sums = graph.memory(per_row());
  graph.pointwise(DnnPointwise::multiply, {plain_sums, graph.number(1.0F)}, row_sums);
  // probabilities, dv
  const DnnTensor logits = apply(DnnPointwise::subtract, {add_boundary_mask(add_scores()), lse}, scores());
  const DnnTensor probabilities = apply(DnnPointwise::exp, {add_causal_mask(logits)}, scores());
  add_key_gradient(probabilities, operands[kGradOut], operands[kDv]);
  // gradients of the scores, dk, dq
  const DnnTensor dp = graph.inner(scores());
  graph.matmul(operands[kGradOut], operands[kV], dp, over(lengths_q, lengths_k, 0));
  const DnnTensor centred = apply(DnnPointwise::subtract, {dp, row_sums}, scores());
  const DnnTensor unscaled = apply(DnnPointwise::multiply, {centred, probabilities}, scores());
  const DnnTensor ds =
      apply(DnnPointwise::multiply, {unscaled, graph.number(static_cast<float>(p.shape.scale))}, scores());
  add_key_gradient(ds, operands[kQ], operands[kDk]);
  const DnnTensor keys = graph.inner(heads_of(kK, false));
  graph.reshape(operands[kK], keys);
  const DnnLengths lengths = over(lengths_q, 0, lengths_k);
  if (deterministic) return graph.matmul(ds, keys, operands[kDq], lengths);
  dq_sums = graph.memory(dense(p.length, p.shape.head_dim));
  graph.matmul(ds, keys, dq_sums, lengths);
  graph.pointwise(DnnPointwise::identity, {dq_sums}, operands[kDq]);
}

void check_operands(const Problem& p, const std::array<const void*, kOperands>& data) {
  constexpr const char* kNames[kOperands] = {"q", "k", "v", "out", "grad_out", "dq", "dk", "dv"};
  check(p.shape.head_dim % 8 == 0 && p.shape.head_dim <= 128, "[", kName, "] head width: found ", p.shape.head_dim,
        ", expected a multiple of 8 up to 128");
  for (int i = 0; i < p.operands(); ++i) {
    const auto n = static_cast<size_t>(i);
    check(data[n] != nullptr, "[", kName, "] ", kNames[i], ": found none, expected all operands");
    check(reinterpret_cast<uintptr_t>(data[n]) % 16 == 0 && p.strides[n] % 8 == 0, "[", kName, "] ", kNames[i],
          ": found rows at a stride of ", p.strides[n],
          ", expected a multiple of 8, and the first aligned to 16 bytes");
    check(p.uniform || p.batch * p.length * p.strides[n] <= std::numeric_limits<int32_t>::max(), "[", kName, "] ",
          kNames[i], ": found ", p.batch, " sequences of up to ", p.length, " rows at a stride of ", p.strides[n],
          ", expected offsets below 2^31");
  }
}

}  // namespace

class DnnAttention {
 public:
  explicit DnnAttention(bool deterministic) : deterministic_(deterministic) {}

  const Plan& plan(Context& ctx, const Problem& problem) {
    std::unique_ptr<Plan>& plan = plans_[problem.key()];
    if (plan != nullptr) return *plan;
    auto made = std::make_unique<Plan>(ctx, problem, deterministic_);
    if (problem.backward) {
      made->add_backward();
    } else {
      made->add_forward();
    }
    made->graph.build();
    plan = std::move(made);
    return *plan;
  }

 private:
  bool deterministic_;
  std::map<std::vector<int64_t>, std::unique_ptr<Plan>> plans_;
};

std::shared_ptr<DnnAttention> make_dnn_attention(Context& ctx, bool deterministic) {
  check(ctx.on_gpu(), "[", kName, "] found device ", device_name(ctx.device()), ", expected a GPU or native");
  check(dnn_version() >= kOldest, "[", kName, "] found cuDNN ", dnn_version(), ", expected ", kOldest, " or newer");
  check(ctx.cuda()->compute_capability() >= 80, "[", kName, "] found compute capability ",
        ctx.cuda()->compute_capability(), ", expected 80 or newer");
  return std::make_shared<DnnAttention>(deterministic);
}

namespace {

// The tables of a packed row on the device, with the tensors they are.
struct Boundaries {
  Tensor memory, cu;
  std::vector<std::pair<DnnTensor, const void*>> pointers;
};

Boundaries upload_boundaries(Context& ctx, const Plan& plan, const Seqlens& lens, const DnnAttentionRows& rows) {
  Boundaries b;
  if (plan.p.uniform) return b;
  const bool none_empty = rows.batch == lens.batch();
  b.cu = none_empty ? lens.device_cu : Tensor::from(ctx, rows.cu, {rows.batch + 1});
  DnnTables t;
  t.cu = b.cu.data<int64_t>();
  t.batch = rows.batch;
  t.pitch = (rows.batch + 1 + 3) / 4 * 4;  // 16 bytes
  b.memory = Tensor::empty(ctx, {(1 + kMaxDnnStrides) * t.pitch}, DType::i32);
  t.lengths = b.memory.data<int32_t>();
  t.offsets = t.lengths + t.pitch;
  b.pointers = {{plan.lengths_q, t.lengths}, {plan.lengths_k, t.lengths}};
  for (size_t i = 0; i < static_cast<size_t>(plan.p.operands()); ++i) {
    const bool known = std::any_of(b.pointers.begin(), b.pointers.end(),
                                   [&](const auto& pointer) { return pointer.first == plan.offsets[i]; });
    if (known) continue;
    b.pointers.emplace_back(plan.offsets[i], t.offsets + t.count * t.pitch);
    t.strides[t.count++] = plan.p.strides[i];
  }
  fill_dnn_tables(ctx, t);
  return b;
}

Problem problem_of(const DnnAttentionRows& rows, const AttentionShape& shape) {
  Problem p;
  p.shape = shape;
  p.batch = rows.batch;
  p.length = rows.length;
  p.uniform = rows.uniform;
  if (p.uniform && dnn_version() <= kPaddedBackward && p.length % 128 != 0) p.uniform = false;
  return p;
}

void run(Context& ctx, DnnAttention& dnn, const Seqlens& lens, const DnnAttentionRows& rows, const Problem& problem,
         const std::array<const void*, kOperands>& data, const float* lse) {
  check_operands(problem, data);
  const Plan& plan = dnn.plan(ctx, problem);
  const Boundaries boundaries = upload_boundaries(ctx, plan, lens, rows);
  std::vector<std::pair<DnnTensor, const void*>> pointers = boundaries.pointers;
  for (size_t i = 0; i < static_cast<size_t>(problem.operands()); ++i) pointers.emplace_back(plan.operands[i], data[i]);
  if (plan.lse != 0) pointers.emplace_back(plan.lse, lse);
  const int64_t values = problem.batch * problem.shape.heads * problem.length;
  Tensor row_sums, dq_sums;
  if (plan.row_sums != 0) {
    row_sums = Tensor::empty(ctx, {values}, DType::f32);
    pointers.emplace_back(plan.row_sums, row_sums.raw());
  }
  if (plan.dq_sums != 0) {
    dq_sums = Tensor::empty(ctx, {values * problem.shape.head_dim}, DType::f32);
    pointers.emplace_back(plan.dq_sums, dq_sums.raw());
  }
  plan.graph.run(ctx, pointers);
}

std::array<const void*, kOperands> forward_operands(const AttentionForwardArgs<bf16, float>& a, Problem& p) {
  p.strides = {a.q_stride, a.k_stride, a.v_stride, a.out_stride};
  return {a.q, a.k, a.v, a.out};
}

}  // namespace

void attention_forward_dnn(Context& ctx, DnnAttention& dnn, const Seqlens& lens,
                           const AttentionForwardArgs<bf16, float>& args) {
  const DnnAttentionRows rows = dnn_attention_rows(lens);
  if (rows.batch == 0) return;
  Problem p = problem_of(rows, args.shape);
  p.statistics = args.lse != nullptr;
  // Rows past the end of a sequence have no statistics; backward reads them all the same.
  const int64_t values = rows.batch * args.shape.heads * rows.length;
  if (p.statistics && !p.uniform) ctx.fill_bytes(args.lse, 0, values * static_cast<int64_t>(sizeof(float)));
  const auto data = forward_operands(args, p);
  run(ctx, dnn, lens, rows, p, data, args.lse);
}

void attention_backward_dnn(Context& ctx, DnnAttention& dnn, const Seqlens& lens,
                            const AttentionBackwardArgs<bf16, float>& args) {
  const DnnAttentionRows rows = dnn_attention_rows(lens);
  if (rows.batch == 0) return;
  check(!args.accumulate_dq && !args.accumulate_dk && !args.accumulate_dv && args.forward.lse != nullptr, "[", kName,
        "] backward: found gradients to add to or no log-sum-exp, expected neither");
  Problem p = problem_of(rows, args.forward.shape);
  p.backward = true;
  auto data = forward_operands(args.forward, p);
  data[kGradOut] = args.grad_out;
  data[kDq] = args.dq;
  data[kDk] = args.dk;
  data[kDv] = args.dv;
  p.strides[kGradOut] = args.grad_out_stride;
  p.strides[kDq] = args.dq_stride;
  p.strides[kDk] = args.dk_stride;
  p.strides[kDv] = args.dv_stride;
  run(ctx, dnn, lens, rows, p, data, args.forward.lse);
}

}  // namespace matvlm
