// Host side of the chunked SSD: time steps, choice of kernels, splitting of sequences, sums over heads and chunks.
#include "autograd/ops/ssd_chunk.h"

#include <algorithm>
#include <numeric>

#include "autograd/ops/ssd_backward.cuh"
#include "autograd/ops/ssd_forward_hopper.cuh"
#include "autograd/ops/ssd_sizes.cuh"
#include "autograd/ops/tensor_map.cuh"
#include "core/cuda_context.h"

namespace matvlm {
namespace {

using namespace ssd_chunk;

constexpr int kPrepareThreads = 256;
constexpr int kHeadTile = 8;
constexpr int kSumThreads = 256;
constexpr float kLog2E = 1.44269504F;

struct PrepareArgs {
  const int64_t* cu;
  int64_t batch, slots;
  int heads;
  const bf16* dt;
  int64_t dt_stride;
  const float *a_log, *dt_bias;
  ChunkInfo* chunks;
  float *step, *cum;
};

__device__ ChunkInfo chunk_of(int64_t slot, int64_t sequence, int64_t begin, int64_t end) {
  const int64_t offset = (slot - first_slot(begin, sequence)) * kChunk;
  const int64_t left = end - begin - offset;
  return {begin + offset, static_cast<int32_t>(max(min(left, static_cast<int64_t>(kChunk)), int64_t{0}))};
}

// For a whole warp. Of few sequences it takes one access to memory, not a chain of them.
__device__ ChunkInfo find_chunk(const int64_t* cu, int64_t batch, int64_t slot, int lane) {
  if (batch < 32) {
    const auto count = static_cast<int>(batch);
    const int64_t begin = cu[min(lane, count)];
    const bool begun = lane < count && first_slot(begin, lane) <= slot;
    const int last = __popc(__ballot_sync(0xffffffffU, begun)) - 1;  // first_slot(cu[0], 0) is 0
    const int64_t first = __shfl_sync(0xffffffffU, begin, last);
    return chunk_of(slot, last, first, __shfl_sync(0xffffffffU, begin, last + 1));
  }
  int64_t low = 0;
  int64_t high = batch;  // first_slot(low) <= slot < first_slot(high)
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_slot(cu[middle], middle) <= slot ? low : high) = middle;
  }
  return chunk_of(slot, low, cu[low], cu[low + 1]);
}

// dt = softplus(raw + bias) and the running log2 decay of each chunk. A warp takes a head, a lane two tokens.
// Grid: (slots, tiles of heads). The work is little, the time that of memory accesses one after the other: all that can
// be asked for at once is.
__global__ void __launch_bounds__(kPrepareThreads) prepare_kernel(PrepareArgs a) {
  static_assert(kHeadTile == kPrepareThreads / 32);
  __shared__ float raw[kChunk][kHeadTile + 1];
  const int64_t slot = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_head = static_cast<int>(blockIdx.y) * kHeadTile;
  const int head = first_head + warp;
  const float a_log = head < a.heads ? a.a_log[head] : 0.0F;
  const float dt_bias = head < a.heads ? a.dt_bias[head] : 0.0F;
  const ChunkInfo chunk = find_chunk(a.cu, a.batch, slot, lane);
  if (blockIdx.y == 0 && threadIdx.x == 0) a.chunks[slot] = chunk;
  if (chunk.count == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < chunk.count * kHeadTile; i += kPrepareThreads) {
    const int row = i / kHeadTile;
    const int h = first_head + i % kHeadTile;
    if (h < a.heads) raw[row][i % kHeadTile] = static_cast<float>(a.dt[(chunk.first + row) * a.dt_stride + h]);
  }
  __syncthreads();
  if (head >= a.heads) return;
  const float rate = -expf(a_log) * kLog2E;
  float step[2];
  float exponent[2];
  for (int k = 0; k < 2; ++k) {
    const int row = 2 * lane + k;
    const float x = row < chunk.count ? raw[row][warp] + dt_bias : 0.0F;
    step[k] = row < chunk.count ? (x > 0.0F ? x + log1pf(expf(-x)) : log1pf(expf(x))) : 0.0F;
    exponent[k] = row < chunk.count ? fmaxf(step[k] * rate, kSmallestStepDecay) : 0.0F;
  }
  float sum = exponent[0] + exponent[1];
  for (int offset = 1; offset < 32; offset *= 2) {
    const float other = __shfl_up_sync(0xffffffffU, sum, offset);
    if (lane >= offset) sum += other;
  }
  const int64_t at = (static_cast<int64_t>(head) * a.slots + slot) * kChunk + 2 * lane;
  *reinterpret_cast<float2*>(a.step + at) = make_float2(step[0], step[1]);
  *reinterpret_cast<float2*>(a.cum + at) = make_float2(sum - exponent[1], sum);
}

// out [T, groups*width] (+)= sums over the parts of each group of partial [T, parts, padded].
__global__ void sum_parts_kernel(const float* partial, int64_t tokens, int64_t parts, int64_t groups, int padded,
                                 Output out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t columns = groups * out.width;
  if (index >= tokens * columns) return;
  const int64_t t = index / columns;
  const int64_t column = index % columns;
  const int64_t per_group = parts / groups;
  const float* from = partial + (t * parts + column / out.width * per_group) * padded + column % out.width;
  float sum = 0.0F;
  for (int64_t i = 0; i < per_group; ++i) sum += from[i * padded];
  add_bf16(out.data + t * out.stride + column, sum, out.accumulate);
}

// Adds the sums of all chunks to the gradients of a_log, d, dt_bias. Grid: (H, 3). A fixed tree: same bits every run.
__global__ void sum_chunks_kernel(const float* sums, int64_t slots, float* da_log, float* dd, float* ddt_bias) {
  __shared__ float part[kSumThreads];
  float* out = blockIdx.y == 0 ? da_log : blockIdx.y == 1 ? dd : ddt_bias;
  if (out == nullptr) return;
  const float* from = sums + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * slots;
  float sum = 0.0F;
  for (int64_t i = threadIdx.x; i < slots; i += kSumThreads) sum += from[i];
  part[threadIdx.x] = sum;
  for (int width = kSumThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < width) part[threadIdx.x] += part[threadIdx.x + width];
  }
  if (threadIdx.x == 0) out[blockIdx.x] += part[0];
}

// The smallest compiled widths that hold P and N, or null.
const SizeKernels* find_size(const SsdShape& shape) {
  const SizeList list = all_sizes();
  const SizeKernels* best = nullptr;
  for (int i = 0; i < list.count; ++i) {
    const SizeKernels& k = list.data[i];
    if (k.p < shape.head_dim || k.n < shape.state) continue;
    if (best == nullptr || k.p * k.n < best->p * best->n) best = &k;
  }
  return best;
}

Rows rows_of(const bf16* data, int64_t stride, int64_t heads, int64_t groups, int64_t width) {
  const bool vectors = reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0 && width % 8 == 0;
  return {data, stride, static_cast<int>(heads / groups), static_cast<int>(width), vectors};
}

Output output_of(bf16* data, int64_t stride, int64_t heads, int64_t groups, int64_t width, bool accumulate) {
  const bool vectors = reinterpret_cast<uintptr_t>(data) % 8 == 0 && stride % 4 == 0 && width % 4 == 0;
  return {data, stride, static_cast<int>(heads / groups), static_cast<int>(width), accumulate, vectors, nullptr};
}

// The problem and the scratch that it points to.
struct Prepared {
  Problem problem;
  Tensor steps;  // f32: dt and exponents, both [H, slots, 64], then a ChunkInfo per slot
};

void launch_prepare(Context& ctx, const SsdArgs<bf16, float>& a, const Problem& p, float* steps, ChunkInfo* chunks) {
  const PrepareArgs args{a.cu,
                         a.batch,
                         p.slots,
                         p.heads,
                         a.dt,
                         a.dt_stride,
                         a.a_log,
                         a.dt_bias,
                         chunks,
                         steps,
                         steps + p.heads * p.slots * kChunk};
  const dim3 grid(static_cast<unsigned>(p.slots), static_cast<unsigned>((p.heads + kHeadTile - 1) / kHeadTile));
  prepare_kernel<<<grid, kPrepareThreads, 0, cuda_stream(ctx)>>>(args);
  MATVLM_LAUNCH_CHECK();
}

// steps: those of a call with the same operands, or undefined.
Prepared prepare(Context& ctx, const SsdArgs<bf16, float>& a, const Tensor& steps) {
  const SsdShape& s = a.shape;
  Prepared out;
  Problem& p = out.problem;
  p.heads = static_cast<int>(s.heads);
  p.head_dim = static_cast<int>(s.head_dim);
  p.state = static_cast<int>(s.state);
  p.slots = first_slot(a.tokens, a.batch);
  p.cu = a.cu;
  const int64_t values = s.heads * p.slots * kChunk;
  const int64_t size = 2 * values + p.slots * static_cast<int64_t>(sizeof(ChunkInfo) / sizeof(float));
  if (steps.defined()) check_shape("ssd", "steps", steps, {size});
  out.steps = steps.defined() ? steps : Tensor::empty(ctx, {size}, DType::f32);
  auto* const first = out.steps.data<float>();
  auto* const chunks = reinterpret_cast<ChunkInfo*>(first + 2 * values);  // values: a multiple of 64
  p.step = first;
  p.cum = first + values;
  p.chunks = chunks;
  p.x = rows_of(a.x, a.x_stride, s.heads, s.x_groups, s.head_dim);
  p.b = rows_of(a.b, a.b_stride, s.heads, s.b_groups, s.state);
  p.c = rows_of(a.c, a.c_stride, s.heads, s.c_groups, s.state);
  p.dy = rows_of(a.dy, a.dy_stride, s.heads, s.heads, s.head_dim);
  if (!steps.defined()) launch_prepare(ctx, a, p, first, chunks);
  return out;
}

// How the forward pass divides sequences.
struct Split {
  int64_t segments = 1;  // of the longest sequence
  int64_t segment_chunks = 1, part_chunks = 1, segment_parts = 1;
};

// Whole sequences where there are enough of them to fill the device; otherwise about as many segments as make the
// longest sequence no longer than each multiprocessor's share of the work, and as many parts of them as fill it twice.
// A call that carries states in and out is not split: a block could then overwrite what another one has yet to read.
Split split_sequences(Context& ctx, const SsdArgs<bf16, float>& a) {
  constexpr int64_t kFewestChunks = 4;
  Split split;
  const int64_t whole = std::max<int64_t>((a.longest + kChunk - 1) / kChunk, 1);
  const int64_t multiprocessors = ctx.cuda()->multiprocessors();
  const double share =
      static_cast<double>(a.tokens) * static_cast<double>(a.shape.heads) / static_cast<double>(multiprocessors);
  const auto segments = static_cast<int64_t>(static_cast<double>(a.longest) / share + 0.5);
  split.segment_chunks = split.part_chunks = whole;
  if (segments < 2 || (a.initial != nullptr && a.final_state != nullptr)) return split;
  const int64_t blocks = a.batch * a.shape.heads * (segments - 1);
  split.segment_parts = std::max<int64_t>(1, (2 * multiprocessors + blocks - 1) / blocks);
  split.part_chunks = (whole + segments * split.segment_parts - 1) / (segments * split.segment_parts);
  split.segment_chunks = split.part_chunks * split.segment_parts;
  if (split.segment_chunks < kFewestChunks) {
    split.part_chunks = split.segment_chunks = kFewestChunks;
    split.segment_parts = 1;
  }
  split.segments = (whole + split.segment_chunks - 1) / split.segment_chunks;
  return split;
}

// Heads that a block of the backward pass takes: of those that share a group as many as let the blocks, one to a
// multiprocessor, end soonest, a block's start counted as one head more. At a tie the larger number: the fewer sums are
// left to add up.
int64_t heads_per_block(Context& ctx, const SsdShape& s, int64_t slots) {
  int64_t together = 0;
  for (const int64_t groups : {s.x_groups, s.b_groups, s.c_groups}) {
    if (groups < s.heads) together = std::gcd(together, s.heads / groups);
  }
  const int64_t multiprocessors = ctx.cuda()->multiprocessors();
  int64_t best = 1;
  int64_t best_cost = INT64_MAX;
  for (int64_t k = together; k > 1; --k) {
    const int64_t blocks = slots * (s.heads / k);
    if (together % k != 0 || blocks < multiprocessors) continue;
    const int64_t cost = (blocks + multiprocessors - 1) / multiprocessors * (k + 1);
    if (cost < best_cost) {
      best = k;
      best_cost = cost;
    }
  }
  return best;
}

// Where the sums over heads of one gradient go.
Tensor prepare_sums(Context& ctx, Output& out, int64_t tokens, int64_t heads, int64_t per_block, int padded) {
  if (out.data == nullptr || out.heads_per_group == 1 || out.heads_per_group == per_block) return {};
  Tensor partial = Tensor::empty(ctx, {tokens, heads / per_block, padded}, DType::f32);
  out.partial = partial.data<float>();
  return partial;
}

void sum_parts(Context& ctx, const Output& out, int64_t tokens, int64_t heads, int64_t per_block, int padded) {
  if (out.partial == nullptr) return;
  const int64_t groups = heads / out.heads_per_group;
  const int64_t count = tokens * groups * out.width;
  sum_parts_kernel<<<static_cast<unsigned>((count + kSumThreads - 1) / kSumThreads), kSumThreads, 0,
                     cuda_stream(ctx)>>>(out.partial, tokens, heads / per_block, groups, padded, out);
  MATVLM_LAUNCH_CHECK();
}

// Shared memory that a block may have.
int64_t shared_limit(Context& ctx, const SsdArgs<bf16, float>& a) {
  const int64_t limit = ctx.cuda()->max_shared_memory();
  return a.portable_shared == 0 ? limit : std::min(limit, a.portable_shared);
}

// Whether this device and build have the kernels that use bulk tensor copies, and the operands are aligned for them.
bool bulk_applies(Context& ctx, const SizeKernels& k, const SsdArgs<bf16, float>& a,
                  std::initializer_list<const Rows*> operands) {
  if (ctx.cuda()->compute_capability() != 90 || a.portable_shared != 0 || a.tokens > INT32_MAX || !k.has_sm90a(ctx)) {
    return false;
  }
  return std::all_of(operands.begin(), operands.end(), [](const Rows* rows) { return rows->vectors; });
}

CUtensorMap operand_map(const Rows& rows, int heads, int64_t tokens, int padded) {
  return head_map(rows.data, rows.width, heads / rows.heads_per_group, tokens, rows.stride, padded + 8, kChunk);
}

// Of B or C for the state pass, whose blocks may keep a part of the columns; `whole`: the map of all of them.
CUtensorMap states_map(const SizeKernels& k, const CUtensorMap& whole, const Rows& rows, int heads, int64_t tokens) {
  return k.states_columns == k.n ? whole : operand_map(rows, heads, tokens, k.states_columns);
}

}  // namespace

bool ssd_chunk_applies(Context& ctx, const SsdArgs<bf16, float>& a, bool backward) {
  const SizeKernels* k = find_size(a.shape);
  if (k == nullptr || a.tokens == 0 || a.every != nullptr) return false;
  const int64_t needed = backward ? k->backward_shared : k->forward_shared;
  constexpr int64_t kGridLimit = 65535;
  return std::max(needed, k->states_shared) <= shared_limit(ctx, a) && a.batch <= kGridLimit;
}

void ssd_chunk_forward(Context& ctx, const SsdArgs<bf16, float>& a, Tensor* steps) {
  const SizeKernels& kernels = *find_size(a.shape);
  const SsdShape& s = a.shape;
  const Prepared prepared = prepare(ctx, a, {});
  if (steps != nullptr) *steps = prepared.steps;
  ForwardArgs args;
  args.problem = prepared.problem;
  args.y = output_of(a.y, a.y_stride, s.heads, s.heads, s.head_dim, false);
  args.d = a.d;
  args.initial = a.initial;
  args.rows = a.slots;
  args.final_state = a.final_state;
  const Split split = split_sequences(ctx, a);
  args.segment_chunks = split.segment_chunks;
  args.part_chunks = split.part_chunks;
  const auto heads = static_cast<unsigned>(s.heads);
  const auto batch = static_cast<unsigned>(a.batch);
  const Problem& p = args.problem;
  const bool bulk = bulk_applies(ctx, kernels, a, {&p.x, &p.b, &p.c});
  ForwardMaps maps{};
  if (bulk) {
    maps = {operand_map(p.x, p.heads, a.tokens, kernels.p), operand_map(p.b, p.heads, a.tokens, kernels.n),
            operand_map(p.c, p.heads, a.tokens, kernels.n)};
  }
  Tensor parts;
  if (split.segments > 1) {
    const int64_t slots = first_part(a.tokens, a.batch, split.part_chunks);
    const int64_t size = static_cast<int64_t>(kernels.p) * kernels.n;
    parts = Tensor::empty(ctx, {slots * s.heads * (size + 1)}, DType::f32);
    StatesArgs states;
    states.problem = args.problem;
    states.part_chunks = split.part_chunks;
    states.segment_parts = split.segment_parts;
    states.pass[0] = {
        args.problem.x, args.problem.b, a.initial,           a.slots,
        nullptr,        nullptr,        parts.data<float>(), parts.data<float>() + slots * s.heads * size};
    args.parts = states.pass[0].parts;
    args.part_decays = states.pass[0].part_decays;
    const auto needed = static_cast<unsigned>((split.segments - 1) * split.segment_parts);
    StatesMaps state_maps{{maps.x, {}}, {}};
    if (bulk) state_maps.v[0] = states_map(kernels, maps.b, p.b, p.heads, a.tokens);
    kernels.states(states, bulk ? &state_maps : nullptr, dim3(heads, batch, needed), cuda_stream(ctx));
  }
  const dim3 grid(heads, static_cast<unsigned>(split.segments), batch);
  if (bulk) return kernels.pipeline(args, maps, grid, cuda_stream(ctx));
  kernels.forward(args, shared_limit(ctx, a), grid, cuda_stream(ctx));
}

void ssd_chunk_backward(Context& ctx, const SsdArgs<bf16, float>& a, const Tensor& known_steps) {
  const SizeKernels& kernels = *find_size(a.shape);
  const SsdShape& s = a.shape;
  const Prepared prepared = prepare(ctx, a, known_steps);
  const Problem& p = prepared.problem;
  const Tensor states = Tensor::empty(ctx, {2, p.slots * s.heads, kernels.p * kernels.n}, DType::bf16);
  bf16* const before = states.data<bf16>();
  bf16* const after = before + p.slots * s.heads * kernels.p * kernels.n;
  StatesArgs passes;
  passes.problem = p;
  passes.pass[0] = {p.x, p.b, a.initial, a.slots, nullptr, before, nullptr, nullptr};
  passes.pass[1] = {p.dy, p.c, a.dfinal_state, nullptr, a.dinitial, after, nullptr, nullptr};
  const int64_t state_rows = p.slots * s.heads * kernels.p;
  const bool bulk = state_rows <= INT32_MAX && bulk_applies(ctx, kernels, a, {&p.x, &p.b, &p.c, &p.dy});
  BackwardMaps maps{};
  if (bulk) {
    const auto all_states = [&](const bf16* data) {
      return head_map(data, kernels.n, 1, state_rows, kernels.n, kernels.n + 8, kernels.p);
    };
    maps = {operand_map(p.x, p.heads, a.tokens, kernels.p),
            operand_map(p.dy, p.heads, a.tokens, kernels.p),
            operand_map(p.b, p.heads, a.tokens, kernels.n),
            operand_map(p.c, p.heads, a.tokens, kernels.n),
            all_states(before),
            all_states(after)};
  }
  StatesMaps state_maps{{maps.x, maps.dy}, {}};
  if (bulk) {
    state_maps.v[0] = states_map(kernels, maps.b, p.b, p.heads, a.tokens);
    state_maps.v[1] = states_map(kernels, maps.c, p.c, p.heads, a.tokens);
  }
  kernels.states(passes, bulk ? &state_maps : nullptr,
                 dim3(static_cast<unsigned>(s.heads), static_cast<unsigned>(a.batch), 2), cuda_stream(ctx));

  BackwardArgs args;
  args.problem = p;
  args.a_log = a.a_log;
  args.d = a.d;
  args.states = before;
  args.dstates = after;
  args.dx = output_of(a.dx, a.dx_stride, s.heads, s.x_groups, s.head_dim, a.dx_accumulate);
  args.db = output_of(a.db, a.db_stride, s.heads, s.b_groups, s.state, a.db_accumulate);
  args.dc = output_of(a.dc, a.dc_stride, s.heads, s.c_groups, s.state, a.dc_accumulate);
  args.ddt = output_of(a.ddt, a.ddt_stride, s.heads, s.heads, 1, a.ddt_accumulate);
  const int64_t per_block = heads_per_block(ctx, s, p.slots);
  args.heads_per_block = static_cast<int>(per_block);
  const Tensor x_sums = prepare_sums(ctx, args.dx, a.tokens, s.heads, per_block, kernels.p);
  const Tensor b_sums = prepare_sums(ctx, args.db, a.tokens, s.heads, per_block, kernels.n);
  const Tensor c_sums = prepare_sums(ctx, args.dc, a.tokens, s.heads, per_block, kernels.n);
  const Tensor weight_sums = Tensor::empty(ctx, {3, s.heads, p.slots}, DType::f32);
  args.weight_sums = weight_sums.data<float>();
  const dim3 grid(static_cast<unsigned>(p.slots * (s.heads / per_block)));
  kernels.backward(args, bulk ? &maps : nullptr, per_block > 1, grid, cuda_stream(ctx));
  sum_parts(ctx, args.dx, a.tokens, s.heads, per_block, kernels.p);
  sum_parts(ctx, args.db, a.tokens, s.heads, per_block, kernels.n);
  sum_parts(ctx, args.dc, a.tokens, s.heads, per_block, kernels.n);
  sum_chunks_kernel<<<dim3(static_cast<unsigned>(s.heads), 3), kSumThreads, 0, cuda_stream(ctx)>>>(
      args.weight_sums, p.slots, a.da_log, a.dd, a.ddt_bias);
  MATVLM_LAUNCH_CHECK();
}

}  // namespace matvlm
