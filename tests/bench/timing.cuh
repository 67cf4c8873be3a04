// Timing of kernels for the programs of tests/bench: device time by events around a captured graph, so that neither
// launches on the host nor the cache flatter or hide anything.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/cuda_context.h"
#include "core/tensor.h"

namespace matvlm::bench {

// Bytes that the runs of one timing should touch together, so that each finds its inputs in memory and not in the
// 50 MB cache of an H100 (60 MB on later cards).
constexpr int64_t kRotatedBytes = 400LL << 20;

// Sets of buffers that a run of `bytes` needs for that, at most `most` (for runs so small that they are bound by
// latency).
inline int buffer_sets(int64_t bytes, int64_t most = 32) {
  return static_cast<int>(std::clamp<int64_t>((kRotatedBytes + bytes - 1) / std::max<int64_t>(bytes, 1), 2, most));
}

struct TimingOptions {
  int timings = 25;       // of which the median is taken
  bool flush_l2 = false;  // write a large buffer before each timing, for inputs that cannot be rotated. Its lines are
                          // still to be written back when the timing starts, so rotating is the better way
};

// A captured sequence of launches.
class CapturedGraph {
 public:
  template <class F>
  CapturedGraph(Context& ctx, F&& launches) : stream_(cuda_stream(ctx)) {
    MATVLM_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
    launches();
    cudaGraph_t graph = nullptr;
    MATVLM_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    MATVLM_CUDA_CHECK(status);
  }
  ~CapturedGraph() { cudaGraphExecDestroy(executable_); }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;
  void launch() const { MATVLM_CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

class Event {
 public:
  Event() { MATVLM_CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Context& ctx) const { MATVLM_CUDA_CHECK(cudaEventRecord(event_, cuda_stream(ctx))); }
  void wait() const { MATVLM_CUDA_CHECK(cudaEventSynchronize(event_)); }
  // Milliseconds from `start` to this one, once both have happened.
  double since(const Event& start) const {
    float ms = 0;
    MATVLM_CUDA_CHECK(cudaEventSynchronize(event_));
    MATVLM_CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
    return static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Median milliseconds of one run(i): a timing covers i = 0 ... sets - 1, each with its own buffers. run() only launches
// work on the context's stream; what it allocates comes from blocks that the first, untimed round has left behind.
template <class F>
double median_ms(Context& ctx, int sets, F&& run, const TimingOptions& options = {}) {
  for (int i = 0; i < sets; ++i) run(i);
  ctx.synchronize();
  const CapturedGraph graph(ctx, [&] {
    for (int i = 0; i < sets; ++i) run(i);
  });
  Tensor flushed;
  if (options.flush_l2) flushed = Tensor::empty(ctx, {kRotatedBytes}, DType::u8);
  const Event start, stop;
  std::vector<double> times;
  for (int i = 0; i < options.timings + 2; ++i) {
    if (options.flush_l2) ctx.fill_bytes(flushed.raw(), i % 2, kRotatedBytes);
    start.record(ctx);
    graph.launch();
    stop.record(ctx);
    if (i >= 2) times.push_back(stop.since(start) / sets);  // two rounds to warm up
  }
  std::nth_element(times.begin(), times.begin() + options.timings / 2, times.end());
  return times[static_cast<size_t>(options.timings / 2)];
}

// Fills a contiguous f32 or bf16 tensor with normal numbers: a few million of them, over and over.
inline void fill_random(Context& ctx, const Tensor& t, double scale = 1.0) {
  constexpr int64_t kPeriod = (1 << 20) + 7;  // odd, so that rows differ
  std::vector<float> values(static_cast<size_t>(kPeriod));
  uint64_t state = 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(t.numel());
  for (float& v : values) {
    float sum = 0;  // of four uniform numbers: close enough to normal
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      sum += static_cast<float>(state >> 40) * 0x1p-24F - 0.5F;
    }
    v = sum * 1.732F * static_cast<float>(scale);
  }
  const Tensor block = Tensor::from_floats(ctx, values, {kPeriod}, t.dtype());
  const Tensor flat = t.reshape({t.numel()});
  for (int64_t done = 0; done < t.numel(); done += kPeriod) {
    const int64_t count = std::min(kPeriod, t.numel() - done);
    flat.slice_rows(done, done + count).copy_from(ctx, block.slice_rows(0, count));
  }
}

}  // namespace matvlm::bench
